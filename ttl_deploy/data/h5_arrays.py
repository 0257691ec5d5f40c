"""PatchCamelyon's HDF5 files as arrays by MedMNIST's names: `…_train_x.h5` holds the images, `…_train_y.h5` the labels.

A folder holds a pair for each side (`train`, `valid`, `test`), or a single `…_x.h5` is given. Patients are in a column
of `…_train_meta.csv`, such as `wsi`, where the user names it. Nothing outside of a file is followed from inside it.
h5py is imported when such a file is read.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.data.listing import side_of
from ttl_deploy.data.npz_arrays import MOST_IMAGES
from ttl_deploy.data.read_csv import open_table
from ttl_deploy.errors import BadInputError, MissingDependencyError, near
from ttl_deploy.files import is_file, is_folder

if TYPE_CHECKING:
    import h5py

_IMAGES = re.compile(r"(?P<stem>.*[_-])(?P<side>[a-z]+)_x\.h5", re.IGNORECASE | re.DOTALL)
_CACHE = 2**27
"""Bytes of unpacked chunks that HDF5 keeps of a file: PatchCamelyon's chunks hold many images."""
_MOST_OF_A_ROW = 2**28
"""Bytes of an image that is read."""
_MOST_LABELS = 2**27
"""Labels of all images of a file."""
_MOST_OF_A_CHUNK = 2**30
"""Bytes that HDF5 unpacks at once."""
_RESTORE = "restore or download it again"


def is_h5(path: Path) -> bool:
    """Whether a path is such a file, or a folder with some and with no folder in it.

    Raises:
        BadInputError: The files are still packed.
    """
    if not is_folder(path):
        return path.suffix.lower() == ".h5"
    inside = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    if any(entry.is_dir() for entry in inside):
        return False
    if any(_IMAGES.fullmatch(entry.name) for entry in inside):
        return True
    packed = next((entry for entry in inside if _IMAGES.fullmatch(entry.name.removesuffix(".gz"))), None)
    if packed is not None:
        raise BadInputError("is packed", where=packed, fix=f"unpack it and those beside it: gunzip {path}/*.h5.gz")
    return False


