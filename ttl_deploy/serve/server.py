"""Starts the web server on its own thread and stops it so that requests under way are answered first."""

from __future__ import annotations

import importlib.util
import logging
import signal
import socket
import threading
import time
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Self

from ttl_deploy import hardware
from ttl_deploy.errors import BadInputError, MissingDependencyError
from ttl_deploy.serve.app import Application
from ttl_deploy.serve.gate import Gate, Limits
from ttl_deploy.serve.model import ServedModel

_CONNECTIONS = 512
"""Open connections above which uvicorn answers 503 itself; idle ones cost a few kilobytes each."""


class Server:
    """A model on a port, in `with`; the port is bound when it is made, requests are answered inside the block.

    Args:
        model: Who answers.
        host: Address to listen on.
        port: TCP port; 0: any that is free.
        limits: What a client may ask for.
        grace: Seconds that requests under way get when the server stops.

    Attributes:
        url: Where the server is.

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
        limits: Limits | None = None,
        grace: float = 10.0,
    ) -> None:
        refuse_without_packages()
        import uvicorn

        self._gate = Gate(limits or Limits(), workers=model.sessions + hardware.usable_cores())
        self._application = Application(model, self._gate)
        self._socket = _bind(host, port)
        address = self._socket.getsockname()
        self.url = f"http://{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}"
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        config = uvicorn.Config(
            self._application.build(),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=10,
            timeout_graceful_shutdown=max(1, round(grace)),
            limit_concurrency=_CONNECTIONS,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        # Off the main thread uvicorn installs no signal handlers of its own, which would kill the process at the end.
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, name="serve")

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join()
        self._gate.close()
        self._socket.close()

    def stop(self) -> None:
        """Takes no new requests and lets those under way finish; a second call does not wait for them."""
        self._application.ready = False
        self._server.force_exit = self._server.should_exit
        self._server.should_exit = True

    def wait(self) -> None:
        """Returns when the server stopped by itself or SIGTERM or SIGINT came; call it on the main thread."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while self._thread.is_alive() and not self._server.should_exit:
                self._thread.join(0.2)
            self._thread.join()
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
