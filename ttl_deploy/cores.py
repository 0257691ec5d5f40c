"""How many cores and threads are this process's own. Imports nothing: the command line asks it before all else."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Cores this process may run on, not what the board holds: affinity and a container's limits are counted.

    A share of processor time (`docker run --cpus 2`) counts as so many cores, rounded up: with a thread for each core
    of the board, all of them stand still when a tenth of a second's share is used up.
    """
    cores = _cores_of_affinity()
    return min(cores, max(1, math.ceil(min(_shares_of_time(), default=cores))))


def tell_openmp() -> None:
    """Tells OpenMP, and so PyTorch, of a container's share of time, which it does not see. Before it is imported."""
    if usable_cores() < _cores_of_affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def _cores_of_affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shares_of_time() -> Iterator[float]:
    """Processors' time, in seconds a second, that each of Linux's control groups above this process grants it."""
    with contextlib.suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            _number, controllers, name = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                root = _GROUPS / "cpu" if controllers else _GROUPS
                own = root / name.strip("/")
                # In a container its own group is the root, by whatever name the host knows it.
                yield from filter(None, map(_granted, (at for at in (own, *own.parents) if at.is_relative_to(root))))


def _granted(group: Path) -> float | None:
    """What a control group of version 2 or 1 grants; None: it limits nothing."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        # `max` and -1 stand for no limit.
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = map(int, " ".join((group / name).read_text() for name in names).split())
            return quota / period if quota > 0 else None
    return None


def usable_threads() -> int:
    """Threads that a computation takes by default: one per usable core, no more than `OMP_NUM_THREADS` says.

    PyTorch reads the variable by itself. Who sets it shares the cores with other work, and OpenMP's threads, which wait
    for each other by spinning, become many times slower than one where each does not find a core.
    """
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(usable_cores(), int(said)) if said.isdecimal() and int(said) else usable_cores()
