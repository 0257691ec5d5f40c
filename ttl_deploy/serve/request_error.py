"""What a client did wrong, with the HTTP status that says so."""

from __future__ import annotations


class RequestError(Exception):
    """A request that is refused.

    Args:
        message: What is wrong with it, in one line.
        status: HTTP status, 4xx or 503.
        retry_after: Seconds after which the client may try again.
    """

    def __init__(self, message: str, status: int = 400, *, retry_after: int | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers of the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
