"""Reads MedMNIST's array layout: `train_images`, `train_labels` and the same for `val` and `test`.

Labels are integers; their names are the numbers, or those that the user gives in their order. Where an image may have
several, each has a column. Patients, where they are
known, are in an array beside them: `train_patients`, `train_patient_ids` and so on. Files of other kinds that hold such
arrays (`ttl_deploy.data.h5_arrays`) are read alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.data.columns import PATIENT_NAMES, normal
from ttl_deploy.data.items import ArraySource, Rows
from ttl_deploy.data.listing import Entry, Listing
from ttl_deploy.data.npz_arrays import MOST_IMAGES, NpzArrays
from ttl_deploy.data.values import patient_of
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec.inputs import MOST_CHANNELS
from ttl_deploy.tasks import UNKNOWN
from ttl_deploy.tasks.multilabel import text_of_marks

_SIDES = ("train", "val", "test")
_LAYOUT = "see MedMNIST's layout: one image and label per row"


class ImageRows(Rows, Protocol):
    """Images whose rows are read when they are asked for."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""

    def __len__(self) -> int:
        """How many there are."""

    def check(self) -> None:
        """Raises `BadInputError` where it can be seen that they are damaged."""


class Arrays(Protocol):
    """The arrays of a file, or of several, by MedMNIST's names."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arrays."""

    def rows(self, name: str) -> ImageRows:
        """An array whose rows are read when they are asked for."""

    def whole(self, name: str) -> NDArray[Any]:
        """An array in memory."""


def read_npz(
    path: Path, classes: Sequence[str] | None, *, several: bool = False, options: bool = False, kind: str = "image"
) -> Listing:
    """Lists the images of an .npz; labels and patients are loaded, images are read when they are asked for.

    Args:
        path: The file.
        classes: Names of the labels 0, 1, …; None: the numbers themselves.
        several: Whether an image may have several labels; each then has a column of 1, 0, -1 and NaN.
        options: Whether the command has options for classes, so that an error may name them.
        kind: Of the inputs: the rows are images or volumes.

    Raises:
        BadInputError: It is not an .npz, is damaged, holds pickled objects, or an array is missing or has another shape
            or type than expected; the error names the array.
    """
    return read_arrays(path, NpzArrays(path), classes, several=several, options=options, kind=kind)


def read_arrays(
    path: Path,
    arrays: Arrays,
    classes: Sequence[str] | None,
    *,
    several: bool = False,
    options: bool = False,
    kind: str = "image",
) -> Listing:
    """As `read_npz`, of arrays that were opened from a path.

    Raises:
        BadInputError: An array is missing, damaged, or has another shape or type than expected.
    """
    present = [side for side in _SIDES if f"{side}_images" in arrays.names or f"{side}_labels" in arrays.names]
    if "train" not in present:
        raise _missing(path, "train_images", arrays)
    entries: list[Entry] = []
    marked: tuple[str, ...] | None = None
    for side in present:
        images, labels = _checked(path, side, arrays, several=several, kind=kind)
        split = side if len(present) > 1 else None
        owners = _patients(path, side, arrays, len(images))
        if several and (marked or labels.ndim == 2 or len(classes or ()) < 2):
            marked = marked or _columns(path, side, labels, classes)
            texts = _joined(path, side, labels, marked, options=options)
        else:
            texts = _names(path, side, labels, classes)
        entries += _entries(path, side, split, images, texts, owners)
    unused = [name for name in arrays.names if not _is_known(name)]
    owners_in = ", ".join(name for name in arrays.names if _patients_of(name) is not None)
    columns = {"patient": owners_in} if owners_in else {}
    return Listing(entries, columns=columns, unused=tuple(unused), classes=marked)


