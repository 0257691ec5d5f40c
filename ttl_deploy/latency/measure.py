"""Times one session in this process: warm-up until stable, then one monotonic clock reading around every run.

A measurement keeps its raw samples, and every statistic is derived from them; what they are too few to tell is None.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import hardware
from ttl_deploy.latency.machine import MachineState, Watch
from ttl_deploy.latency.noise import judge
from ttl_deploy.latency.open_loop import ServerResult, merge_servers, percentile
from ttl_deploy.runtime import Session, Stages
from ttl_deploy.spec import Record

Clock = Callable[[], int]
"""Nanoseconds from a clock that never goes back."""

_WINDOW = 10
_STABLE = 0.05
_WARMUP_AT_LEAST_S = 0.2


class StageSamples(Record):
    """Where the time of every sample went on a GPU, by CUDA events, milliseconds; as long as the samples.

    The rest of a sample is the host's: checks, launches and waiting.

    Attributes:
        to_device_ms: Copy of the batch from host memory.
        compute_ms: The network.
        to_host_ms: Copy of the logits to host memory.
    """

    to_device_ms: tuple[float, ...]
    compute_ms: tuple[float, ...]
    to_host_ms: tuple[float, ...]


class Measurement(Record):
    """The latency of one session at one batch size and thread count.

    A sample is the time of `Session.run`: from a float32 batch in host memory to its logits in host memory, checks
    and, on a GPU, both transfers included; preprocessing is not.

    Attributes:
        label: What was measured.
        runtime: Name of the engine.
        device: `cpu` or `cuda`.
        precision: Of the artifact.
        batch: Images per run.
        threads: Threads per run.
        warmup_runs: Runs before the first sample, all rounds together.
        warm: Whether the warm-up ended because the times were stable, in every round.
        samples_ms: Every sample, milliseconds, in order.
        rounds: How many of the samples come from each round, a process of its own.
        mean_ms: Mean.
        std_ms: Standard deviation (n - 1); None for one sample.
        p50_ms: Median. A percentile p is None unless there are 10/(1-p) samples, that is ten beyond it: 20 for the
            median, 100 for p90, 200 for p95, 1000 for p99.
        p90_ms: 90th percentile.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
        throughput: Images per second: all images by the sum of the samples; of the server scenario, whose samples
            overlap while they wait, the images answered by the time from the first arrival to the last answer.
        peak_rss_mib: Most memory the process ever held in RAM, MiB, Python and libraries included.
        cold_start_s: Seconds from the call that loads the model to the end of its first run, the engine's import
            included, Python's own start not; the median of the rounds.
        hardware: The machine, as `ttl_deploy.hardware` describes it.
        libraries: Versions of the libraries.
        started: UTC time of the first run, ISO 8601.
        scenario: `single-stream`, `offline` or `server`, as MLPerf Inference names them.
        stages: Transfers and computation apart, for every sample; None where the engine does not tell.
        cuda_graph: Whether a captured CUDA graph was replayed; None where there is no such thing.
        peak_device_mib: Most GPU memory of the process, MiB, as the engine's allocator or else the driver counts it;
            None without a GPU.
        machine: State of the machine during each round.
        noise: Why the samples are too disturbed to give a number (`ttl_deploy.latency.noise`); None where they are not.
        server: The queue's side of the server scenario.
    """

    label: str
    runtime: str
    device: str
    precision: str
    batch: int
    threads: int
    warmup_runs: int
    warm: bool
    samples_ms: tuple[float, ...]
    rounds: tuple[int, ...]
    mean_ms: float
    std_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    throughput: float
    peak_rss_mib: float
    cold_start_s: float | None
    hardware: dict[str, Any]
    libraries: dict[str, str]
    started: str
    scenario: str = "single-stream"
    stages: StageSamples | None = None
    cuda_graph: bool | None = None
    peak_device_mib: float | None = None
    machine: tuple[MachineState, ...] = ()
    noise: str | None = None
    server: ServerResult | None = None

    @property
    def inconclusive(self) -> bool:
        """Whether the machine was too disturbed for a number."""
        return self.noise is not None

    @property
    def steady_ms(self) -> tuple[float, ...]:
        """The times that should not drift: the samples, or a queue's times in the network, without the waiting."""
        return self.samples_ms if self.server is None else self.server.service_ms

    @property
    def typical_ms(self) -> float:
        """The median, or the mean where samples are too few for it."""
        return self.mean_ms if self.p50_ms is None else self.p50_ms


