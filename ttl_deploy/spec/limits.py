"""What clients may ask of a server."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ttl_deploy.spec.record import Record


class RequestLimits(Record):
    """What a client may ask for.

    Attributes:
        max_body_mib: Also after it is decompressed.
        timeout: From the first byte of the body to the answer.
        max_concurrency: Their bodies complete.
        header_timeout: Seconds from a connection, or the first byte of a later request, to the end of its headers.
        body_patience: Seconds that a body may take beyond its size over `body_rate`.
        body_rate: Bytes per second that a body must come with.
        refusal_delay: Seconds before a client hears that there are too many. One that asks again at once, against
            `Retry-After`, would otherwise take the processor from those who are being answered.
    """

    max_body_mib: Annotated[float, Field(ge=0.001, le=4096, description="Largest body, MiB; larger: 413.")] = 32.0
    timeout: Annotated[
        float,
        Field(ge=0.01, le=86400, description="Seconds for one request; a slow body: 408, a slow answer: 504."),
    ] = 30.0
    max_concurrency: Annotated[
        int, Field(ge=1, description="Requests under way or waiting; more: 503 with Retry-After.")
    ] = 64
    header_timeout: float = 10.0
    body_patience: float = 5.0
    body_rate: float = 2**14
    refusal_delay: float = 0.25

    @property
    def max_body(self) -> int:
        """Bytes of a request's body."""
        return round(self.max_body_mib * 2**20)

    @property
    def max_held(self) -> int:
        """Bytes of all bodies in memory together."""
        return 16 * self.max_body
