"""Between the network and the model: every request is bounded in size, time and number, and always gets an answer.

A request takes a place only when its body is there, so that slow clients keep nobody out; what bodies hold in memory is
bounded apart from that. The model runs on threads. A thread cannot be stopped, so one that ran past its client's time
keeps its place until it is done, and new requests are told to come back later. When the server stops, what is not
answered within the grace is refused.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

from ttl_deploy.errors import TtlDeployError
from ttl_deploy.serve.request_error import RequestError
from ttl_deploy.spec import RequestLimits

_LOG = logging.getLogger("ttl_deploy.serve")


@dataclass(frozen=True)
class Reply:
    """An answer on its way out."""

    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] | None = None


@dataclass(eq=False)
class _Body:
    """A body in memory, and the clock it arrives by; None once it is there."""

    content: bytearray = field(default_factory=bytearray)
    clock: asyncio.Timeout | None = None
    counted: int = 0
    thrown_out: bool = False


class Gate:
    """Lets requests through to the worker threads, as many and as long as the limits allow.

    Args:
        limits: The limits.
        workers: Threads that answer.
        waited: Is told, on a thread, how many seconds a request waited for one.
    """

    def __init__(self, limits: RequestLimits, workers: int, waited: Callable[[float], object] = lambda _: None) -> None:
        self.limits = limits
        self._waited = waited
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="answer")
        self._requests = 0
        self._jobs: set[Future[Reply]] = set()
        self._refusals = 0
        self._bodies: dict[_Body, None] = {}
        self._held = 0
        self._clocks: set[asyncio.Timeout] = set()
        self._end = math.inf

    @property
    def in_flight(self) -> int:
        """Requests being answered, and answers that nobody waits for any more."""
        return max(self._requests, len(self._jobs))

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
        if self._is_full():
            await self._refuse()
        end = _now() + self.limits.timeout
        body = _Body()
        self._bodies[body] = None
        try:
            await self._read(body, announced, stream, end)
            if self._is_full():
                await self._refuse()
            return await self._compute(compute, body, end)
        finally:
            self._forget(body)

    def drain(self, grace: float) -> None:
        """Refuses with 503, after `grace` seconds, whatever is not answered by then; call it on the loop's thread."""
        self._end = min(self._end, _now() + grace)
        for clock in self._clocks:
            _bring_forward(clock, self._end)

    def close(self, patience: float) -> bool:
        """Drops what has not begun and waits for the threads.

        Args:
            patience: Seconds to wait at most.

        Returns:
            Whether every thread is done.
        """
        self._pool.shutdown(wait=False, cancel_futures=True)
        return not wait(list(self._jobs), patience).not_done

    def _is_full(self) -> bool:
        return self.in_flight >= self.limits.max_concurrency

    async def _refuse(self) -> None:
        """Says that there are too many, not at once; to those who come while many wait for that, at once."""
        if self._refusals < 2 * self.limits.max_concurrency:
            self._refusals += 1
            try:
                await asyncio.sleep(min(self.limits.refusal_delay, max(0.0, self._end - _now())))
            finally:
                self._refusals -= 1
        raise RequestError("too many requests at once; try again later", 503, retry_after=1)

    @contextmanager
    def _clock(self, clock: asyncio.Timeout) -> Iterator[asyncio.Timeout]:
        """Keeps a clock where `drain` finds it."""
        self._clocks.add(clock)
        try:
            yield clock
        finally:
            self._clocks.discard(clock)

    def _late(self, otherwise: RequestError) -> RequestError:
        """What to say when a clock has run out: that the server stops, or `otherwise`."""
        return RequestError("the server is stopping", 503, retry_after=5) if _now() >= self._end else otherwise

    async def _read(self, body: _Body, announced: str | None, stream: AsyncIterator[bytes], end: float) -> None:
        too_large = RequestError(f"the body is larger than the limit of {self.limits.max_body:,} bytes", 413)
        if announced is not None and announced.isdigit() and int(announced[:18]) > self.limits.max_body:
            raise too_large
        begin = _now()
        try:
            with self._clock(asyncio.timeout_at(self._body_end(begin, end, 0))) as body.clock:
                async with body.clock:
                    async for chunk in stream:
                        if body.thrown_out:
                            raise _too_much()
                        if len(body.content) + len(chunk) > self.limits.max_body:
                            raise too_large
                        self._hold(body, chunk)
                        body.clock.reschedule(self._body_end(begin, end, len(body.content)))
        except TimeoutError as error:
            if body.thrown_out:
                raise _too_much() from error
            slow = RequestError(f"the body did not arrive in time: {_now() - begin:.1f} s are too slow", 408)
            raise self._late(slow) from error
        finally:
            body.clock = None

    def _body_end(self, begin: float, end: float, arrived: int) -> float:
        """When a body of which so many bytes have arrived must have brought more."""
        return min(end, self._end, begin + self.limits.body_patience + arrived / self.limits.body_rate)

    def _hold(self, body: _Body, chunk: bytes) -> None:
        """Adds to a body; where all of them hold too much, the one that has been arriving for longest goes."""
        while self._held + len(chunk) > self.limits.max_held:
            oldest = next((other for other in self._bodies if other.clock is not None), body)
            if oldest is body or oldest.clock is None:
                raise _too_much()
            oldest.thrown_out = True
            _bring_forward(oldest.clock, _now())
            self._forget(oldest)
        body.content += chunk
        body.counted += len(chunk)
        self._held += len(chunk)

    def _forget(self, body: _Body) -> None:
        """The body's bytes are counted no longer; calling it twice does nothing more."""
        self._bodies.pop(body, None)
        self._held -= body.counted
        body.counted = 0

    async def _compute(self, compute: Callable[[bytes], Reply], body: _Body, end: float) -> Reply:
        self._requests += 1
        loop = asyncio.get_running_loop()
        job = self._pool.submit(self._run, compute, bytes(body.content), _now())
        body.content.clear()
        self._jobs.add(job)
        job.add_done_callback(lambda done: self._job_done(loop, done))
        try:
            with self._clock(asyncio.timeout_at(min(end, self._end))) as clock:
                async with clock:
                    return await asyncio.shield(_observed(job))
        except TimeoutError as error:
            job.cancel()  # does nothing once it runs
            late = RequestError(f"no answer within {self.limits.timeout:g} s", 504, retry_after=1)
            raise self._late(late) from error
        finally:
            self._requests -= 1

    def _run(self, compute: Callable[[bytes], Reply], content: bytes, since: float) -> Reply:
        self._waited(_now() - since)
        return _guarded(compute, content)

    def _job_done(self, loop: asyncio.AbstractEventLoop, job: Future[Reply]) -> None:
        """Runs on the job's thread; the loop may have ended before it."""
        if loop.is_closed():
            self._jobs.discard(job)
        else:
            loop.call_soon_threadsafe(self._jobs.discard, job)


def _now() -> float:
    """The clock of asyncio's loops."""
    return time.monotonic()


def _bring_forward(clock: asyncio.Timeout, when: float) -> None:
    """Lets a clock run out at `when`, if it would later."""
    if not clock.expired():
        clock.reschedule(min(when, clock.when() or when))


def _too_much() -> RequestError:
    return RequestError("the bodies of all requests together are too large; try again later", 503, retry_after=1)


def _observed(job: Future[Reply]) -> asyncio.Future[Reply]:
    """A job as a future of this loop; its error is asked for, so that one nobody waits for is not reported as lost."""
    future = asyncio.wrap_future(job)
    future.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    return future


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
