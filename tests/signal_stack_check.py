"""Whether this thread could still take a signal: its alternate stack is unset, or there and large enough.

Reads sigaltstack(2), getauxval(3) and /proc on its own, not through the package.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from pathlib import Path

ROOM = 8 * 1024
"""Bytes that a handler needs beyond the frame that the kernel writes."""

AMX_FRAME = 11_952
"""Bytes of a signal frame on a processor with AMX, the largest there is: AT_MINSIGSTKSZ on Intel's Sapphire Rapids."""

_AT_MINSIGSTKSZ = 51


class _Stack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> tuple[int, int] | None:
    """Address and size of the alternate stack; None where none is set."""
    if platform.system() != "Linux":
        return None
    stack = _Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return (stack.address, stack.size) if stack.address else None


def signal_frame() -> int:
    """Bytes that this processor's signal frame takes."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
    return getauxval(_AT_MINSIGSTKSZ) or 2048


def fault(stack: tuple[int, int] | None, frame: int) -> str | None:
    """Why a handler cannot run on the stack; None where it can.

    Args:
        stack: Of `signal_stack`, of this process.
        frame: Bytes of a signal frame.
    """
    if stack is None:
        return None
    address, size = stack
    if size < frame + ROOM:
        return f"the alternate signal stack has {size} bytes, a frame takes {frame}"
    if not any(begin <= address and address + size <= end for begin, end in _writable()):
        return f"the alternate signal stack at {address:#x} is no longer there"
    return None


def clear_signal_stack() -> None:
    """Takes the alternate stack away, so that one test's fault is not found again after the next."""
    disable = _Stack(None, 2, 0)
    ctypes.CDLL(None).sigaltstack(ctypes.byref(disable), None)


def _writable() -> Iterator[tuple[int, int]]:
    """Writable memory of this process; neighbouring mappings as one."""
    begin = end = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access = line.split()[:2]
        if not access.startswith("rw"):
            continue
        low, high = (int(bound, 16) for bound in span.split("-"))
        if low != end:
            yield begin, end
            begin = low
        end = high
    yield begin, end
