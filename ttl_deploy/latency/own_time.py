"""A clock that stands still while other processes hold the cores.

On a shared machine most of a wall-clock time's noise is waiting for a core. Linux says per thread, to the nanosecond,
how long it waited in the run queue; what is left is the time the thread ran or slept of its own accord. A workload's
own waiting (a disk, a lock, a sleep) still counts, which processor time would hide.
"""

from __future__ import annotations

import os
import time

from ttl_deploy.closing import Closing

_WAITED = "/proc/thread-self/schedstat"
"""Three numbers: nanoseconds on a core, nanoseconds in the run queue, time slices (kernel, `sched-stats.rst`)."""


class OwnTime(Closing):
    """The clock of the thread that opened it; where the system does not tell, plain monotonic time.

    Attributes:
        counts_waiting: Whether time in the run queue is in the readings, as it is off Linux.
    """

    def __init__(self) -> None:
        self._file = _open_readable(_WAITED)
        self.counts_waiting = self._file is None

    def __call__(self) -> float:
        """Seconds since some moment."""
        if self._file is None:
            return time.perf_counter()
        waited = self._waited(self._file)
        while True:
            now, before = time.perf_counter(), waited
            waited = self._waited(self._file)
            # Preempted between the readings: they do not belong together, and the difference would be milliseconds.
            if waited == before:
                return now - waited / 1e9

    def close(self) -> None:
        """Closes the file; the clock then counts waiting."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @staticmethod
    def _waited(descriptor: int) -> int:
        return int(os.pread(descriptor, 96, 0).split()[1])


def _open_readable(path: str) -> int | None:
    """A descriptor, or None where the file is absent or the kernel keeps no such statistics (all zeros)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    fields = os.pread(descriptor, 96, 0).split()
    if len(fields) == 3 and int(fields[0]) > 0:
        return descriptor
    os.close(descriptor)
    return None