class H5Arrays:
    """The arrays of some pairs of files.

    Args:
        path: A folder of pairs, or the images of one.
        patients: Column of the tables beside them that names the patients; None or blank: not known.

    Raises:
        BadInputError: A file's name says no side, two say the same, or a file is missing.
        MissingDependencyError: h5py is not installed.
    """

    def __init__(self, path: Path, patients: str | None = None) -> None:
        _h5py(path)
        self._path, self._column = path, patients
        self._files: dict[str, Path] = {}
        self._meta: dict[str, Path] = {}
        images = [path] if path.is_file() else sorted(e for e in path.iterdir() if _IMAGES.fullmatch(e.name))
        for file in images:
            self._add(file, alone=path.is_file())

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arrays."""
        return (*self._files, *self._meta)

    def rows(self, name: str) -> H5Rows:
        """An array whose rows are read when they are asked for.

        Raises:
            BadInputError: The file is damaged, or has not the array alone.
        """
        return H5Rows(self._files[name], "x" if name.endswith("_images") else "y")

    def whole(self, name: str) -> NDArray[Any]:
        """An array in memory: (N,) or (N, K), without the axes of length 1 behind.

        Raises:
            BadInputError: As `rows`, or it is too large.
        """
        if name in self._meta:
            return self._patients(self._meta[name])
        rows = self.rows(name)
        if len(rows) > MOST_IMAGES or math.prod(rows.shape) > _MOST_LABELS:
            raise BadInputError(f"y has the shape {rows.shape}", where=self._files[name], fix="give each image a label")
        return rows.whole().reshape(len(rows), -1)

    def _add(self, file: Path, *, alone: bool) -> None:
        found = _IMAGES.fullmatch(file.name)
        side = "train" if alone else found and side_of(found["side"])
        if found is None or side is None:
            fix = "name it as PatchCamelyon does, camelyonpatch_level_2_split_train_x.h5, or pass the folder"
            raise BadInputError("its name does not say what it holds", where=file, fix=fix)
        if f"{side}_images" in self._files:
            what = f"is of the side {side}, as {self._files[f'{side}_images'].name}"
            raise BadInputError(what, where=file, fix="leave one of them in the folder")
        start = file.name[: -len("x.h5")]
        labels, meta = file.with_name(f"{start}y.h5"), file.with_name(f"{start}meta.csv")
        self._files |= {f"{side}_images": file, f"{side}_labels": labels}
        if not is_file(labels):
            raise BadInputError(f"has no {labels.name} beside it", where=file, fix="add the file of its labels")
        if self._column:
            if not is_file(meta):
                raise BadInputError(f"has no {meta.name} beside it", where=file, fix="add it, or name no patients")
            self._meta[f"{side}_patients"] = meta

    def _patients(self, meta: Path) -> NDArray[np.str_]:
        assert self._column
        wanted = self._column.lower()
        rows = open_table(meta, required=(), optional=())
        _, header = next(rows, (0, {}))
        if wanted not in header:
            raise BadInputError(
                f"has no column {self._column!r}", where=meta, fix=near(wanted, [n for n in header if n])
            )
        return np.array([cells.get(wanted, "") for _, cells in rows], dtype=np.str_)


class H5Rows:
    """The one array of an HDF5 file, read by rows. Can be sent to other processes, which open the file themselves.

    Args:
        path: The file.
        name: Of the array.

    Attributes:
        shape: Of the array.
        dtype: Of its values.

    Raises:
        BadInputError: From any method: it is damaged, or not such an array.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._lock = threading.Lock()
        self._opened: tuple[int, h5py.Dataset] | None = None
        with self._told():
            array = self._array()
            self.shape, self.dtype = tuple(map(int, array.shape)), array.dtype
            chunk = math.prod(array.chunks or ()) * array.dtype.itemsize
        if not self.shape or self.dtype.kind not in "uifb":
            raise self._refusal(
                f"is of type {self.dtype} and shape {self.shape}", "write plain numbers, a row per image"
            )
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        if row > _MOST_OF_A_ROW or chunk > _MOST_OF_A_CHUNK:
            raise self._refusal(f"has the shape {self.shape}, in too large parts", "write smaller images and chunks")

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return H5Rows, (self._path, self._name)

    def __getitem__(self, row: int) -> NDArray[Any]:
        """One row."""
        with self._lock, self._told():
            return np.asarray(self._array()[row])

    def check(self) -> None:
        """Reads its first and its last row: HDF5 has no checksum of the whole."""
        for row in {0, len(self) - 1} if len(self) else ():
            self[row]

    def whole(self) -> NDArray[Any]:
        """All of it."""
        with self._lock, self._told():
            return np.asarray(self._array()[()])

    def _array(self) -> h5py.Dataset:
        """The array, of a file that this process has opened."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), self._found()
        return self._opened[1]

    def _found(self) -> h5py.Dataset:
        h5py = _h5py(self._path)
        # A lock would keep a read-only disk from being read.
        file = h5py.File(self._path, "r", rdcc_nbytes=_CACHE, locking=False)
        link = file.get(self._name, getlink=True)
        if link is None:
            fix = f"name the array {self._name}, as PatchCamelyon does"
            raise self._refusal(f"is not there; found: {', '.join(map(str, file)) or 'nothing'}", fix)
        array = file[self._name] if isinstance(link, h5py.HardLink) else None
        if not isinstance(array, h5py.Dataset) or array.is_virtual or array.external:
            raise self._refusal("is no array of this file", "write it into the file itself")
        return array

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever HDF5 raises on a damaged file, in one line."""
        try:
            yield
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise BadInputError(f"is damaged: {error}", where=self._path, fix=_RESTORE) from error

    def _refusal(self, what: str, fix: str) -> BadInputError:
        return BadInputError(f"{self._name} {what}", where=self._path, fix=fix)


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError("reading it needs h5py", where=path, fix="pip install h5py") from error
    return h5py
