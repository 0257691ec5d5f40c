"""Nobody waits for what is not used: names that are imported when first asked for, and imports that cost less."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def on_first_use(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package (PEP 562).

    Args:
        package: Its name.
        homes: The module inside it that has each name.
    """

    def found(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return found


_one_command = False


def end_with_one_command() -> None:
    """Says that this process ends with the command it was started for: what it imports is never gone through again.

    Not for a process that lives on, such as a user's own: garbage that is there after an import would stay, too.
    """
    global _one_command
    _one_command = True


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Looks for no cyclic garbage meanwhile: what modules make of themselves stays, and would be gone through often."""
    looked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _one_command:
            gc.freeze()
        if looked:
            gc.enable()