def measure_session(
    session: Session,
    batch: NDArray[Any],
    *,
    label: str,
    precision: str,
    min_samples: int = 50,
    min_seconds: float = 2.0,
    max_seconds: float = 20.0,
    warmup_seconds: float = 5.0,
    warmup_runs: int | None = None,
    cold_start_s: float | None = None,
    scenario: str = "single-stream",
    draw: Callable[[], NDArray[np.float32]] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> Measurement:
    """Measures a session in this process.

    Args:
        session: What is measured; stays open.
        batch: (N, *input_shape) of the session's input type, the same for every run.
        label: What to call it.
        precision: Of the model.
        min_samples: Samples are taken until there are this many and `min_seconds` have passed, ...
        min_seconds: ... whichever comes later ...
        max_seconds: ... but no run begins after this time. There is always one sample.
        warmup_seconds: No warm-up run begins after this time.
        warmup_runs: So many warm-up runs instead, and no check whether they were stable.
        cold_start_s: Seconds that loading and the first run took, if the caller knows.
        scenario: Name of the scenario.
        draw: Gives each run's batch, within its time; None: `batch`.
        clock: Nanoseconds.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    stages: list[Stages | None] = []

    def once() -> float:
        begin = clock()
        session.run(batch if draw is None else draw())
        elapsed = (clock() - begin) / 1e6
        stages.append(session.stages())
        return elapsed

    if warmup_runs is None:
        runs, warm = _warm_up(once, warmup_seconds, clock)
    else:
        runs, warm = len([once() for _ in range(warmup_runs)]), True
    watch = Watch()
    stages.clear()
    samples = _sample(once, min_samples, min_seconds, max_seconds, clock)
    machine = watch.stop(gpu=session.device == "cuda")
    return summarise(
        session,
        samples,
        batch=len(batch),
        label=label,
        precision=precision,
        warmup_runs=runs,
        warm=warm,
        machine=machine,
        cold_start_s=cold_start_s,
        started=started,
        scenario=scenario,
        stages=_stage_samples(stages),
    )


def summarise(
    session: Session,
    samples: Sequence[float],
    *,
    batch: int,
    warm: bool,
    machine: MachineState,
    server: ServerResult | None = None,
    **fields: Any,
) -> Measurement:
    """The measurement of one round.

    Args:
        session: What was measured.
        samples: Milliseconds.
        batch: Images per sample.
        warm: Whether the warm-up became stable.
        machine: State of the machine meanwhile.
        server: The queue's side, where the samples are latencies with waiting.
        fields: The fields of `Measurement` that only the caller knows.
    """
    device_mib = session.peak_device_mib()
    if device_mib is None and session.device == "cuda":
        device_mib = hardware.process_gpu_mib()
    return Measurement(
        runtime=session.runtime,
        device=session.device,
        batch=batch,
        threads=session.threads,
        warm=warm,
        rounds=(len(samples),),
        **statistics(samples, batch, server),
        peak_rss_mib=round(peak_rss_mib(), 1),
        hardware=hardware.describe().as_dict(),
        libraries=hardware.library_versions(),
        cuda_graph=session.cuda_graph,
        peak_device_mib=device_mib,
        machine=(machine,),
        noise=judge([server.service_ms if server else samples], [machine], session.threads, warm=warm),
        server=server,
        **fields,
    )


def merge(rounds: Sequence[Measurement]) -> Measurement:
    """One measurement from rounds of the same thing: the samples of all, and the statistics of those.

    Raises:
        ValueError: There is no round, or two differ in what they measured (of a server, in the rate offered).
    """
    identities = {(m.label, m.runtime, m.device, m.precision, m.batch, m.threads, m.scenario) for m in rounds}
    if len(identities) != 1:
        raise ValueError(f"rounds of one measurement cannot be merged from {sorted(identities)}")
    samples = [sample for part in rounds for sample in part.samples_ms]
    starts = [part.cold_start_s for part in rounds if part.cold_start_s is not None]
    device = [part.peak_device_mib for part in rounds if part.peak_device_mib is not None]
    machine = tuple(state for part in rounds for state in part.machine)
    warm = all(part.warm for part in rounds)
    server = merge_servers([part.server for part in rounds if part.server is not None], samples)
    return rounds[0].model_copy(
        update={
            **statistics(samples, rounds[0].batch, server),
            "server": server,
            "rounds": tuple(count for part in rounds for count in part.rounds),
            "warmup_runs": sum(part.warmup_runs for part in rounds),
            "warm": warm,
            "peak_rss_mib": max(part.peak_rss_mib for part in rounds),
            "peak_device_mib": max(device, default=None),
            "cold_start_s": median(starts) if starts else None,
            "stages": _merge_stages([part.stages for part in rounds]),
            "machine": machine,
            "noise": judge([part.steady_ms for part in rounds], machine, rounds[0].threads, warm=warm),
        }
    )


def statistics(samples_ms: Sequence[float], batch: int, server: ServerResult | None = None) -> dict[str, Any]:
    """The fields of a `Measurement` that follow from its samples.

    Args:
        samples_ms: At least one, milliseconds.
        batch: Images per sample.
        server: The queue's side: queries that wait at the same time are not served one after the other, so that their
            latencies do not add up to the time that passed.
    """
    mean = float(np.mean(samples_ms))
    per_second = server.completed_qps if server else 1000 / mean if mean > 0 else 0.0
    return {
        "samples_ms": tuple(samples_ms),
        "mean_ms": mean,
        "std_ms": float(np.std(samples_ms, ddof=1)) if len(samples_ms) > 1 else None,
        **{f"p{percent}_ms": percentile(samples_ms, percent) for percent in (50, 90, 95, 99)},
        "throughput": batch * per_second,
    }


def standard_batch(session: Session, images: int) -> NDArray[Any]:
    """Images like normalised ones, mean 0 and variance 1, or uniform pixels for 8-bit input; the same in every process.

    Args:
        session: Whose input.
        images: How many.

    Returns:
        (images, *input_shape) of the session's input type.
    """
    generator, shape = np.random.default_rng(0), (images, *session.input_shape)
    if session.input_type == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.standard_normal(shape, dtype=np.float32)


def peak_rss_mib() -> float:
    """Most memory this process ever held in RAM, MiB.

    `getrusage` is the second choice: on Linux its peak begins with that of the process that started this one.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


def _stage_samples(stages: Sequence[Stages | None]) -> StageSamples | None:
    known = [part for part in stages if part is not None]
    if not known or len(known) < len(stages):
        return None
    return StageSamples(
        to_device_ms=tuple(part.to_device_ms for part in known),
        compute_ms=tuple(part.compute_ms for part in known),
        to_host_ms=tuple(part.to_host_ms for part in known),
    )


def _merge_stages(rounds: Sequence[StageSamples | None]) -> StageSamples | None:
    known = [part for part in rounds if part is not None]
    if len(known) < len(rounds):
        return None
    return StageSamples(
        to_device_ms=tuple(value for part in known for value in part.to_device_ms),
        compute_ms=tuple(value for part in known for value in part.compute_ms),
        to_host_ms=tuple(value for part in known for value in part.to_host_ms),
    )


def _warm_up(once: Callable[[], float], seconds: float, clock: Clock) -> tuple[int, bool]:
    """Runs until the median of the last ten times is within 5 % of the ten before; how many runs, and whether it was.

    A fifth of a second passes in any case: processors need some of it to raise their clock.
    """
    begin, runs, times = clock(), 0, deque[float](maxlen=2 * _WINDOW)
    while True:
        times.append(once())
        runs += 1
        elapsed = (clock() - begin) / 1e9
        if elapsed >= _WARMUP_AT_LEAST_S and _stable(times):
            return runs, True
        if elapsed >= seconds:
            return runs, False


def _stable(times: Sequence[float]) -> bool:
    if len(times) < 2 * _WINDOW:
        return False
    before, now = median(list(times)[:_WINDOW]), median(list(times)[_WINDOW:])
    return abs(now - before) <= _STABLE * before


def _sample(
    once: Callable[[], float], min_samples: int, min_seconds: float, max_seconds: float, clock: Clock
) -> list[float]:
    begin, samples = clock(), [once()]
    while True:
        elapsed = (clock() - begin) / 1e9
        enough = len(samples) >= min_samples and elapsed >= min_seconds
        if enough or elapsed >= max_seconds:
            return samples
        samples.append(once())
