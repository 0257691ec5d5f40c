"""TIFF of grey or colour samples whose depth or byte order no decoder knows, as the samples that they are.

Such an image is shown to the decoder as one of 8-bit samples, whose rows are the bytes of the real ones: whatever the
compression, strips and tiles, the decoder gives those back, and here they become 9 to 16 bits each (TIFF 6.0: samples
are packed, the most significant bit first; those of 16 bits are in the file's byte order). And how many images a TIFF
holds.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.inputs.row_blocks import in_blocks

_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 262, 277
_PREDICTOR, _TILE_WIDTH, _PLANAR, _FORMAT, _COLOURS = 317, 322, 284, 339, 320
_SHORT, _LONG = 3, 4
_NEW_SUBFILE, _SUBFILE = 254, 255
_MOST_DIRECTORIES, _MOST_ENTRIES = 1000, 2**16
_FORMS = {
    b"II*\0": ("<", "H", "I"),
    b"MM\0*": (">", "H", "I"),
    b"II+\0": ("<", "Q", "Q"),
    b"MM\0+": (">", "Q", "Q"),
}
"""By how a TIFF or BigTIFF begins: its byte order, and how it writes the count of a directory and an offset."""
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2


@dataclass(frozen=True)
class Packed:
    """What is known of such a file.

    Attributes:
        width, height: In pixels.
        samples: Per pixel.
        bits: Per sample.
        white_is_zero: Whether 0 is the brightest.
        order: `<` or `>`, of 16-bit samples.
        rows: The same file as 8-bit grey, each row the bytes of one of the image.
    """

    width: int
    height: int
    samples: int
    bits: int
    white_is_zero: bool
    order: str
    rows: io.BytesIO

    def unpack(self, rows: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """The samples, (H, W) or (H, W, 3), as they are in the file.

        Args:
            rows: (H, bytes of a row) decoded from `rows`.
        """
        count = self.width * self.samples
        if self.bits == 16:
            values = rows.reshape(self.height, -1).view(f"{self.order}u2")[:, :count].astype(np.uint16)
        else:
            values = in_blocks(rows, lambda some: self._of_bits(some, count))
        shape = (self.height, self.width) if self.samples == 1 else (self.height, self.width, self.samples)
        return values.reshape(shape)

    def _of_bits(self, rows: NDArray[np.uint8], count: int) -> NDArray[np.uint16]:
        """Samples (H, `count`) of `bits` each."""
        single = np.unpackbits(rows, axis=1)[:, : count * self.bits].reshape(len(rows), count, self.bits)
        places = (1 << np.arange(self.bits)[::-1]).astype(np.uint32)
        return np.asarray(single.astype(np.uint32) @ places, np.uint16)


def packed(content: bytes) -> Packed | None:
    """A TIFF of 9 to 16-bit grey or RGB samples in one plane; None for everything else.

    Raises:
        struct.error: Its directory is cut short.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(content[:4])
    if order is None:
        return None
    start, entries = _directory(content, order)
    tags = {tag: value for tag, _, _, value in entries}
    bits, samples = tags.get(_BITS, 1), tags.get(_SAMPLES, 1)
    kinds = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}
    plain = tags.get(_PREDICTOR, 1) == tags.get(_PLANAR, 1) == tags.get(_FORMAT, 1) == 1
    if not 9 <= bits <= 16 or kinds.get(tags.get(_PHOTOMETRIC, -1)) != samples or not plain:
        return None
    bytes_of = {tag: (tags[tag] * samples * bits + 7) // 8 for tag in (_WIDTH, _TILE_WIDTH) if tag in tags}
    changed = bytes_of | {_BITS: 8, _SAMPLES: 1, _PHOTOMETRIC: _BLACK_IS_ZERO}
    rows = bytearray(content)
    for index, (tag, _, _, _) in enumerate(entries):
        if tag in changed:
            struct.pack_into(f"{order}HHII", rows, start + 12 * index, tag, _LONG, 1, changed[tag])
    white = tags[_PHOTOMETRIC] == _WHITE_IS_ZERO
    return Packed(tags[_WIDTH], tags[_HEIGHT], samples, bits, white, order, io.BytesIO(bytes(rows)))


def frames(stream: IO[bytes]) -> int:
    """How many images a TIFF or BigTIFF holds, smaller copies and masks of them apart; 1 for what is no TIFF.

    What is damaged ends the count, and so do a chain of directories that runs back into itself and the thousandth.
    """
    stream.seek(0)
    head = stream.read(16)
    form = _FORMS.get(head[:4])
    if form is None or len(head) < 16:
        return 1
    order, big = form[0], form[2] == "Q"
    (offset,) = struct.unpack_from(order + form[2], head, 8 if big else 4)
    seen: set[int] = set()
    count = 0
    while offset and offset not in seen and len(seen) < _MOST_DIRECTORIES:
        seen.add(offset)
        found = _flags(stream, offset, form)
        if found is None:
            break
        copy, offset = found
        count += len(seen) == 1 or not copy
    return max(count, 1)


def _flags(stream: IO[bytes], offset: int, form: tuple[str, str, str]) -> tuple[bool, int] | None:
    """Whether a directory is of a smaller copy or a mask, and where the next one is; None where it is cut short."""
    order, count_form, number_form = form
    size = struct.calcsize(order + number_form)
    entry = np.dtype([("tag", f"{order}u2"), ("kind", f"{order}u2"), ("many", f"V{size}"), ("value", f"S{size}")])
    stream.seek(min(offset, 2**62))
    try:
        (count,) = struct.unpack(order + count_form, stream.read(struct.calcsize(order + count_form)))
        content = stream.read(min(count, _MOST_ENTRIES) * entry.itemsize)
        (following,) = struct.unpack(order + number_form, stream.read(size))
    except struct.error:
        return None
    entries = np.frombuffer(content, entry)
    values = {}
    for tag, kind, _, value in entries[np.isin(entries["tag"], (_NEW_SUBFILE, _SUBFILE))][:2].tolist():
        number = value.ljust(size, b"\0")[: 2 if kind == _SHORT else 4]
        values[tag] = int.from_bytes(number, "little" if order == "<" else "big")
    return bool(values.get(_NEW_SUBFILE, 0) & 0b101) or values.get(_SUBFILE) == 2, following


def _directory(content: bytes, order: str) -> tuple[int, list[tuple[int, int, int, int]]]:
    """Where the first directory's entries begin, and each as tag, type, count and its first number."""
    (offset,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, offset)
    entries = []
    for index in range(count):
        place = offset + 2 + 12 * index
        tag, kind, many = struct.unpack_from(f"{order}HHI", content, place)
        entries.append((tag, kind, many, _first(content, order, place + 8, kind, many)))
    return offset + 2, entries


def _first(content: bytes, order: str, place: int, kind: int, many: int) -> int:
    """The first number of an entry of shorts or longs, which may stand elsewhere; 0 for other types."""
    form, size = {_SHORT: ("H", 2), _LONG: ("I", 4)}.get(kind, ("", 0))
    if not form:
        return 0
    if many * size > 4:
        (place,) = struct.unpack_from(f"{order}I", content, place)
    return int(struct.unpack_from(order + form, content, place)[0]) if place + size <= len(content) else 0
