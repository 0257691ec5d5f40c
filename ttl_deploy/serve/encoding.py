"""Decompression of request bodies (RFC 9110, 8.4), never to more bytes than allowed."""

from __future__ import annotations

import zlib

from ttl_deploy.serve.request_error import RequestError

IDENTITY = "identity"
_GZIP_BITS = 16 + zlib.MAX_WBITS
_MOST_MEMBERS = 16
"""Of a gzip file; each costs a copy of what follows it."""


def refuse_unknown(encoding: str) -> None:
    """Raises `RequestError` (415) for an encoding other than `gzip`, `deflate` and none."""
    if encoding not in (IDENTITY, "gzip", "deflate"):
        raise RequestError(f"content encoding {encoding!r:.40} is not supported; use gzip, deflate or none", 415)


def decoded(body: bytes, encoding: str, most: int) -> bytes:
    """A body as it was before it was compressed.

    Args:
        body: What came.
        encoding: `gzip`, `deflate` (in zlib's format, as the standard says, or raw, as some send) or `identity`.
        most: Bytes that it may become.

    Raises:
        RequestError: It is damaged, or becomes larger (413).
    """
    if encoding == IDENTITY:
        return body
    try:
        return _inflated(body, _window(body, encoding), most)
    except zlib.error as error:
        raise RequestError(f"the body is not valid {encoding}") from error


def _window(body: bytes, encoding: str) -> int:
    if encoding == "gzip":
        return _GZIP_BITS
    zlib_header = len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS


def _inflated(body: bytes, window: int, most: int) -> bytes:
    """All members one after the other, as gzip allows several."""
    found, rest = b"", body
    for _ in range(_MOST_MEMBERS):
        stream = zlib.decompressobj(window)
        found += stream.decompress(rest, most - len(found) + 1)
        if len(found) > most:
            raise RequestError(f"the decompressed body is larger than the limit of {most:,} bytes", 413)
        rest = stream.unused_data
        if not stream.eof or (rest and window != _GZIP_BITS):
            break
        if not rest:
            return found
    raise zlib.error("incomplete, or something follows")
