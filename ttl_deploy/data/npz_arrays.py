"""The arrays of an .npz, a few rows at a time: memory is bounded by a few blocks of a member, whatever its size.

A member is read through once when it is opened, by blocks, so that what is damaged, lies about its size or inflates
beyond it is refused before any work; what is loaded whole (labels, patients) is bounded too. Of a deflated member, the
state of the decompressor is kept at the start of each block, so that rows in any order cost one block each.
"""

from __future__ import annotations

import math
import struct
import threading
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.errors import BadInputError
from ttl_deploy.inputs.npy import HEADER, described

MOST_IMAGES = 1_000_000
"""Images that an .npz may list: each is about a kilobyte of records, however few its pixels."""

_BLOCK = 2**21
_MOST_BLOCKS = 1024
"""Blocks of a member: the state at the start of each takes about 50 KB."""
_KEPT = 3
"""Blocks that stay in memory."""
_CHUNK = 2**14
_MOST_WHOLE = 2**28
"""Bytes of an array that is loaded whole."""
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_OTHER_METHODS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}
_MOST_RATIO = 1032
"""How many times smaller Deflate can make something at most."""

_WRITE = "write plain integer arrays with numpy.savez_compressed"
_RESTORE = "restore or download it again"


class NpzArrays:
    """The arrays of an .npz by name.

    Args:
        path: The file.

    Raises:
        BadInputError: It is not an .npz, or two of its arrays have one name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not zipfile.is_zipfile(path):
                raise BadInputError("is not an .npz file", where=path, fix="write it with numpy.savez_compressed")
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except BadInputError:
            raise
        except Exception as error:  # on damaged files zipfile raises anything from struct.error to UnicodeDecodeError
            raise BadInputError(f"is damaged: {error}", where=path, fix=_RESTORE) from error
        names = Counter(_name(info) for info in infos)
        twice = next((name for name, count in names.items() if count > 1), None)
        if twice is not None:
            raise BadInputError(f"has {names[twice]} arrays named {twice}", where=path, fix="remove all but one")
        self._infos = {_name(info): info for info in infos}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arrays, in the order of the file."""
        return tuple(self._infos)

    def rows(self, name: str) -> NpzRows:
        """An array whose rows are read when they are asked for.

        Raises:
            BadInputError: It is damaged, encrypted, compressed in an unknown way, or no array of plain values.
        """
        return NpzRows(self.path, name, self._infos[name])

    def whole(self, name: str) -> NDArray[Any]:
        """An array in memory.

        Raises:
            BadInputError: As `rows`, or it is too large to be loaded.
        """
        return self.rows(name).whole()


class NpzRows:
    """An array in an .npz, read by rows. Can be sent to other processes, which open the file themselves.

    Args:
        path: The file.
        name: The array.
        info: Its entry in the archive.

    Attributes:
        shape: As declared, which what is stored was found to agree with once `check` was called.
        dtype: Of plain values.

    Raises:
        BadInputError: From any method: see `NpzArrays.rows`.
    """

    def __init__(self, path: Path, name: str, info: zipfile.ZipInfo) -> None:
        self._path, self._name, self._info = path, name, info
        if info.flag_bits & 1:
            raise self._refusal("is encrypted", "write it without a password")
        if info.compress_type not in _METHODS:
            method = _OTHER_METHODS.get(info.compress_type, "unknown")
            raise self._refusal(f"is compressed by method {info.compress_type} ({method})", _WRITE)
        self._member = _Member(path, info)
        try:
            head = self._member.head()
            self.shape, is_fortran, self.dtype, self._start = described(head)
        except Exception as error:  # NumPy evaluates the header, and raises whatever that does
            raise self._refusal(f"is damaged: {error}", _RESTORE) from error
        if self.dtype.hasobject:
            raise self._refusal("holds pickled objects, which are never executed", _WRITE)
        self._is_fortran = is_fortran and len(self.shape) > 1
        self._size, stored = math.prod(self.shape) * self.dtype.itemsize, info.file_size - self._start
        if stored != self._size:
            what = f"declares shape {self.shape} of {self.dtype}, {self._size:,} bytes, and has {stored:,}"
            raise self._refusal(what, _RESTORE)
        if info.file_size > (info.compress_size + 1) * _MOST_RATIO:
            raise self._refusal(f"declares {info.file_size:,} bytes in {info.compress_size:,}", _RESTORE)

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def __reduce__(self) -> tuple[Any, ...]:
        return NpzRows, (self._path, self._name, self._info)

    def __getitem__(self, row: int) -> NDArray[Any]:
        """One row, not to be written to."""
        if self._is_fortran:
            return np.asarray(self._loaded[row])
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        content = self._read(self._start + row * size, size)
        return np.frombuffer(content, self.dtype).reshape(self.shape[1:])

    def check(self) -> None:
        """Reads it through once; refuses one in Fortran order that is too large to be loaded."""
        if self._is_fortran:
            self._refuse_large()
        try:
            self._member.check()
        except (ValueError, OSError, EOFError, zlib.error, struct.error) as error:
            raise self._refusal(f"is damaged: {error}", _RESTORE) from error

    def whole(self) -> NDArray[Any]:
        """All of it."""
        self._refuse_large()
        self.check()
        content = self._read(self._start, self._size)
        values = np.frombuffer(content, self.dtype) if content else np.empty(0, self.dtype)
        return values.reshape(self.shape, order="F" if self._is_fortran else "C")

    def _refuse_large(self) -> None:
        if self._size > _MOST_WHOLE:
            what = f"has {self._size:,} bytes, more than the {_MOST_WHOLE:,} that are loaded at once"
            raise self._refusal(what, "write fewer or shorter values, and images through numpy.ascontiguousarray")

    @cached_property
    def _loaded(self) -> NDArray[Any]:
        """An array in Fortran order, whose rows lie in no place of their own."""
        return self.whole()

    def _read(self, start: int, size: int) -> bytes:
        try:
            return self._member.read(start, size)
        except (ValueError, OSError, EOFError, zlib.error, struct.error) as error:
            raise self._refusal(f"is damaged: {error}", _RESTORE) from error

    def _refusal(self, what: str, fix: str) -> BadInputError:
        return BadInputError(f"{self._name} {what}", where=self._path, fix=fix)


