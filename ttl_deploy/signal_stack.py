"""The alternate stack on which this thread's signal handlers run, kept when a library would leave another.

Python's handlers run on the alternate stack (SA_ONSTACK), so a process whose stack is too small for the processor's
registers, or gone, dies at its next signal: for PyTorch's DataLoader that is the end of any child process.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of Linux; see sigaltstack(2)."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Puts this thread's alternate stack back as it was before the block.

    Where the kernel refuses that, because a library now uses registers (AMX) that the old stack cannot hold, the
    library's own larger stack stays. Nothing is done on other systems than Linux.
    """
    if platform.system() != "Linux":
        yield
        return
    sigaltstack = ctypes.CDLL(None).sigaltstack
    before = _Stack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(before), None)
