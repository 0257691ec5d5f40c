"""What the bytes of an image file say beside its pixels, and the file without it; nothing here decodes a pixel.

Metadata may be broken or larger than a reader allows while the pixels are whole. What decides pixels stays: in PNG the
critical chunks and transparency, in JPEG the tables, the scans and the colour transform. What would take a decoder
far more time or memory than its bytes and its pixels deserve is told, so that it can be refused.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_KEPT_CHUNKS = (b"tRNS", b"eXIf", b"acTL")
"""Ancillary chunks that a reader may see: what is transparent, which way is up, and how many frames there are."""

_EXIF, _ADOBE, _APP0, _COMMENT = 0xE1, 0xEE, 0xE0, 0xFE
_SCAN, _END = 0xDA, 0xD9
_FRAMES = frozenset({0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers of JPEG and JPEG-LS that say the size of the image."""
_BITS_OF_BLOCKS = {0xC0: 2, 0xC1: 2, 0xC2: 1}
"""Bits that a block has at least, by the marker of the frame: a code for its mean, and one for the end where it has
scans of its own for the rest. A decoder fills up what is missing with grey and says nothing."""
_BARE_MARKERS = frozenset({0x01, 0xD8})
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""A marker: neither a byte of a scan nor one that restarts it."""
_MOST_SCANS = 100
"""Progressive encoders make about ten; a decoder walks the whole image for each, however short it is."""
_MOST_SEGMENTS = 4096

_BOXES = b"\0\0\0\x0cjP  "
_CODESTREAM = b"\xff\x4f\xff\x51"
_COD, _COC, _TILE_PART, _DATA = 0xFF52, 0xFF53, 0xFF90, 0xFF93
_MOST_SAMPLES = 1024**3 // 4 // 3
"""Of a JPEG 2000 image: its decoder holds each as 4 bytes, several times."""
_MOST_TILES, _MOST_BLOCKS = 2**14, 2**21
"""Of a JPEG 2000 image: the decoder keeps 10 KiB per tile, and hundreds of bytes per precinct and code block."""


def without_metadata(content: bytes) -> bytes | None:
    """The same PNG or JPEG with the same pixels and nothing else that could be broken; None for other formats.

    As in libpng, an ancillary chunk whose checksum is wrong is no chunk.
    """
    if content.startswith(_PNG):
        return _PNG + b"".join(raw for kind, raw, whole in _chunks(content) if _is_kept(kind, raw, whole))
    if content.startswith(_JPEG):
        return _JPEG + b"".join(_segments(content))
    return None


def significant_bits(content: bytes) -> int | None:
    """How many bits of a grey PNG's samples say something, where its chunk `sBIT` gives a number; else None."""
    for kind, raw, whole in _chunks(content) if content.startswith(_PNG) else ():
        if kind == b"sBIT" and whole and len(raw) == 13:
            return raw[8]
    return None


def coded_size(content: bytes) -> tuple[int, int, int] | None:
    """Width, height and components that JPEG, JPEG-LS or JPEG 2000 says; None for anything else."""
    if content.startswith(_JPEG):
        for marker, payload, _ in _markers(content):
            if marker in _FRAMES and len(payload) >= 6:
                height, width = struct.unpack_from(">HH", payload, 1)
                return width, height, payload[5]
        return None
    start = _codestream(content)
    if start is None:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", content, start + 8)
    return right - left, bottom - top, int.from_bytes(content[start + 40 : start + 42], "big")


def has_excess(head: bytes) -> bool:
    """Whether a file that begins so is of a kind that `excess` knows."""
    return head.startswith((_JPEG, _CODESTREAM[:2], _BOXES))


def excess(content: bytes) -> str | None:
    """What of a JPEG or JPEG 2000 image would take far longer or more memory than its size; None where nothing would.

    Raises:
        struct.error: It is cut short, or a part of it ends before it begins.
    """
    if content.startswith(_JPEG):
        return _excess_of_jpeg(content)
    start = _codestream(content)
    return None if start is None else _excess_of_jpeg2000(content, start)


def _excess_of_jpeg(content: bytes) -> str | None:
    scans, coded, least = 0, 0, 0
    for count, (marker, payload, following) in enumerate(_markers(content), 1):
        scans, coded = scans + (marker == _SCAN), coded + following
        if scans > _MOST_SCANS:
            return f"more than {_MOST_SCANS} scans"
        if count > _MOST_SEGMENTS:
            return f"more than {_MOST_SEGMENTS:,} segments"
        if marker in _BITS_OF_BLOCKS and not least:
            least = _blocks_of_jpeg(payload) * _BITS_OF_BLOCKS[marker] // 8
    return f"{coded:,} bytes of pixels, of at least {least:,} for the size that it declares" if coded < least else None


