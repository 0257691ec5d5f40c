"""The one file of a `multipart/form-data` body (RFC 7578), as `curl -F image=@scan.png` and browsers send it."""

from __future__ import annotations

from email.message import Message
from email.parser import BytesHeaderParser

from ttl_deploy.serve.request_error import RequestError

_MOST_PARTS = 64
_MOST_HEADER = 2**14
"""Bytes of a part's header."""


def file_of(body: bytes, content_type: str) -> bytes:
    """The content of the one part that is a file, or of the only part.

    Args:
        body: The request's body.
        content_type: Value of its header `Content-Type`.

    Raises:
        RequestError: The body is malformed, holds no file or several, or too many parts.
    """
    parts = list(_parts(body, _parameter(content_type, "boundary")))
    files = [content for head, content in parts if head.get_param("filename", header="content-disposition") is not None]
    if len(files) > 1:
        raise RequestError(f"the form holds {len(files)} files; send one image, or several to /v2/models/NAME/infer")
    if files:
        return files[0]
    if len(parts) == 1:
        return parts[0][1]
    raise RequestError("the form holds no file; send one image as multipart/form-data, or its bytes as the body")


def _parts(body: bytes, boundary: str) -> list[tuple[Message, bytes]]:
    """Header and content of each part."""
    delimiter = b"\r\n--" + boundary.encode("latin-1")
    if body.count(delimiter) > _MOST_PARTS:
        raise RequestError(f"the form has more than {_MOST_PARTS} parts; send one image")
    # The first delimiter may stand at the very beginning; what is before it or after the last is no part.
    pieces = (b"\r\n" + body).split(delimiter)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise RequestError("the form is malformed: its end is missing")
    found = []
    for piece in pieces[1:-1]:
        head, blank, content = piece.partition(b"\r\n\r\n")
        if not blank:
            raise RequestError("the form is malformed: a part has no header")
        if len(head) > _MOST_HEADER:
            raise RequestError("the form is malformed: a part's header is too long")
        found.append((BytesHeaderParser().parsebytes(head.lstrip()), content))
    return found


def _parameter(content_type: str, name: str) -> str:
    header = Message()
    header["Content-Type"] = content_type.replace("\r", "").replace("\n", "")
    value = header.get_param(name)
    if not isinstance(value, str) or not 0 < len(value) <= 70 or not value.isascii():
        raise RequestError(f"the form has no {name}")
    return value