def images_of(path: Path, arrays: Arrays, name: str, kind: str = "image") -> ImageRows:
    """The images of an array, or its volumes, which was read through once.

    Raises:
        BadInputError: It is no array of images, of too many, or damaged.
    """
    images = arrays.rows(name)
    problem = _PROBLEMS[kind](images)
    if problem:
        raise BadInputError(f"{name}: {problem}", where=path, fix=_LAYOUT)
    if len(images) > MOST_IMAGES:
        what = f"{name}: {len(images):,} images are more than the {MOST_IMAGES:,} that are read from an .npz"
        raise BadInputError(what, where=path, fix="divide it into several, or write a folder per class")
    images.check()
    return images


def _is_known(name: str) -> bool:
    """Whether an array is read."""
    side, _, kind = name.partition("_")
    return (side in _SIDES and kind in ("images", "labels")) or _patients_of(name) is not None


def _patients_of(name: str) -> str | None:
    """The side whose patients an array holds, or None."""
    side, _, rest = name.partition("_")
    plural = normal(rest)
    return side if side in _SIDES and {plural, plural.removesuffix("s")} & PATIENT_NAMES else None


def _patients(path: Path, side: str, arrays: Arrays, count: int) -> list[str | None]:
    names = [name for name in arrays.names if _patients_of(name) == side]
    if not names:
        return [None] * count
    if len(names) > 1:
        what = f"has several arrays that may be the patients: {', '.join(names)}"
        raise BadInputError(what, where=path, fix="remove all but the right one")
    values = arrays.whole(names[0]).reshape(-1)
    if len(values) != count:
        what = f"{names[0]} has {len(values)} values for {count} images"
        raise BadInputError(what, where=path, fix="give each image its patient, a blank one where it is not known")
    return [patient_of(value.decode(errors="replace") if isinstance(value, bytes) else str(value)) for value in values]


def _checked(path: Path, side: str, arrays: Arrays, *, several: bool, kind: str) -> tuple[ImageRows, NDArray[Any]]:
    """Images and labels of one side: (N,), or (N, K) where an image may have several."""
    for name in (f"{side}_images", f"{side}_labels"):
        if name not in arrays.names:
            raise _missing(path, name, arrays)
    images, labels = arrays.rows(f"{side}_images"), arrays.whole(f"{side}_labels")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.reshape(-1)
    problem = _PROBLEMS[kind](images) or (_marks_problem if several else _label_problem)(labels)
    if not problem and len(images) != len(labels):
        problem = f"{len(images)} images but {len(labels)} labels"
    if problem:
        raise BadInputError(f"{side}: {problem}", where=path, fix=_LAYOUT)
    return images_of(path, arrays, f"{side}_images", kind), labels


def _image_problem(images: ImageRows) -> str | None:
    if images.dtype.kind != "u" or images.dtype.itemsize > 2:
        return f"images of type {images.dtype}; uint8 and uint16 are supported"
    dimensions = len(images.shape)
    if dimensions not in (3, 4) or (dimensions == 4 and not 1 <= images.shape[3] <= MOST_CHANNELS):
        read = f"(N, H, W) and (N, H, W, C) with C up to {MOST_CHANNELS}"
        return f"images of shape {images.shape}; {read} are supported, volumes with a backbone of volumes"
    return None


def _volume_problem(volumes: ImageRows) -> str | None:
    if volumes.dtype.kind not in "iuf":
        return f"volumes of type {volumes.dtype}; integers and real numbers are supported"
    if len(volumes.shape) not in (4, 5) or (len(volumes.shape) == 5 and not 1 <= volumes.shape[4] <= MOST_CHANNELS):
        read = f"(N, D, H, W) and (N, D, H, W, C) with C up to {MOST_CHANNELS}"
        return f"volumes of shape {volumes.shape}; {read} are supported, images with a backbone of images"
    return None


_PROBLEMS = {"image": _image_problem, "volume": _volume_problem}
"""What is wrong with an array of inputs of a kind, or None."""


