"""Between the network and the model: every request is bounded in size, time and number, and always gets an answer.

The model runs on threads. A thread cannot be stopped, so one that ran past its client's time keeps its place until it
is done, and new requests are told to come back later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ttl_deploy.errors import TtlDeployError
from ttl_deploy.serve.request_error import RequestError

_LOG = logging.getLogger("ttl_deploy.serve")


@dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    Attributes:
        max_body: Bytes of a request's body.
        timeout: Seconds from the first byte to the answer.
        max_concurrency: Requests answered or waiting at the same time.
    """

    max_body: int = 32 * 2**20
    timeout: float = 30.0
    max_concurrency: int = 16


@dataclass(frozen=True)
class Reply:
    """An answer on its way out."""

    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] | None = None


class Gate:
    """Lets requests through to the worker threads, as many and as long as the limits allow.

    Args:
        limits: The limits.
        workers: Threads that answer.
    """

    def __init__(self, limits: Limits, workers: int) -> None:
        self.limits = limits
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="answer")
        self._requests = 0
        self._jobs = 0

    @property
    def in_flight(self) -> int:
        """Requests being answered, and answers that nobody waits for any more."""
        return max(self._requests, self._jobs)

    async def answer(
        self, announced: str | None, stream: AsyncIterator[bytes], compute: Callable[[bytes], Reply]
    ) -> Reply:
        """Reads a body and computes its answer on a thread.

        Args:
            announced: Value of the header `Content-Length`, if it is there.
            stream: The body.
            compute: Gives the answer; runs on a thread.

        Raises:
            RequestError: A limit was reached (408, 413, 503, 504), or `compute` refuses the request.
        """
        if self.in_flight >= self.limits.max_concurrency:
            raise RequestError("too many requests at once; try again later", 503, retry_after=1)
        self._requests += 1
        end = time.monotonic() + self.limits.timeout
        try:
            body = await self._read(announced, stream)
            return await self._compute(compute, body, end)
        finally:
            self._requests -= 1

    def close(self) -> None:
        """Waits for the threads."""
        self._pool.shutdown()

    async def _read(self, announced: str | None, stream: AsyncIterator[bytes]) -> bytes:
        most = self.limits.max_body
        too_large = RequestError(f"the body is larger than the limit of {most:,} bytes", 413)
        if announced is not None and announced.isdigit() and int(announced[:18]) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.timeout):
                async for chunk in stream:
                    body += chunk
                    if len(body) > most:
                        raise too_large
        except TimeoutError as error:
            raise RequestError(f"the body did not arrive within {self.limits.timeout:g} s", 408) from error
        return bytes(body)

    async def _compute(self, compute: Callable[[bytes], Reply], body: bytes, end: float) -> Reply:
        job = asyncio.get_running_loop().run_in_executor(self._pool, _guarded, compute, body)
        self._jobs += 1
        job.add_done_callback(self._job_done)
        try:
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                return await asyncio.shield(job)
        except TimeoutError as error:
            raise RequestError(f"no answer within {self.limits.timeout:g} s", 504, retry_after=1) from error

    def _job_done(self, job: asyncio.Future[Reply]) -> None:
        self._jobs -= 1
        if not job.cancelled():
            job.exception()  # asked for, so that one nobody waits for is not reported as lost


def _guarded(compute: Callable[[bytes], Reply], body: bytes) -> Reply:
    """Whatever goes wrong on a thread becomes an answer; the server stays up."""
    try:
        return compute(body)
    except RequestError:
        raise
    except MemoryError as error:
        raise RequestError("out of memory; try again later", 503, retry_after=5) from error
    except TtlDeployError as error:
        _LOG.error("%s", error)
        raise RequestError("the model failed; see the server's log", 500) from error
    except Exception as error:
        _LOG.error("unforeseen %s: %s", type(error).__name__, " ".join(str(error).split())[:300])
        raise RequestError("internal error; see the server's log", 500) from error
