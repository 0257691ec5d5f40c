"""The parts of an ONNX model and the files of its outside weights, from its bytes alone: neither onnx nor an engine.

Only the messages of `onnx.proto` that can hold a tensor are entered; everything else is stepped over.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "tensor": {13: "outside"},
}
"""The fields of each message that lead to tensors, by number, and the messages they hold."""

_KEY, _VALUE = 1, 2
_LOCATION = b"location"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def outside_files(model: Path) -> tuple[str, ...]:
    """Where a model's external data lies, as its tensors say it, each place once; of bytes that are no model, nothing.

    Raises:
        OSError: The file cannot be read.
    """
    if not model.stat().st_size:
        return ()
    with model.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Few models have any, and their bytes are searched in a fraction of the time that their messages take.
        return tuple(dict.fromkeys(_places(content))) if content.find(_LOCATION) >= 0 else ()


def _places(content: mmap.mmap) -> Iterator[str]:
    left = [("model", 0, len(content))]
    while left:
        kind, start, end = left.pop()
        inside = _INSIDE[kind]
        for number, first, last in fields(content, start, end):
            following = inside.get(number)
            if following == "outside":
                entry = {n: bytes(content[a:b]) for n, a, b in fields(content, first, last)}
                if entry.get(_KEY) == _LOCATION:
                    yield entry.get(_VALUE, b"").decode("utf-8", "surrogateescape")
            elif following is not None:
                left.append((following, first, last))


def fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of the fields of a message that have a length; stops where the bytes are no message.

    Args:
        content: A file of protocol buffers.
        start: Where the message begins.
        end: Where it ends.
    """
    position = start
    while position < end:
        tag, position = _varint(content, position, end)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(content, position, end)
        elif kind in (_FIXED32, _FIXED64):
            position += 4 if kind == _FIXED32 else 8
        elif kind == _BYTES:
            length, position = _varint(content, position, end)
            if position + length > end:
                return
            yield tag >> 3, position, position + length
            position += length


def _varint(content: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends; 0 where it is cut short or too long."""
    value = shift = 0
    while position < end and shift < 64:
        byte = content[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
        shift += 7
    return 0, end
