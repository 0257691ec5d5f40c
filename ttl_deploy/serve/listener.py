"""The loop that accepts connections: uvicorn's protocol behind a lobby, and an end that comes within the grace."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

from ttl_deploy.serve.connection import Connection, Lobby

_LOG = logging.getLogger("ttl_deploy.serve")

_KEEP_ALIVE_S = 10
"""Seconds that an idle connection stays open."""
_TLS_END_S = 1.0
"""Seconds for a client to confirm the end of its encrypted connection."""
_POLL_S = 0.05
_AFTER_GRACE_S = 0.2
"""Seconds for the refusals at the end of the grace to get out."""


class Listener:
    """Accepts on a bound socket until it is stopped.

    Args:
        application: The ASGI application.
        listening: A bound socket.
        lobby: The open connections.
        tls: Encrypts; None: plain HTTP.
        drain: Is told the grace, seconds, when the end begins; answers what waits by then.
    """

    def __init__(
        self,
        application: Any,
        listening: socket.socket,
        lobby: Lobby,
        *,
        tls: ssl.SSLContext | None,
        drain: Callable[[float], None],
    ) -> None:
        self._application = application
        self._socket = listening
        self._lobby = lobby
        self._tls = tls
        self._drain = drain

    async def run(self, started: Callable[[], None], ending: asyncio.Event, grace: Callable[[], float]) -> None:
        """Serves until `ending` is set, and then for as long as requests are under way, at most `grace()` seconds.

        Args:
            started: Is called when connections are accepted.
            ending: Set on the loop's thread.
            grace: Seconds that are left to requests under way; asked again and again.
        """
        from uvicorn.config import Config
        from uvicorn.protocols.http.h11_impl import H11Protocol
        from uvicorn.server import ServerState

        loop, state = asyncio.get_running_loop(), ServerState()
        loop.set_exception_handler(_log_one_line)
        config = Config(
            self._application,
            log_config=None,
            access_log=False,
            lifespan="off",
            interface="asgi3",
            ws="none",
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        config.load()
        server = await loop.create_server(
            lambda: Connection(H11Protocol(config, state, {}, loop), self._lobby),
            sock=self._socket,
            backlog=config.backlog,
            ssl=self._tls,
            ssl_handshake_timeout=self._lobby.patience.headers if self._tls else None,
            ssl_shutdown_timeout=_TLS_END_S if self._tls else None,
        )
        started()
        await _until(ending, state)
        server.close()
        await self._finish(state, grace)

    async def _finish(self, state: Any, grace: Callable[[], float]) -> None:
        while self._lobby and grace() > -_AFTER_GRACE_S:
            self._lobby.close()  # again and again: one that was just accepted comes late
            self._drain(grace())
            await asyncio.sleep(_POLL_S)
        self._lobby.abort()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=_AFTER_GRACE_S)


async def _until(ending: asyncio.Event, state: Any) -> None:
    """Waits for the end, and keeps the date in the answers' headers right."""
    while not ending.is_set():
        state.default_headers = [(b"date", email.utils.formatdate(usegmt=True).encode())]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), 1)


def _log_one_line(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    reason = f": {type(error).__name__} {error}" if error is not None else ""
    _LOG.error("%s", " ".join(f"{context.get('message', 'the server stumbled')}{reason}".split())[:300])
