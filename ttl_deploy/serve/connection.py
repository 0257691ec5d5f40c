"""Open connections: each must say what it wants in time, and a newcomer always gets in.

uvicorn has no limit on the time that headers take, and answers 503 to everybody, health checks included, while too
many connections are open. Here a connection has `Patience.headers` seconds for each request line with its headers, and
in a full lobby the one that has been owed something for longest goes. A request that is complete is never thrown out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any


@dataclass(frozen=True)
class Patience:
    """How long a connection is waited for, seconds.

    Attributes:
        headers: From the connection, or the first byte of a later request, to the end of its headers.
        reading: For a client to take the last answer, once no other request comes.
    """

    headers: float = 10.0
    reading: float = 30.0


class Lobby:
    """The open connections.

    Args:
        most: Connections at the same time.
        patience: How long each is waited for.
    """

    def __init__(self, most: int, patience: Patience) -> None:
        self.most = most
        self.patience = patience
        self._open: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, newcomer: Connection) -> None:
        """Lets a connection in; if the lobby is full, another goes."""
        if len(self._open) >= self.most:
            self._make_room(newcomer)
        self._open.add(newcomer)

    def leave(self, connection: Connection) -> None:
        """Forgets a connection that has ended."""
        self._open.discard(connection)

    def close(self) -> None:
        """Ends idle connections, and the others after their answer."""
        for connection in list(self._open):
            connection.close()

    def abort(self) -> None:
        """Ends every connection at once."""
        for connection in list(self._open):
            connection.abort()

    def _make_room(self, newcomer: Connection) -> None:
        waiting = (connection for connection in self._open if not connection.is_busy)
        # Nobody is owed an answer by a lobby full of complete requests but those who are in it.
        min(waiting, key=Connection.claim, default=newcomer).abort()


class Connection(asyncio.Protocol):
    """One connection: uvicorn's own protocol, and a clock beside it.

    Args:
        inner: uvicorn's protocol, which parses the requests and writes the answers.
        lobby: Where the connection is counted.
    """

    def __init__(self, inner: Any, lobby: Lobby) -> None:
        self._inner = inner
        self._lobby = lobby
        self._clock: asyncio.TimerHandle | None = None
        self._since = time.monotonic()

    @property
    def is_busy(self) -> bool:
        """Whether a whole request waits for its answer."""
        return self._under_way() and not self._inner.cycle.more_body

    def claim(self) -> tuple[int, float]:
        """Its right to stay, least first: what owes headers, a body, or nothing; the oldest of each."""
        if self._clock is not None:
            return 0, self._since
        return 1 if self._under_way() else 2, self._since

    def close(self) -> None:
        """Ends the connection, after its answer if one is under way."""
        with contextlib.suppress(Exception):  # h11 refuses the closing of a connection that broke its rules
            self._inner.shutdown()
        if not self._under_way():
            self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._lobby.leave(self)
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts the clock for the first headers."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._inner.connection_made(transport)
        self._lobby.enter(self)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells uvicorn, which ends what works for this client."""
        self._stop_clock()
        self._lobby.leave(self)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hands bytes on; the clock runs while they are no request yet."""
        before = self._inner.cycle
        self._inner.data_received(data)
        if self._inner.cycle is not before or self._under_way():
            self._stop_clock()
        elif not self._transport.is_closing():
            self._start_clock()

    def eof_received(self) -> None:
        """Hands the end of the client's bytes on."""
        self._inner.eof_received()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._inner.resume_writing()

    def _under_way(self) -> bool:
        cycle = self._inner.cycle
        return cycle is not None and not cycle.response_complete

    def _start_clock(self) -> None:
        if self._clock is None:
            self._since = time.monotonic()
            self._clock = asyncio.get_running_loop().call_later(self._lobby.patience.headers, self._too_late)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        self._since = time.monotonic()

    def _too_late(self) -> None:
        """Answers 408, unless an answer has just gone out and only its body still dribbles in."""
        if self._inner.cycle is None and not self._transport.is_closing():
            self._transport.write(answer_408(self._lobby.patience.headers))
        self._transport.close()
        # A client that reads nothing would keep a connection that is being closed open for good.
        asyncio.get_running_loop().call_later(self._lobby.patience.reading, self._transport.abort)


def answer_408(seconds: float) -> bytes:
    """The whole answer to a client whose headers took longer than `seconds`."""
    body = json.dumps({"error": f"the headers did not arrive within {seconds:g} s"}).encode()
    status = HTTPStatus.REQUEST_TIMEOUT
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
