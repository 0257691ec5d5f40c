"""Measures each session in a process of its own, so that engines share neither threads, memory nor caches.

A job is a record that crosses to the worker as JSON; rounds of several jobs are interleaved, so that a machine that
drifts drifts for all of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from ttl_deploy.errors import TtlDeployError
from ttl_deploy.latency.measure import Measurement, merge
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.runtime.base import default_threads
from ttl_deploy.spec import AnyRecord, PathText, Placement, Record, Scenario, Trust

# -P: without it, a file beside the user named like a library would be imported in its place.
WORKER = (sys.executable, "-P", "-m", "ttl_deploy.latency.worker")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

_PINNED = {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}
"""Threads that are free to move now and then share a core for seconds, which doubles the time of a small network."""


class Job(Record):
    """What to measure, and how long.

    Attributes:
        label: What to call it.
        artifact: Path of an artifact's folder; or else `loader`.
        placement: Where it runs; a loader finds its device in `argument`, and its engine is its own.
        trust: Whose artifact it may be.
        loader: `module:function`, called as `function(argument, threads)` and giving a `Session`.
        argument: What the loader gets, plain JSON types.
        precision: Of the loader's session; an artifact knows its own.
        batch: Images per run.
        min_samples: As in `measure_session`, all rounds together.
        min_seconds: Likewise.
        max_seconds: Likewise.
        timeout_s: Seconds after which a worker is stopped; for one that serves blocks, of each block.
        scenario: How images come to it.
    """

    label: str
    artifact: PathText | None = None
    placement: Placement = Placement()
    trust: Trust = Trust()
    loader: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$")
    argument: dict[str, Any] = Field(default_factory=dict)
    precision: str = "fp32"
    batch: int = Field(default=1, ge=1)
    min_samples: int = Field(default=50, ge=1)
    min_seconds: float = Field(default=2.0, ge=0)
    max_seconds: float = Field(default=20.0, gt=0)
    timeout_s: float = Field(default=600.0, gt=0)
    scenario: Scenario = Scenario()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.artifact is None) == (self.loader is None):
            raise ValueError("a job has either an artifact or a loader")
        return self

    @property
    def threads(self) -> int:
        """Threads per run: as many as are asked for, or one per physical core that may be used."""
        return self.placement.threads or default_threads()

    def on(self, **changes: Any) -> Self:
        """This job where some of its placement is another."""
        return self.model_copy(update={"placement": self.placement.replace(**changes)})


def to_line(record: Record) -> str:
    """A record as it goes to another process: one line of ASCII, whatever bytes its names of files hold."""
    return json.dumps(record.model_dump(mode="json"))


def from_line(kind: type[AnyRecord], line: str) -> AnyRecord:
    """The record in a line of `to_line`.

    Raises:
        ValueError: It holds no such record.
    """
    return kind.model_validate(json.loads(line))


def run_isolated(job: Job) -> Measurement:
    """Measures a job in a new process.

    Raises:
        TtlDeployError: The worker failed, was killed or took too long; the error carries its last line.
    """
    job = job.on(threads=job.threads)
    try:
        done = subprocess.run(
            WORKER,
            input=to_line(job),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=job.timeout_s,
            env=environment(job.threads, pinned=True),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TtlDeployError(f"measuring took longer than {job.timeout_s:g} s and was stopped", where=job.label) from (
            error
        )
    if done.returncode != 0:
        raise TtlDeployError(f"cannot be measured: {last_words(done.returncode, done.stderr)}", where=job.label)
    try:
        return from_line(Measurement, done.stdout)
    except ValueError as error:
        raise TtlDeployError("the measuring process gave no valid answer", where=job.label) from error


def run_all(jobs: Sequence[Job], *, rounds: int = 3, reporter: Reporter = SILENT) -> list[Measurement]:
    """Measures jobs in turn, several rounds (A B C A B C), each time in a new process.

    Args:
        jobs: What to measure.
        rounds: How often; a job's samples and seconds are shared out among its rounds.
        reporter: Told of every process.

    Returns:
        One measurement per job, the samples of its rounds merged, in the order of `jobs`. The server scenario has one
        round: a queue that is cut in pieces is another queue.

    Raises:
        TtlDeployError: A worker failed.
        ValueError: `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"there is at least 1 round, got {rounds}")
    parts: list[list[Measurement]] = [[] for _ in jobs]
    with reporter.task("measuring", rounds * len(jobs)) as advance:
        for _ in range(rounds):
            for job, measured in zip(jobs, parts, strict=True):
                if job.scenario.kind == "server" and measured:
                    continue
                measured.append(run_isolated(_share(job, rounds)))
                advance(1, job.label)
    return [merge(measured) for measured in parts]


def _share(job: Job, rounds: int) -> Job:
    if job.scenario.kind == "server":
        return job
    return job.model_copy(
        update={
            "min_samples": -(-job.min_samples // rounds),
            "min_seconds": job.min_seconds / rounds,
            "max_seconds": job.max_seconds / rounds,
            "scenario": job.scenario.part(rounds),
        }
    )


def environment(threads: int, *, pinned: bool = False) -> dict[str, str]:
    """This process's environment, its import path, and as many threads for every library that reads a variable.

    Args:
        threads: Threads.
        pinned: Give PyTorch's threads a core each, unless the environment says otherwise. For a process with one
            engine: the thread that loads a second one is held to its core by then, and so is all that engine starts.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    own = {"PYTHONPATH": path, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
    defaults = {
        # torch.compile otherwise keeps a pool of processes beside the one that is measured.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        **(_PINNED if pinned else {}),
    }
    return {**defaults, **os.environ, **own}


def last_words(returncode: int, stderr: str) -> str:
    """Why a worker ended, in one line: the signal, or the last line it wrote."""
    if returncode < 0:
        name = signal.Signals(-returncode).name
        return f"its process was ended by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    lines = [line for line in stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"its process ended with {returncode}"
