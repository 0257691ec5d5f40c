"""Memory that a process frees and soon needs again, kept by the process meanwhile.

glibc returns every block of more than 32 MiB to the system when it is freed, and what is free at the end of its heap
(mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD). A network's features are such blocks: PyTorch on a CPU allocates them
anew in every layer of every batch, and the system zeroes and maps each page again, 4 KiB at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
"""Names of glibc's `malloc.h`."""

_ALL = 2**31 - 1
_MIB = 2**20
_AS_EVER = ((_M_MMAP_MAX, 65536), (_M_MMAP_THRESHOLD, 32 * _MIB), (_M_TRIM_THRESHOLD, 64 * _MIB))
"""What glibc comes to by itself in a process that frees large blocks; 32 MiB is the most that the second takes."""

_lock = threading.Lock()
_within = 0


@contextlib.contextmanager
def freed_memory_kept(on: bool = True) -> Iterator[None]:
    """Keeps what is freed within the block for what comes next, and returns it to the system at its end.

    The blocks of several threads, or one within another, are as one. Nothing is done where the C library is not
    glibc, or another allocator stands before it.

    Around many batches it is for work of which little remains between them: what remains lies among the large blocks
    and keeps those beside it from being joined, so that an analysis which keeps features of every layer took twice the
    memory. Such work has a block of its own for each batch.

    Args:
        on: Whether to, for a block that is on another device at other times.
    """
    global _within
    if not on:
        yield
        return
    with _lock:
        _within += 1
        if _within == 1:
            _set((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _ALL))
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if not _within:
                _set(*_AS_EVER)
                _call("malloc_trim", 0)


def steady_memory() -> None:
    """Lets this process keep most of the memory it frees, from now on, so that the same work takes the same time.

    glibc returns large blocks to the system at once or keeps them, by what was freed before. When it returns them,
    every array of some 100 kB is paid for again in page faults, and the same work takes up to 1.7 times as long.
    """
    _set((_M_MMAP_THRESHOLD, 32 * _MIB), (_M_TRIM_THRESHOLD, 512 * _MIB), (_M_TOP_PAD, 16 * _MIB))


def _set(*options: tuple[int, int]) -> None:
    for name, value in options:
        _call("mallopt", name, value)


def _call(name: str, *given: int) -> None:
    """A function of the C library that this process runs in; nothing where that has none."""
    # On Windows no library stands for the process: TypeError.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        getattr(ctypes.CDLL(None), name)(*given)
