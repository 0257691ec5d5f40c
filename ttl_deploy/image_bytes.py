"""What the bytes of an image file say beside its pixels, and the file without it; nothing here decodes a pixel.

Metadata may be broken or larger than a reader allows while the pixels are whole. What decides pixels stays: in PNG the
critical chunks and transparency, in JPEG the tables, the scans and the colour transform.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_KEPT_CHUNKS = (b"tRNS", b"eXIf")
"""Ancillary chunks that a reader may see: what is transparent, and which way is up."""

_EXIF, _ADOBE, _APP0, _COMMENT = 0xE1, 0xEE, 0xE0, 0xFE
_SCAN = 0xDA


def without_metadata(content: bytes) -> bytes | None:
    """The same PNG or JPEG with the same pixels and nothing else that could be broken; None for other formats.

    As in libpng, an ancillary chunk whose checksum is wrong is no chunk.
    """
    if content.startswith(_PNG):
        return _PNG + b"".join(raw for kind, raw, whole in _chunks(content) if _is_kept(kind, whole))
    if content.startswith(_JPEG):
        return _JPEG + b"".join(_segments(content))
    return None


def significant_bits(content: bytes) -> int | None:
    """How many bits of a grey PNG's samples say something, where its chunk `sBIT` gives a number; else None."""
    for kind, raw, whole in _chunks(content) if content.startswith(_PNG) else ():
        if kind == b"sBIT" and whole and len(raw) == 13:
            return raw[8]
    return None


def _is_kept(kind: bytes, whole: bool) -> bool:
    critical = not kind[0] & 0x20
    return critical or (kind in _KEPT_CHUNKS and whole)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Type, bytes and whether the checksum is right of each chunk; a last one that is cut short comes as it is."""
    position = len(_PNG)
    while position + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        raw = content[position : position + 12 + length]
        kind = raw[4:8]
        yield kind, raw, len(raw) == 12 + length and zlib.crc32(raw[4:-4]) == int.from_bytes(raw[-4:], "big")
        position += 12 + length
        if kind == b"IEND":
            return


def _segments(content: bytes) -> Iterator[bytes]:
    """The segments up to the first scan, but for metadata, and everything from there on."""
    position = len(_JPEG)
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == _SCAN:
            break
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        segment = content[position:end]
        if not _is_metadata(marker, segment[4:]):
            yield segment
        position = end
    yield content[position:]


def _is_metadata(marker: int, payload: bytes) -> bool:
    if marker == _EXIF:
        return not payload.startswith(b"Exif\0\0")
    if marker == _ADOBE:
        return not payload.startswith(b"Adobe") or len(payload) < 12
    if marker == _APP0:
        return not payload.startswith(b"JFIF\0") or len(payload) < 14
    return _APP0 <= marker <= _APP0 + 15 or marker == _COMMENT
