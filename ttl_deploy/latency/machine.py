"""What else the machine did during a measurement: load, other processes, stolen time, clocks, heat.

Counters of the operating system are read before and after; what the system does not show is None. Nothing is
changed and no privilege is needed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from ttl_deploy import hardware
from ttl_deploy.spec import Record

BUSY_SHARE = 0.1
"""Share of one core from which another process counts as busy."""

_CPUS = Path("/sys/devices/system/cpu")
_SLOWED = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits of NVIDIA's clock-event mask that mean that the GPU was held back by heat or power supply (NVML's
documentation of `nvmlClocksEventReasons`); idle, application clocks and the ordinary power cap are not among them."""


class GpuState(Record):
    """The first GPU at the end of a measurement, as its driver tells.

    Attributes:
        sm_mhz: Clock of the multiprocessors.
        memory_mhz: Clock of its memory.
        temperature_c: Degrees Celsius.
        reasons: NVIDIA's mask of reasons for the clock, as printed.
        slowed: The reasons that mean throttling, in words.
    """

    sm_mhz: float | None = None
    memory_mhz: float | None = None
    temperature_c: float | None = None
    reasons: str = ""
    slowed: tuple[str, ...] = ()


class MachineState(Record):
    """The machine during one round.

    Attributes:
        seconds: How long the round took.
        governor: Frequency governor of the first core.
        frequency_mhz: Mean clock of the cores at the end.
        load_before: Load average over one minute before.
        load_after: The same after; it includes the measurement itself.
        cores: Logical cores of the machine.
        others_cores: Processor time of everything but this process, in cores.
        busy_processes: Other processes that used more than a tenth of a core.
        steal_percent: Share of the cores' time that the hypervisor gave to other machines.
        throttled: Thermal throttling events of the cores.
        temperature_c: Hottest sensor at the end.
        gpu: The GPU, where one was measured.
    """

    seconds: float
    governor: str | None = None
    frequency_mhz: float | None = None
    load_before: float | None = None
    load_after: float | None = None
    cores: int = 1
    others_cores: float | None = None
    busy_processes: int | None = None
    steal_percent: float | None = None
    throttled: int | None = None
    temperature_c: float | None = None
    gpu: GpuState | None = None


class Watch:
    """Reads the counters when made, and says at `stop` what happened since."""

    def __init__(self) -> None:
        self._load = _load()
        self._processes = _process_times()
        self._throttled = _throttle_count()
        self._total, self._steal, self._idle = _cpu_seconds()
        self._own = time.process_time()
        self._begin = time.perf_counter()

    def stop(self, *, gpu: bool = False) -> MachineState:
        """The state since this watch was made; the watch may go on.

        Args:
            gpu: Ask the GPU's driver too.
        """
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        own = time.process_time() - self._own
        total, steal, idle = _cpu_seconds()
        throttled = _throttle_count()
        busy = (total - self._total) - (idle - self._idle) - (steal - self._steal)
        span = total - self._total
        return MachineState(
            seconds=round(seconds, 4),
            governor=_governor(),
            frequency_mhz=_frequency(),
            load_before=self._load,
            load_after=_load(),
            cores=psutil.cpu_count() or 1,
            others_cores=round(max(0.0, (busy - own) / seconds), 3),
            busy_processes=_busy(self._processes, seconds),
            steal_percent=round(100 * (steal - self._steal) / span, 2) if span > 0 else None,
            throttled=None if throttled is None or self._throttled is None else throttled - self._throttled,
            temperature_c=_temperature(),
            gpu=gpu_state() if gpu else None,
        )


def gpu_state() -> GpuState | None:
    """The first GPU now; None where no driver answers."""
    rows = hardware.query_gpus(
        "clocks.sm,clocks.mem,temperature.gpu,clocks_event_reasons.active"
    ) or hardware.query_gpus("clocks.sm,clocks.mem,temperature.gpu,clocks_throttle_reasons.active")
    if not rows or len(rows[0]) != 4:
        return None
    sm, memory, temperature, reasons = rows[0]
    mask = int(reasons, 16) if reasons.lower().startswith("0x") else 0
    return GpuState(
        sm_mhz=_number(sm),
        memory_mhz=_number(memory),
        temperature_c=_number(temperature),
        reasons=reasons,
        slowed=tuple(words for bit, words in _SLOWED.items() if mask & bit),
    )


def _cpu_seconds() -> tuple[float, float, float]:
    """Processor seconds of all cores since start-up: in total, stolen, idle."""
    times = psutil.cpu_times()
    steal, waiting = getattr(times, "steal", 0.0), getattr(times, "iowait", 0.0)
    # Guests' time is in user and nice already.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return sum(times) - guests, steal, times.idle + waiting


def _process_times() -> dict[tuple[int, float], float]:
    """Processor seconds of every other process, by its number and its start."""
    found = {}
    for process in psutil.process_iter(["pid", "create_time", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None and process.info["pid"] != os.getpid():
            found[process.info["pid"], process.info["create_time"]] = times.user + times.system
    return found


def _busy(before: dict[tuple[int, float], float], seconds: float) -> int:
    return sum(used - before.get(key, 0.0) > BUSY_SHARE * seconds for key, used in _process_times().items())


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _governor() -> str | None:
    path = _CPUS / "cpu0" / "cpufreq" / "scaling_governor"
    return path.read_text().strip() if path.exists() else None


def _frequency() -> float | None:
    try:
        found = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        return None
    return round(found.current, 1) if found else None


def _throttle_count() -> int | None:
    """Throttling events since start-up: every core's own, and the package's, which all of its cores tell, once."""
    counts = _numbers(_CPUS.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    counts += _numbers(_CPUS.glob("cpu0/thermal_throttle/package_throttle_count"))
    return int(sum(counts)) if counts else None


def _temperature() -> float | None:
    if not hasattr(psutil, "sensors_temperatures"):
        return None
    readings = [sensor.current for group in psutil.sensors_temperatures().values() for sensor in group]
    return max(readings, default=None)


def _numbers(paths: Iterable[Path]) -> list[float]:
    values = [_number(path.read_text()) for path in paths]
    return [value for value in values if value is not None]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
