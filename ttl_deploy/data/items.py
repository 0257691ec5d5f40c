"""The records of a data set: an image with its label, patient and side, where its pixels come from, and the whole set.

Nothing here reads an image before it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import files
from ttl_deploy.errors import UnreadableImageError
from ttl_deploy.files import is_folder
from ttl_deploy.inputs.mask import load_mask
from ttl_deploy.inputs.reading import READERS, load_input
from ttl_deploy.inputs.study import series_files
from ttl_deploy.spec import PreprocessSpec
from ttl_deploy.tasks import Label, Labels, Task


class ImageSource(Protocol):
    """Where an image's pixels come from."""

    @property
    def where(self) -> str:
        """What an error calls the image."""

    def stamp(self) -> tuple[str, str] | None:
        """A name and a value that changes when the content may have changed; None where that costs as much as `digest`.

        Raises:
            OSError: The file cannot be reached.
        """

    def digest(self) -> str:
        """Hex SHA-256 of the content.

        Raises:
            UnreadableImageError: It cannot be read.
        """

    def pixels(self, spec: PreprocessSpec) -> NDArray[np.uint8]:
        """The preprocessed image, (H, W, C) uint8.

        Raises:
            UnreadableImageError: It cannot be read.
        """


@dataclass(frozen=True, slots=True)
class FileSource:
    """An image file.

    Attributes:
        path: The file.
    """

    path: Path

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    def stamp(self) -> tuple[str, str]:
        """The absolute path, and size and times of the file."""
        facts = self.path.stat()
        return str(self.path.absolute()), f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"

    def digest(self) -> str:
        """SHA-256 of the file."""
        try:
            return files.sha256(self.path)
        except OSError as error:
            reason = f"cannot be opened: {(error.strerror or str(error)).lower()}"
            raise UnreadableImageError(reason, where=self.where, fix="restore it or leave it out") from error

    def pixels(self, spec: PreprocessSpec) -> NDArray[np.uint8]:
        """Decodes the file."""
        return load_input(self.path, spec)


@dataclass(frozen=True, slots=True)
class SeriesSource:
    """A study that is the folder of its slices.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    def stamp(self) -> tuple[str, str]:
        """The absolute path, and names, sizes and times of the slices."""
        facts = [f"{path.name} {FileSource(path).stamp()[1]}" for path in series_files(self.path)]
        return str(self.path.absolute()), hashlib.sha256("\n".join(facts).encode()).hexdigest()

    def digest(self) -> str:
        """SHA-256 of the digests of the slices; their names and order do not matter."""
        try:
            each = sorted(FileSource(path).digest() for path in series_files(self.path))
        except OSError as error:
            reason = f"cannot be opened: {(error.strerror or str(error)).lower()}"
            raise UnreadableImageError(reason, where=self.where, fix="restore it or leave it out") from error
        return hashlib.sha256(" ".join(each).encode()).hexdigest()

    def pixels(self, spec: PreprocessSpec) -> NDArray[np.uint8]:
        """Reads the slices."""
        return load_input(self.path, spec)


def source_at(path: Path, kind: str) -> FileSource | SeriesSource:
    """What is at a path as an input of a kind of `InputSpec`: a file, or of volumes the folder of a series."""
    return SeriesSource(path) if READERS[kind].folders and is_folder(path) else FileSource(path)


@dataclass(frozen=True, slots=True)
class MaskSource:
    """The mask of an image, in one file or several.

    Attributes:
        paths: The files.
        image: Of which image.
    """

    paths: tuple[Path, ...]
    image: Path

    @property
    def where(self) -> str:
        """The first path."""
        return str(self.paths[0])

    def stamp(self) -> tuple[str, str]:
        """As of each file; of the image too, whose size it must have."""
        names, facts = zip(*(FileSource(path).stamp() for path in (*self.paths, self.image)), strict=True)
        return "|".join(names), "|".join(facts)

    def digest(self) -> str:
        """SHA-256 of the one file, or of the digests of several."""
        each = [FileSource(path).digest() for path in self.paths]
        return each[0] if len(each) == 1 else hashlib.sha256(" ".join(each).encode()).hexdigest()

    def pixels(self, spec: PreprocessSpec) -> NDArray[np.uint8]:
        """(H, W, 1) of 0 and 1."""
        return load_mask(self.paths, spec, self.image)


class Rows(Protocol):
    """An array, in memory or not, of which single rows are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""

    def __getitem__(self, row: int, /) -> NDArray[Any]:
        """A row.

        Raises:
            BadInputError: It cannot be read.
        """


@dataclass(frozen=True, slots=True)
class ArraySource:
    """An image that is one row of an array.

    Attributes:
        array: (N, H, W) or (N, H, W, C), uint8 or uint16; of volumes (N, D, H, W) or (N, D, H, W, C).
        row: Which one.
        where: What an error calls it.
    """

    array: Rows
    row: int
    where: str

    def stamp(self) -> None:
        """None: hashing an array is about as cheap as reading it."""

    def digest(self) -> str:
        """SHA-256 of shape, type and values."""
        image = np.ascontiguousarray(self.array[self.row])
        return hashlib.sha256(f"{image.shape} {image.dtype.str} ".encode() + image.tobytes()).hexdigest()

    def pixels(self, spec: PreprocessSpec) -> NDArray[np.uint8]:
        """Preprocesses the row."""
        return READERS[spec.input.kind].array(self.array[self.row], spec, self.where)


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a data set.

    Attributes:
        id: Unique name: the path relative to the set, with forward slashes, or `train/00012` in an .npz.
        label: As the set's task has it.
        patient: Whose image it is, where known.
        split: `train`, `val` or `test` where the set says so.
        source: Its pixels.
        mask: Where its label is a mask, that.
        slices: Of a positive study its positive slices, from 0, where somebody said them.
    """

    id: str
    label: Label
    patient: str | None
    split: str | None
    source: ImageSource
    mask: MaskSource | None = None
    slices: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Interpretation:
    """How a data set was understood, for who wants to check it.

    Attributes:
        columns: The column of a table that each role (`path`, `label`, `patient`, `split`) was read from.
        unused: The other columns.
        passed_over: What else lies in a folder, by kind, and how many.
        left_out: Images left out by their label, by label.
        merged: Values that were written in several ways, and images left out, a sentence each.
        notes: What else was understood and is as it should be, a sentence each.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    merged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A set of labelled images.

    Attributes:
        path: The folder, CSV or .npz it was read from.
        task: What the labels mean.
        items: The images.
        reading: How it was understood.
    """

    path: Path
    task: Task
    items: tuple[Item, ...]
    reading: Interpretation = field(default_factory=Interpretation)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the task."""
        return self.task.classes

    @property
    def labels(self) -> Labels:
        """(N,) or (N, K); see `ttl_deploy.tasks.task`."""
        return labels_of(self.items)

    @property
    def has_patients(self) -> bool:
        """Whether the patient of any image is known."""
        return any(item.patient is not None for item in self.items)

    @property
    def counts(self) -> dict[str, int]:
        """Images per class, in the order of the classes."""
        return dict(zip(self.classes, map(int, self.task.members(self.labels).sum(axis=0)), strict=True))


def labels_of(items: Sequence[Item]) -> Labels:
    """The labels of some images in one array: (N,) or (N, K)."""
    return np.array([item.label for item in items], dtype=np.int64)