class _Member:
    """The bytes of a stored or deflated member, by blocks.

    Args:
        path: The archive.
        info: The member.
    """

    def __init__(self, path: Path, info: zipfile.ZipInfo) -> None:
        self._path, self._info = path, info
        self._block = max(_BLOCK, -(-info.file_size // _MOST_BLOCKS))
        self._points: list[tuple[int, Any]] = []
        self._recent: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def head(self) -> bytes:
        """The first bytes, enough for the description of an array."""
        with self._path.open("rb") as stream:
            return self._piece(stream, self._first(stream), HEADER)[0]

    def check(self) -> None:
        """Reads it through; raises ValueError where it is not what the archive says."""
        checksum = 0
        with self._path.open("rb") as stream:
            for content in self._blocks(stream):
                checksum = zlib.crc32(content, checksum)
        if checksum != self._info.CRC:
            raise ValueError("its checksum differs")

    def read(self, start: int, size: int) -> bytes:
        """Some of its bytes."""
        if not size:
            return b""
        first, last = start // self._block, (start + size - 1) // self._block
        with self._lock:
            parts = [self._at(index) for index in range(first, last + 1)]
        offset = start - first * self._block
        return b"".join(parts)[offset : offset + size]

    def _at(self, index: int) -> bytes:
        if index not in self._recent:
            with self._path.open("rb") as stream:
                if not self._points:
                    for _ in self._blocks(stream):
                        pass
                self._recent[index] = self._piece(stream, self._points[index], self._length(index))[0]
        self._recent.move_to_end(index)
        while len(self._recent) > _KEPT:
            self._recent.popitem(last=False)
        return self._recent[index]

    def _blocks(self, stream: IO[bytes]) -> Iterator[bytes]:
        """All blocks in order, while the places where they begin are taken down."""
        point = self._first(stream)
        points = []
        for index in range(-(-self._info.file_size // self._block)):
            position, inflater = point
            points.append((position, inflater and inflater.copy()))
            content, point = self._piece(stream, point, self._length(index))
            yield content
        if self._piece(stream, point, 1, short=True)[0]:
            raise ValueError(f"it holds more than its {self._info.file_size:,} bytes")
        self._points = points

    def _length(self, index: int) -> int:
        return min(self._block, self._info.file_size - index * self._block)

    def _first(self, stream: IO[bytes]) -> tuple[int, Any]:
        """Where the content begins, behind the local header (APPNOTE 4.3.7)."""
        stream.seek(self._info.header_offset)
        header = stream.read(30)
        if not header.startswith(b"PK\3\4"):
            raise ValueError("it has no local header")
        names = sum(struct.unpack_from("<HH", header, 26))
        inflater = zlib.decompressobj(-zlib.MAX_WBITS) if self._info.compress_type == zipfile.ZIP_DEFLATED else None
        return self._info.header_offset + 30 + names, inflater

    def _piece(
        self, stream: IO[bytes], point: tuple[int, Any], size: int, *, short: bool = False
    ) -> tuple[bytes, tuple[int, Any]]:
        """Up to `size` bytes from a point, and the point behind them."""
        position, inflater = point
        stream.seek(position)
        if inflater is None:
            size = min(size, self._info.file_size)
            content = b"" if short else stream.read(size)
            point = position + len(content), None
        else:
            inflater, parts = inflater.copy(), bytearray()
            while len(parts) < size and not inflater.eof:
                raw = stream.read(_CHUNK)
                if not raw:
                    break
                parts += inflater.decompress(raw, size - len(parts))
                # At the end of the stream the rest may be in both.
                position += len(raw) - len(inflater.unused_data if inflater.eof else inflater.unconsumed_tail)
                stream.seek(position)
            content, point = bytes(parts), (position, inflater)
        if len(content) < min(size, self._info.file_size) and not short:
            raise EOFError(f"it ends after {len(content):,} of {size:,} bytes")
        return content, point


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")
