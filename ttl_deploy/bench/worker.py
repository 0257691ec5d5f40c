"""The process that measures one job: `python -m ttl_deploy.bench.worker` reads it as JSON on stdin.

The only thing on its stdout is the measurement as JSON; what libraries print goes to stderr.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

from ttl_deploy.artifact import open_artifact
from ttl_deploy.bench.isolate import Job
from ttl_deploy.bench.measure import Measurement, measure_session, standard_batch
from ttl_deploy.errors import BadInputError, TtlDeployError
from ttl_deploy.runtime import Session, load
from ttl_deploy.runtime.base import default_threads


def main() -> int:
    """Measures the job on stdin; the exit code."""
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        measurement = measure(Job.model_validate_json(sys.stdin.read()))
    except TtlDeployError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    with os.fdopen(answer, "w") as stream:
        stream.write(measurement.model_dump_json())
    return 0


def measure(job: Job) -> Measurement:
    """Loads a job's session and measures it in this process.

    Raises:
        TtlDeployError: The artifact, the runtime or the loader cannot be used.
    """
    opened = open_artifact(Path(job.artifact)) if job.artifact is not None else None
    threads = job.threads or default_threads()
    begin = time.perf_counter()
    session = (
        load(opened, job.runtime, threads=threads, device=job.device) if opened is not None else _call(job, threads)
    )
    loaded = time.perf_counter() - begin
    with session:
        batch = standard_batch(session, job.batch)
        begin = time.perf_counter()
        session.run(batch)
        return measure_session(
            session,
            batch,
            label=job.label,
            precision=opened.manifest.precision if opened is not None else job.precision,
            min_samples=job.min_samples,
            min_seconds=job.min_seconds,
            max_seconds=job.max_seconds,
            cold_start_s=loaded + time.perf_counter() - begin,
        )


def _call(job: Job, threads: int) -> Session:
    module, _, function = (job.loader or "").partition(":")
    session = getattr(importlib.import_module(module), function)(job.argument, threads)
    if not isinstance(session, Session):
        raise BadInputError(f"gave {type(session).__name__}, not a Session", where=job.loader)
    return session


if __name__ == "__main__":
    sys.exit(main())
