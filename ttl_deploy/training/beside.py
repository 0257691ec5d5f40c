"""Work beside the training: the files of an epoch are written while the next one is trained."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Beside:
    """One piece of work at a time, in a thread; what it raises is raised by the next call of either method."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="beside")
        self._pending: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begins a piece of work as soon as the one before it is done."""
        self.finish()
        self._pending = self._thread.submit(work)

    def finish(self) -> None:
        """Waits for the work that was begun."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
