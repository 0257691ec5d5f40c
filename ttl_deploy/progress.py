"""How long work tells what it is doing, without knowing who listens.

The command line passes a reporter that draws progress bars; the library's default says nothing. No room but
`cli` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[float, str], None]
"""Called with the steps done since the last call and a short status."""


class Reporter(Protocol):
    """Receives messages and the progress of long work."""

    def info(self, message: str) -> None:
        """Says something worth knowing."""

    def warn(self, message: str) -> None:
        """Says something that may make a result wrong or slow."""

    def task(self, description: str, total: float | None) -> AbstractContextManager[Advance]:
        """Opens a piece of work of `total` steps (None: unknown) and gives the function that advances it."""


class Silent:
    """The reporter that says nothing."""

    def info(self, message: str) -> None:
        """Ignores the message."""

    def warn(self, message: str) -> None:
        """Ignores the message."""

    @contextmanager
    def task(self, description: str, total: float | None) -> Iterator[Advance]:
        """Gives an `Advance` that does nothing."""
        yield lambda _steps, _status: None


SILENT: Reporter = Silent()