def _blocks_of_jpeg(frame: bytes) -> int:
    """Blocks of 8 x 8 samples of all components, from the payload of a frame's header (ISO/IEC 10918-1 A.1.1)."""
    height, width, count = struct.unpack_from(">HHB", frame, 1)
    factors = [divmod(frame[7 + 3 * index], 16) for index in range(count)]
    most = [max(1, *(factor[axis] for factor in factors)) for axis in (0, 1)]
    return sum(-(-width * x // (8 * most[0])) * -(-height * y // (8 * most[1])) for x, y in factors)


def _excess_of_jpeg2000(content: bytes, start: int) -> str | None:
    width, height, components = coded_size(content) or (0, 0, 0)
    if width * height * components > _MOST_SAMPLES:
        size = f"{width} x {height} pixels of {components} samples"
        return f"{size}, more than the {_MOST_SAMPLES:,} samples that are allowed in JPEG 2000"
    across, down = struct.unpack_from(">2I", content, start + 24)
    tiles = -(-width // max(across, 1)) * -(-height // max(down, 1))
    if tiles > _MOST_TILES:
        return f"{tiles:,} tiles"
    if components > 4:
        return f"{components:,} components"
    styles, present = _coding_styles(content, start)
    if len(present) < tiles:
        return f"{len(present):,} of the {tiles:,} tiles that it declares"
    blocks = max((_blocks(width, height, style) for style in styles), default=0) * components
    return f"{blocks:,} precincts and code blocks" if blocks > _MOST_BLOCKS else None


def _blocks(width: int, height: int, style: bytes) -> int:
    """Precincts and code blocks that a component has in memory (ISO/IEC 15444-1 A.6.1).

    Args:
        width: Of the image.
        height: Of the image.
        style: Decomposition levels, exponents of the code block, two bytes more, and a precinct size per resolution.
    """
    levels, precincts = style[0], style[5:]
    block = 2 ** ((style[1] & 15) + (style[2] & 15) + 4)
    total = 0
    for resolution in range(levels + 1):
        size = precincts[resolution] if resolution < len(precincts) else 0xFF
        wide, high = -(-width >> (levels - resolution)), -(-height >> (levels - resolution))
        across, down = 2 ** (size & 15), 2 ** (size >> 4)
        pieces = max(-(-wide // across), 1) * max(-(-high // down), 1)
        total += pieces + pieces * max(min(wide, across) * min(high, down) // block, 1)
    return total


def _coding_styles(content: bytes, start: int) -> tuple[set[bytes], set[int]]:
    """The coding styles (`_blocks`) in the main header and in those of the tile parts, and the tiles that are there."""
    position, tile_part, components = start + 2, 0, int.from_bytes(content[start + 40 : start + 42], "big")
    skipped = {_COD: 5, _COC: 2 if components < 257 else 3}
    styles, tiles = set(), set()
    while position + 4 <= len(content):
        marker, length = struct.unpack_from(">HH", content, position)
        if marker == _DATA:
            size = int.from_bytes(content[tile_part + 6 : tile_part + 10], "big")
            if size < 14:
                break
            if tile_part + size <= position:
                raise struct.error("a tile part ends before its data begin")
            position = tile_part + size
            continue
        payload = content[position + 4 : position + 2 + length]
        if marker == _TILE_PART:
            tile_part = position
            tiles.add(int.from_bytes(payload[:2], "big"))
        elif marker in skipped and len(payload) >= skipped[marker] + 5:
            styles.add(payload[skipped[marker] :])
        position += 2 + max(length, 2)
    return styles, tiles


def _codestream(content: bytes) -> int | None:
    """Where the codestream of a JPEG 2000 image begins, in a file of boxes or on its own."""
    position = 0
    while not content.startswith(_CODESTREAM, position):
        length, kind = int.from_bytes(content[position : position + 4], "big"), content[position + 4 : position + 8]
        header = 16 if length == 1 else 8
        if length == 1:
            length = int.from_bytes(content[position + 8 : position + 16], "big")
        position += header if kind == b"jp2c" else length
        if not content.startswith(_BOXES) or length < header or position >= len(content):
            return None
    return position if len(content) >= position + 42 else None


def _markers(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, payload and bytes of a scan behind it, of each segment of a JPEG, found as a decoder finds them."""
    found = _MARKER.search(content, len(_JPEG))
    while found:
        marker, end = content[found.end() - 1], found.end()
        if marker == _END:
            return
        length = 0 if marker in _BARE_MARKERS else max(int.from_bytes(content[end : end + 2], "big"), 2)
        found = _MARKER.search(content, end + length)
        if length:
            behind = found.start() if found else len(content)
            yield marker, content[end + 2 : end + length], max(behind - end - length, 0)


def _is_kept(kind: bytes, raw: bytes, whole: bool) -> bool:
    critical = not kind[0] & 0x20
    return critical or (kind in _KEPT_CHUNKS and whole and (kind != b"acTL" or len(raw) == 20))


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
