"""SIGTERM ends a command as Ctrl-C does: a KeyboardInterrupt, so that what the one leaves the other leaves.

The first signal lets the command put its files in order; the second ends the process at once. So does the first where a
library is just being loaded: one that is stopped half way may leave native code in a state that crashes the process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_ONE_CALL_S = 1.0
"""Seconds in which signals count as one: `timeout` sends its own to the process and once more to the group."""


_AGAIN_S = 0.05
"""Seconds until an interruption that was swallowed is raised once more: the finaliser it met is over by then."""


class _Came:
    """The first signal, when it came on the monotonic clock, and whether what it raised was swallowed."""

    number: int | None = None
    at = 0.0
    lost = False


@contextmanager
def by_signals(line: Callable[[], str]) -> Iterator[None]:
    """Raises `KeyboardInterrupt` at SIGINT and SIGTERM in the block; after it both end the process without a word.

    A signal that who started the process had it ignore, as `nohup` and a shell's `&` do, stays ignored.

    Args:
        line: What to say where the process ends at once, in the middle of an import.
    """
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = _Came.number is not None and not _Came.lost
        if os.getpid() != owner or (again and now - _Came.at > _ONE_CALL_S):
            _end_by(number)
        if not again:
            _Came.number, _Came.at, _Came.lost = number, now, False
            if _imports(frame):
                os.write(2, f"{line()}\n".encode(errors="backslashreplace"))
                os._exit(exit_code())
            raise KeyboardInterrupt

    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in heard:
        signal.signal(number, stop)
    before, sys.unraisablehook = sys.unraisablehook, _raise_again
    try:
        yield
    finally:
        sys.unraisablehook = before
        for number in heard:
            signal.signal(number, signal.SIG_DFL)


def _raise_again(lost: sys.UnraisableHookArgs) -> None:
    """Sends the signal anew where Python swallowed the interruption, as it does in a finaliser or a C callback."""
    if not (came() and isinstance(lost.exc_value, KeyboardInterrupt)):
        sys.__unraisablehook__(lost)
        return
    _Came.lost = True
    timer = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), _Came.number))
    timer.daemon = True
    timer.start()


def _imports(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib._bootstrap"):
            return True
        frame = frame.f_back
    return False


def came() -> bool:
    """Whether a signal asked the command to end."""
    return _Came.number is not None


def how() -> str:
    """What ended the command, in words."""
    return "ended by SIGTERM" if _Came.number == signal.SIGTERM else "interrupted"


def exit_code() -> int:
    """128 and the number of the signal that came; SIGINT where none was seen."""
    return 128 + (_Came.number or signal.SIGINT)


def _end_by(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
