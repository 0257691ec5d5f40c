"""The process that measures one job: `python -m ttl_deploy.latency.worker` reads it as JSON on stdin.

The only thing on its stdout is the measurement as JSON; what libraries print goes to stderr. With `--blocks` it stays,
says when it is ready, and measures one block for every further line, so that two of them can take turns.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.artifact import open_artifact
from ttl_deploy.errors import BadInputError, TtlDeployError
from ttl_deploy.latency import server
from ttl_deploy.latency.isolate import Job, from_line, to_line
from ttl_deploy.latency.machine import Watch
from ttl_deploy.latency.measure import Measurement, measure_session, standard_batch, summarise
from ttl_deploy.latency.open_loop import LoadTrial, ServerResult, tail
from ttl_deploy.latency.persistent import READY, Block
from ttl_deploy.runtime import Session, load

POOL = 64
"""Images from which the offline and server scenarios draw: enough that a batch is not always in the cache."""

_SETTLE_RUNS = 3
"""Runs before each block but the first: the other process has had the caches meanwhile."""

_PROBE: dict[str, Any] = {"min_samples": 30, "min_seconds": 0.5, "max_seconds": 10.0}
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class _Open:
    """A job's session, its precision, and how long it took to its first answer."""

    session: Session
    precision: str
    cold_start_s: float


def main(arguments: list[str]) -> int:
    """Measures what stdin says; the exit code."""
    _end_with_parent()
    answer = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr  # its own buffer would come out after the error, whose line is to be the last
    with os.fdopen(answer, "w") as stream:
        try:
            if "--blocks" in arguments:
                _take_turns(stream)
            else:
                stream.write(to_line(measure(from_line(Job, sys.stdin.read()))))
        except TtlDeployError as error:
            sys.stderr.write(f"{error}\n")
            return error.exit_code
        except KeyboardInterrupt:
            return 130
    return 0


def measure(job: Job) -> Measurement:
    """Loads a job's session and measures it in this process.

    Raises:
        TtlDeployError: The artifact, the runtime or the loader cannot be used.
    """
    with _opened(job) as opened:
        if job.scenario.kind == "server":
            return _measure_server(job, opened)
        draw = _drawing(opened.session, job) if job.scenario.kind == "offline" else None
        # The offline scenario is over after its images, not after a time.
        calls = -(-job.scenario.count // job.batch)
        limits = (calls, 0.0, float("inf")) if draw else (job.min_samples, job.min_seconds, job.max_seconds)
        return measure_session(
            opened.session,
            standard_batch(opened.session, job.batch),
            label=job.label,
            precision=opened.precision,
            min_samples=limits[0],
            min_seconds=limits[1],
            max_seconds=limits[2],
            cold_start_s=opened.cold_start_s,
            scenario=job.scenario.kind,
            draw=draw,
        )


@contextlib.contextmanager
def _opened(job: Job) -> Iterator[_Open]:
    artifact = open_artifact(Path(job.artifact), trust=job.trust) if job.artifact is not None else None
    begin = time.perf_counter()
    session = load(artifact, job.placement) if artifact is not None else _call(job)
    loaded = time.perf_counter() - begin
    with session:
        batch = standard_batch(session, job.batch)
        begin = time.perf_counter()
        session.expect(job.batch)
        session.run(batch)
        cold_start = loaded + time.perf_counter() - begin
        yield _Open(session, artifact.manifest.precision if artifact is not None else job.precision, cold_start)


def _take_turns(stream: IO[str]) -> None:
    job = from_line(Job, sys.stdin.readline())
    with _opened(job) as opened:
        batch = standard_batch(opened.session, job.batch)
        _write_line(stream, READY)
        warmup_runs = None
        while line := sys.stdin.readline():
            block = from_line(Block, line)
            measured = measure_session(
                opened.session,
                batch,
                label=job.label,
                precision=opened.precision,
                min_samples=block.min_samples,
                min_seconds=block.min_seconds,
                max_seconds=block.max_seconds,
                warmup_runs=warmup_runs,
                cold_start_s=opened.cold_start_s,
            )
            warmup_runs = _SETTLE_RUNS
            _write_line(stream, to_line(measured))


def _measure_server(job: Job, opened: _Open) -> Measurement:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    session, draw = opened.session, _drawing(opened.session, job)
    probe = measure_session(session, draw(), label=job.label, precision=opened.precision, draw=draw, **_PROBE)
    trials = _search(job, session, draw, probe) if job.scenario.qps is None else []
    rate = job.scenario.qps or server.best(trials) or min(trial.qps for trial in trials)
    watch = Watch()
    answers = server.serve(lambda _: session.run(draw()), server.arrivals(rate, job.scenario.count, job.scenario.draws))
    return summarise(
        session,
        answers.latency_ms,
        batch=job.batch,
        machine=watch.stop(gpu=session.device == "cuda"),
        label=job.label,
        precision=opened.precision,
        warmup_runs=probe.warmup_runs + len(probe.samples_ms),
        warm=probe.warm,
        cold_start_s=opened.cold_start_s,
        started=started,
        scenario="server",
        server=_result(job, rate, answers, trials),
    )


def _search(job: Job, session: Session, draw: Callable[[], NDArray[np.float32]], probe: Measurement) -> list[LoadTrial]:
    """The trials of the search for the highest rate.

    Raises:
        BadInputError: A query alone takes longer than the bound, so that no rate can hold it.
    """
    bound = job.scenario.latency_bound or 0.0
    if probe.typical_ms > bound:
        raise BadInputError(
            f"no rate holds a latency bound of {bound:g} ms: a query alone takes {probe.typical_ms:.2f} ms",
            fix="raise --latency-bound",
        )

    def attempt(qps: float) -> tuple[float, ...]:
        times = server.arrivals(qps, job.scenario.count, job.scenario.draws)
        give_up = server.too_many_late(job.scenario.count, bound)
        return server.serve(lambda _: session.run(draw()), times, give_up=give_up).latency_ms

    return server.highest_rate(attempt, job.scenario.count, probe.mean_ms, bound)


def _result(job: Job, rate: float, answers: server.Answers, trials: list[LoadTrial]) -> ServerResult:
    bound = job.scenario.latency_bound or 0.0
    found = tail(answers.latency_ms, bound)
    return ServerResult(
        offered_qps=rate,
        completed_qps=len(answers.latency_ms) / answers.seconds,
        bound_ms=bound,
        percentile=found.percentile,
        tail_ms=found.ms,
        held=found.held,
        service_ms=answers.service_ms,
        utilisation=answers.utilisation,
        seed=job.scenario.draws,
        searched=job.scenario.qps is None,
        trials=tuple(trials),
        seconds=answers.seconds,
    )


def _drawing(session: Session, job: Job) -> Callable[[], NDArray[np.float32]]:
    """Gives batches drawn from a pool with replacement, the same ones for every job with this seed."""
    pool = standard_batch(session, POOL)
    generator = np.random.default_rng(job.scenario.draws)
    return lambda: pool[generator.integers(POOL, size=job.batch)]


def _call(job: Job) -> Session:
    module, _, function = (job.loader or "").partition(":")
    session = getattr(importlib.import_module(module), function)(job.argument, job.threads)
    if not isinstance(session, Session):
        raise BadInputError(f"gave {type(session).__name__}, not a Session", where=job.loader)
    return session


def _write_line(stream: IO[str], text: str) -> None:
    stream.write(text + "\n")
    stream.flush()


def _end_with_parent() -> None:
    """Asks Linux to end this process when the one that started it ends, even by SIGKILL: no worker is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
