"""Clients that are slow, silent or many: they wait for themselves and lock nobody out."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from ttl_deploy.serve.gate import Gate, Reply
from ttl_deploy.serve.model import ServedModel
from ttl_deploy.serve.request_error import RequestError
from ttl_deploy.serve.server import Server, allow_open_files
from ttl_deploy.spec import RequestLimits

Connect = Callable[..., socket.socket]

HALF = b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Slow: "
SLOW_BODY = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"


def get(server: Server, path: str) -> int:
    return httpx.get(server.url + path, timeout=120, trust_env=False).status_code


def ended(line: socket.socket) -> bool:
    """Whether the server has closed a connection, within seconds."""
    with contextlib.suppress(ConnectionError):
        while line.recv(65536):
            pass
    return True


class TestHeaders:
    @pytest.fixture(scope="class")
    @staticmethod
    def hasty(tiny: ServedModel) -> Iterator[Server]:
        with Server(tiny, port=0, limits=RequestLimits(header_timeout=0.3, timeout=60.0)) as running:
            yield running

    def test_half_a_header_is_answered_408_and_the_connection_ends(self, hasty: Server, connect: Connect) -> None:
        line = connect(hasty, HALF)
        assert line.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert ended(line)

    def test_a_header_that_dribbles_in_gains_no_time(self, hasty: Server, connect: Connect) -> None:
        line, answer = connect(hasty, HALF), b""
        line.settimeout(0.1)
        for _ in range(600):
            try:
                answer += line.recv(4096)
                break
            except TimeoutError:
                line.sendall(b"a")
        assert answer.startswith(b"HTTP/1.1 408 ")

    def test_a_silent_connection_ends(self, hasty: Server, connect: Connect) -> None:
        assert ended(connect(hasty))

    def test_half_a_header_after_a_whole_request_ends_the_connection(self, hasty: Server, connect: Connect) -> None:
        line = connect(hasty, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in line.recv(4096)
        line.sendall(HALF)
        assert ended(line)

    def test_a_slow_request_after_another_is_no_half_header(self, hasty: Server, png: bytes) -> None:
        """An idle connection is not cut off by the clock of its last headers."""
        with httpx.Client(base_url=hasty.url, timeout=120, trust_env=False) as client:
            for _ in range(3):
                assert client.post("/predict", content=png).status_code == 200
                time.sleep(0.4)


def test_hundreds_of_half_headers_lock_nobody_out(tiny: ServedModel, connect: Connect, png: bytes) -> None:
    """More than the server takes at once, and long before their time is over."""
    allow_open_files()
    with Server(tiny, port=0, limits=RequestLimits(header_timeout=60, max_concurrency=4)) as server:
        for _ in range(600):
            connect(server, HALF)
        assert get(server, "/v2/health/live") == get(server, "/v2/health/ready") == get(server, "/metrics") == 200
        assert httpx.post(f"{server.url}/predict", content=png, timeout=120, trust_env=False).status_code == 200


def test_slow_bodies_take_no_place(tiny: ServedModel, connect: Connect, png: bytes) -> None:
    with Server(tiny, port=0, limits=RequestLimits(max_concurrency=2)) as server:
        for _ in range(32):
            connect(server, SLOW_BODY)
        assert "ttl_deploy_in_flight 0.0" in httpx.get(f"{server.url}/metrics", timeout=120, trust_env=False).text
        assert httpx.post(f"{server.url}/predict", content=png, timeout=120, trust_env=False).status_code == 200


def test_a_body_slower_than_its_rate_is_told_so_before_the_requests_time_is_over(
    tiny: ServedModel, connect: Connect
) -> None:
    with Server(tiny, port=0, limits=RequestLimits(timeout=60, body_patience=0.2, body_rate=1000)) as server:
        answer = connect(server, SLOW_BODY).recv(4096)
        assert answer.startswith(b"HTTP/1.1 408 ")


class TestGate:
    """The gate alone, on a loop of its own."""

    @staticmethod
    def run(limits: RequestLimits, scene: Callable[[Gate], Any]) -> Any:
        gate = Gate(limits, workers=2)

        async def play() -> Any:
            return await scene(gate)

        try:
            return asyncio.run(play())
        finally:
            assert gate.close(120)

    def test_a_body_that_fills_the_memory_gives_way_to_one_that_comes(self) -> None:
        async def stuck() -> AsyncIterator[bytes]:
            yield bytes(1000)
            await asyncio.sleep(30)

        async def quick() -> AsyncIterator[bytes]:
            yield bytes(900)

        async def scene(gate: Gate) -> None:
            slow = [asyncio.create_task(gate.answer(None, stuck(), lambda body: Reply(body))) for _ in range(16)]
            await asyncio.sleep(0)
            reply = await gate.answer(None, quick(), lambda body: Reply(body))
            assert len(reply.body) == 900
            done, waiting = await asyncio.wait(slow, timeout=0.5)
            assert [getattr(task.exception(), "status", None) for task in done] == [503]
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

        self.run(RequestLimits(max_body_mib=0.001), scene)

    def test_what_bodies_hold_is_counted_down_to_nothing(self) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield bytes(1000)

        async def scene(gate: Gate) -> None:
            for _ in range(100):
                await gate.answer(None, body(), lambda body: Reply(body))

        self.run(RequestLimits(max_body_mib=0.001), scene)

    def test_a_client_that_ignores_retry_after_cannot_ask_at_full_speed(self) -> None:
        """The refusal takes its time, and no processor."""

        async def empty() -> AsyncIterator[bytes]:
            yield b""

        async def scene(gate: Gate) -> float:
            go = asyncio.Event()
            loop = asyncio.get_running_loop()

            def wait_for_it(_: bytes) -> Reply:
                asyncio.run_coroutine_threadsafe(go.wait(), loop).result(120)
                return Reply(b"")

            first = asyncio.create_task(gate.answer(None, empty(), wait_for_it))
            while gate.in_flight < 1:
                await asyncio.sleep(0)
            begin = time.monotonic()
            with pytest.raises(RequestError, match="too many requests"):
                await gate.answer(None, empty(), wait_for_it)
            took = time.monotonic() - begin
            go.set()
            await first
            return took

        assert self.run(RequestLimits(max_concurrency=1, refusal_delay=0.2), scene) >= 0.19

    def test_an_answer_nobody_waits_for_is_not_begun(self) -> None:
        begun = []

        async def empty() -> AsyncIterator[bytes]:
            yield b""

        def slow(_: bytes) -> Reply:
            begun.append(1)
            time.sleep(1.0)
            return Reply(b"")

        async def scene(gate: Gate) -> None:
            jobs = [gate.answer(None, empty(), slow) for _ in range(6)]
            answers = await asyncio.gather(*jobs, return_exceptions=True)
            assert {getattr(answer, "status", None) for answer in answers} == {504}

        self.run(RequestLimits(timeout=0.5), scene)
        assert len(begun) == 2


def test_thirty_two_clients_at_once_all_get_their_answer(tiny: ServedModel, png: bytes) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with (
        Server(tiny, port=0) as server,
        httpx.Client(base_url=server.url, timeout=120, trust_env=False, limits=httpx.Limits(max_connections=32)) as one,
        ThreadPoolExecutor(32) as pool,
    ):
        honest = tiny.of_images

        def slow(images: Any) -> Any:
            time.sleep(0.02)
            return honest(images)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiny, "of_images", slow)
            found = list(pool.map(lambda _: one.post("/predict", content=png).status_code, range(96)))
    assert found == [200] * 96
