"""Starts the web server on its own thread and stops it so that requests under way are answered first."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
import socket
import ssl
import threading
import time
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Self

from ttl_deploy.cores import usable_cores
from ttl_deploy.errors import BadInputError, MissingDependencyError
from ttl_deploy.serve.access import Token
from ttl_deploy.serve.app import Application
from ttl_deploy.serve.connection import Lobby, Patience
from ttl_deploy.serve.gate import Gate
from ttl_deploy.serve.listener import Listener
from ttl_deploy.serve.model import ServedModel
from ttl_deploy.spec import RequestLimits

_CONNECTIONS = 512
"""Connections beyond those that have a place or hear that there is none; idle ones cost a few kilobytes each."""
_OPEN_FILES = 65_536
_LAST_WORK_S = 0.25
"""For the threads to end, once their answers are refused and their decoders gone."""


class Server:
    """A model on a port, in `with`; the port is bound when it is made, requests are answered inside the block.

    Args:
        model: Who answers.
        host: Address to listen on.
        port: TCP port; 0: any that is free.
        limits: What a client may ask for.
        grace: Seconds that requests under way get when the server stops.
        token: What every request but those for health must carry; None: nothing.
        tls: Encrypts the connections; None: plain HTTP.

    Attributes:
        url: Where the server is.
        has_abandoned: After the end: whether an engine still computes an answer that nobody waits for.

    Raises:
        MissingDependencyError: The extra `serve` is not installed.
        BadInputError: The address cannot be used.
    """

    def __init__(
        self,
        model: ServedModel,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        limits: RequestLimits = RequestLimits(),
        grace: float = 10.0,
        token: Token | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        refuse_without_packages()
        self._model = model
        self._grace = grace
        self._limits = limits
        workers = model.sessions + usable_cores()
        self._gate = Gate(self._limits, workers, lambda seconds: model.statistics.record("queue", seconds))
        self._application = Application(model, self._gate, token)
        self._socket = _bind(host, port)
        address = self._socket.getsockname()
        place = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"{'https' if tls else 'http'}://{place}:{address[1]}"
        self.has_abandoned = False
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what it tells of clients is told to them
        lobby = Lobby(
            _CONNECTIONS + 3 * self._limits.max_concurrency,
            Patience(self._limits.header_timeout, self._limits.timeout),
        )
        self._listener = Listener(self._application.build(), self._socket, lobby, tls=tls, drain=self._gate.drain)
        self._stops = 0
        self._end = 0.0
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="serve")

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._started.wait(0.05) and self._thread.is_alive():
            pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._stops:
            self.stop()
        self._thread.join()
        self._end_work()
        self._socket.close()

    def stop(self) -> None:
        """Takes no new requests and lets those under way finish; a second call does not wait for them."""
        self._application.ready = False
        self._end = time.monotonic() + (0 if self._stops else self._grace)
        self._stops += 1
        if self._loop is not None and self._ending is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ending.set)

    async def _run(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        await self._listener.run(self._started.set, self._ending, lambda: self._end - time.monotonic())

    def _end_work(self) -> None:
        end = time.monotonic() + _LAST_WORK_S
        while not self._gate.close(0.05) and time.monotonic() < end:
            self._model.interrupt()
        self.has_abandoned = not self._gate.close(0)

    def wait(self) -> None:
        """Returns when the server stopped by itself or SIGTERM or SIGINT came; call it on the main thread."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while self._thread.is_alive():
                self._thread.join(0.1)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stop()


def refuse_without_packages() -> None:
    """Raises `MissingDependencyError` where the extra `serve` is not installed."""
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(f"{package} is not installed", fix="pip install 'ttl-deploy[serve]'")


def allow_open_files() -> None:
    """Lets this process have as many files, connections among them, as the system allows; the usual is 1,024."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as undo:
            listening = undo.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            undo.pop_all()
            return listening
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInputError(
            f"cannot listen: {reason.lower()}", where=f"{host}:{port}", fix="choose another --host or --port"
        ) from error
