"""A worker that stays: it holds one session and measures a block whenever it is told to.

Two of them measure in turns without a restart in between, and never at the same time.
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
from typing import IO

from pydantic import Field

from ttl_deploy.closing import Closing
from ttl_deploy.errors import TtlDeployError
from ttl_deploy.latency.isolate import WORKER, Job, environment, from_line, last_words, to_line
from ttl_deploy.latency.measure import Measurement
from ttl_deploy.spec import Record

READY = "ready"
"""What the worker says when its session is loaded."""


class Block(Record):
    """How long one block is, as in `measure_session`."""

    min_samples: int = Field(default=10, ge=1)
    min_seconds: float = Field(default=0.5, ge=0)
    max_seconds: float = Field(default=10.0, gt=0)


class PersistentWorker(Closing):
    """A process that holds a job's session; use it in `with`, which ends it however the block is left.

    Args:
        job: What it measures; its own limits are those of a block without others.

    Raises:
        TtlDeployError: The session cannot be loaded; the error carries the worker's last line.
    """

    def __init__(self, job: Job) -> None:
        self.job = job.on(threads=job.threads)
        self._errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [*WORKER, "--blocks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment(self.job.threads, pinned=True),
        )
        try:
            if self._ask(self.job) != READY:
                raise TtlDeployError("the measuring process gave no valid answer", where=self.job.label)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def measure(self, block: Block) -> Measurement:
        """Measures one block.

        Raises:
            TtlDeployError: The worker failed, was killed or took longer than the job's timeout.
        """
        try:
            return from_line(Measurement, self._ask(block))
        except ValueError as error:
            raise TtlDeployError("the measuring process gave no valid answer", where=self.job.label) from error

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    def _ask(self, question: Record) -> str:
        """Writes a line and reads the answer's; a worker that ends or takes too long is told."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(self.job.timeout_s, stop)
        # An interruption in `start` itself must not leave a thread for whose end the program would wait.
        timer.daemon = True
        try:
            timer.start()
            stdin.write(to_line(question) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if late.is_set():
            raise TtlDeployError(
                f"measuring took longer than {self.job.timeout_s:g} s and was stopped", where=self.job.label
            )
        if not line.endswith("\n"):
            raise TtlDeployError(f"cannot be measured: {self._why()}", where=self.job.label)
        return line.rstrip("\n")

    def _why(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        return last_words(code, self._errors.read())
