"""Python's collector of cyclic garbage, kept out of where it looks often and finds nothing."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Looks for no cyclic garbage meanwhile; a process in which nobody looks stays one."""
    looked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looked:
            gc.enable()