def _label_problem(labels: NDArray[Any]) -> str | None:
    if labels.ndim > 2 or labels.ndim == 0:
        return f"labels of shape {labels.shape}; expected (N, 1) or (N,)"
    if labels.ndim == 2:
        return f"{labels.shape[1]} labels per image, where one is expected; several are --task multilabel"
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        return "labels that are not numbers (nan), for images without a label"
    if labels.dtype.kind not in "iubf" or not np.array_equal(labels, labels.astype(np.int64)):
        return f"labels of type {labels.dtype}; expected integers"
    return None


def _marks_problem(labels: NDArray[Any]) -> str | None:
    if labels.ndim not in (1, 2) or 0 in labels.shape[1:]:
        return f"labels of shape {labels.shape}; expected (N, K), a column for each label"
    if labels.dtype.kind not in "iubf":
        return f"labels of type {labels.dtype}; expected 1, 0 and -1"
    return None


def _columns(path: Path, side: str, labels: NDArray[Any], classes: Sequence[str] | None) -> tuple[str, ...]:
    """The name of each column of labels."""
    if labels.ndim == 1 and classes is None:
        what = f"{side}_labels has one value per image, and its label no name"
        # Only a command with these options reads without knowing the classes.
        way = "say with --classes what 1 means, or leave --task multilabel out"
        raise BadInputError(what, where=path, fix=way)
    count = 1 if labels.ndim == 1 else labels.shape[1]
    return tuple(classes) if classes is not None else tuple(map(str, range(count)))


def _joined(path: Path, side: str, labels: NDArray[Any], names: Sequence[str], *, options: bool) -> list[str]:
    """The labels of each image as one text; see `ttl_deploy.data.several_labels`."""
    table = (labels[:, None] if labels.ndim == 1 else labels).astype(np.float64)
    if table.shape[1] != len(names):
        what = f"{side}_labels is {table.shape[1]} wide, where the labels are {', '.join(names)}"
        way = "name each column with --classes, and " if options else ""
        raise BadInputError(what, where=path, fix=f"{way}give every side the same columns")
    table[np.isnan(table)] = UNKNOWN
    other = np.argwhere(~np.isin(table, (0, 1, UNKNOWN)))
    if len(other):
        row, column = other[0].tolist()
        what = f"{side}_labels[{row}, {column}] is {table[row, column]:g}"
        raise BadInputError(what, where=path, fix="write 1 for yes, 0 for no, and -1 or NaN where it is not known")
    return [text_of_marks(names, row) for row in table.astype(np.int64).tolist()]


def _names(path: Path, side: str, labels: NDArray[Any], classes: Sequence[str] | None) -> list[str]:
    problem = _label_problem(labels)
    if problem:
        raise BadInputError(f"{side}: {problem}", where=path, fix=_LAYOUT)
    numbers = [int(label) for label in labels]
    negative = next((i for i, number in enumerate(numbers) if number < 0), None)
    if negative is not None:
        what = f"{side}_labels[{negative}] is {numbers[negative]}"
        raise BadInputError(what, where=path, fix="labels count from 0")
    if classes is None:
        return [str(number) for number in numbers]
    return [classes[n] if n < len(classes) else f"{n} (without a name)" for n in numbers]


def _entries(
    path: Path,
    side: str,
    split: str | None,
    images: ImageRows,
    names: Sequence[str],
    patients: Sequence[str | None],
) -> list[Entry]:
    ids = [f"{side}/{row:05d}" for row in range(len(names))]
    return [
        Entry(name, label, patient, split, ArraySource(images, row, f"{path}:{name}"), f"{path}:{name}")
        for row, (name, label, patient) in enumerate(zip(ids, names, patients, strict=True))
    ]


def _missing(path: Path, name: str, arrays: Arrays) -> BadInputError:
    found = ", ".join(sorted(arrays.names)) or "nothing"
    return BadInputError(
        f"has no array {name}; found: {found}", where=path, fix="name the arrays train_images, train_labels and so on"
    )
