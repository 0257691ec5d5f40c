"""A data set ready to train or test on: read, decoded into the cache, and divided.

`split.csv` records a division with the content of every image, and `prepare_like` rebuilds exactly that division or
says which image is no longer the same.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import files
from ttl_deploy.data.cache import Cached, PixelCache
from ttl_deploy.data.items import Dataset, Item, labels_of
from ttl_deploy.data.sides import SIDES
from ttl_deploy.data.splits import divide
from ttl_deploy.data.understood import Understood, understand
from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import PreprocessSpec, SplitSpec
from ttl_deploy.tasks import Labels, Task

_COLUMNS = ("id", "label", "patient_id", "split", "sha256")
LEAST_SLICES = 4
"""Positive slices of a positive window (Huang 2020)."""
_SHOWN = 5
"""How many images an error names."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Images with their labels, sides and pixels; all sequences run in parallel.

    Attributes:
        task: What the labels mean.
        ids: Image ids.
        labels: (N,) or (N, K) int64, as the task has them.
        patients: Patient of each image, where known.
        digests: Content digest of each image.
        sides: (N,) `train`, `val` or `test`.
        cached: The pixels.
        masks: Those of the masks, where labels are masks.
        understood: What was understood, where the data was read anew.
        slices: See `Item`.
    """

    task: Task
    ids: tuple[str, ...]
    labels: Labels
    patients: tuple[str | None, ...]
    digests: tuple[str, ...]
    sides: NDArray[np.str_]
    cached: Cached
    masks: Cached | None = None
    understood: Understood | None = None
    slices: tuple[tuple[int, ...] | None, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the task."""
        return self.task.classes

    @property
    def words(self) -> list[str]:
        """The label of each image, as files have it."""
        return [self.task.text(label) for label in self.task.rows(self.labels)]

    def indices(self, side: str) -> NDArray[np.int64]:
        """Positions of the images of a side, in order."""
        return np.flatnonzero(self.sides == side).astype(np.int64)

    def positions(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Positions of the images of some ids, in their order."""
        place = {image: i for i, image in enumerate(self.ids)}
        return np.array([place[image] for image in ids], dtype=np.int64)

    def inputs(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of the network's inputs, see `Cached`, of the images at some positions: all of each, in order."""
        first, counts = self.cached.first_inputs[indices], self.counts(indices)
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(first, counts) + within

    def counts(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many inputs each of the images at some positions is: one, or the windows of a study."""
        return self.cached.counts[indices]

    def shown(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """One input for each of the images at some positions: of a study in windows the middle one."""
        return self.cached.first_inputs[indices] + self.counts(indices) // 2

    def images_of(self, inputs: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions of the images that some inputs are of."""
        return np.searchsorted(self.cached.first_inputs, inputs, side="right").astype(np.int64) - 1

    def input_pixels(self, inputs: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(M, H, W, C) uint8, or (M, D, H, W, C), of some inputs."""
        return self.cached.read(inputs)

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The same of the images at some positions, one input of each; see `shown`."""
        return self.cached.read(self.shown(indices))

    def targets(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """What a model is to say of the images at some positions: their labels, or masks (M, 1, H, W) of 0 and 1."""
        if self.masks is None:
            return self.labels[indices]
        return np.moveaxis(self.masks.read(indices), -1, 1)

    def input_targets(self, inputs: NDArray[np.int64]) -> NDArray[Any]:
        """What a model is to say of some inputs: their labels, or the masks of their images."""
        return self.input_labels(inputs) if self.masks is None else self.targets(self.images_of(inputs))

    def input_labels(self, inputs: NDArray[np.int64]) -> Labels:
        """The labels of some inputs: those of their images, but of windows that are negative.

        A window of a positive study is negative where it has fewer than `LEAST_SLICES` of the slices that are said to
        be positive (Huang 2020); where nobody said which they are, it is as its study.
        """
        labels = self.labels[self.images_of(inputs)]
        if self._negative is not None:
            labels[self._negative[inputs]] = 0
        return labels

    @cached_property
    def _negative(self) -> NDArray[np.bool_] | None:
        """(M,) whether each input is a negative window of a positive study; None where nobody says."""
        if not any(said is not None for said in self.slices) or self.cached.windows is None:
            return None
        depth, found = self.cached.windows[0], []
        for said, count, starts in zip(self.slices, self.cached.counts, self.cached.starts, strict=True):
            slices = np.array(() if said is None else said, dtype=np.int64)
            within = (slices >= starts[:, None]) & (slices < starts[:, None] + depth)
            found.append(np.zeros(count, bool) if said is None else within.sum(axis=1) < LEAST_SLICES)
        return np.concatenate(found)

    def data_digest(self) -> str:
        """Hex SHA-256 over id, content, class, patient and positive slices of all images.

        Their order and division do not matter.
        """
        whole = hashlib.sha256()
        slices = self.slices or (None,) * len(self.ids)
        for *facts, said in sorted(zip(self.ids, self.digests, self.words, self.patients, slices, strict=True)):
            whole.update(json.dumps(facts if said is None else [*facts, said]).encode() + b"\n")
        return whole.hexdigest()


class SplitRow(NamedTuple):
    """A line of `split.csv`."""

    id: str
    label: str
    patient: str | None
    side: str
    digest: str


def prepare(
    dataset: Dataset,
    preprocess: PreprocessSpec,
    split: SplitSpec,
    *,
    cache_folder: Path | None = None,
    skip_unreadable: bool = False,
    reporter: Reporter = SILENT,
) -> Prepared:
    """Decodes and divides a data set.

    Args:
        dataset: The images.
        preprocess: Decides their pixels.
        split: How to divide them.
        cache_folder: Where pixels are kept; None: the user's cache.
        skip_unreadable: Leave out images that cannot be read.
        reporter: Told of progress, of images left out and of how the data was divided.

    Raises:
        UnreadableImageError: Images cannot be read.
        BadInputError: The data cannot be divided as asked.
        StorageError: The cache cannot be written.
    """
    cache = PixelCache(cache_folder, preprocess)
    cached = cache.ensure(
        dataset.items,
        skip_unreadable=skip_unreadable,
        fix="restore them, or pass --skip-unreadable to leave them out",
        reporter=reporter,
    )
    for problem in cached.unreadable:
        reporter.warn(f"left out: {problem}")
    readable = replace(dataset, items=tuple(dataset.items[i] for i in cached.kept))
    division = divide(readable, split, cached.contents())
    understood = understand(readable, division.sides, cached)
    understood.tell(reporter)
    for note in division.notes:
        reporter.info(note)
    for warning in division.warnings:
        reporter.warn(warning)
    masks = cached_masks(readable.items, preprocess, cache_folder, reporter)
    prepared = assemble(readable.task, readable.items, division.sides, cached, masks)
    return replace(prepared, understood=understood)


def prepare_like(
    dataset: Dataset,
    preprocess: PreprocessSpec,
    split_csv: Path,
    *,
    cache_folder: Path | None = None,
    fix: str = "restore the data as it was",
    reporter: Reporter = SILENT,
) -> Prepared:
    """Decodes the images of an earlier division and puts each on the side it had.

    Images that the division does not list are left out; patients are those of the division.

    Args:
        dataset: The images, where they are now.
        preprocess: Decides their pixels.
        split_csv: The division.
        cache_folder: Where pixels are kept; None: the user's cache.
        fix: What to do where the images are other ones.
        reporter: Told of progress.

    Raises:
        BadInputError: An image is missing, or its content or label is another; the error names it.
        IntegrityError: The division cannot be read.
        StorageError: The cache cannot be written.
    """
    rows = read_split(split_csv)
    items = _matched(dataset, rows, fix)
    cached = PixelCache(cache_folder, preprocess).ensure(items, skip_unreadable=False, reporter=reporter)
    changed = [row.id for row, digest in zip(rows, cached.digests, strict=True) if row.digest != digest]
    _refuse(changed, "changed", dataset, fix)
    masks = cached_masks(items, preprocess, cache_folder, reporter)
    return assemble(dataset.task, items, [row.side for row in rows], cached, masks)


def cached_masks(
    items: Sequence[Item], preprocess: PreprocessSpec, folder: Path | None, reporter: Reporter = SILENT
) -> Cached | None:
    """The masks of some images, in the geometry of their pixels; None where labels are no masks.

    Raises:
        UnreadableImageError: A mask cannot be read, or is not of its image.
    """
    sources = [item.mask for item in items]
    if not sources or any(source is None for source in sources):
        return None
    drawn = [replace(item, source=source) for item, source in zip(items, sources, strict=True) if source is not None]
    fix = "restore them, or leave their images out"
    return PixelCache(folder, preprocess, masks=True).ensure(drawn, skip_unreadable=False, fix=fix, reporter=reporter)


def write_split(path: Path, prepared: Prepared) -> None:
    """Writes the division as CSV: id, label, patient_id, split, sha256.

    Raises:
        StorageError: The disk is full, read-only or failing.
    """
    patients = [patient or "" for patient in prepared.patients]
    rows = zip(prepared.ids, prepared.words, patients, prepared.sides.tolist(), prepared.digests, strict=True)
    files.write_text(path, "".join(map(files.csv_row, (_COLUMNS, *rows))))


def read_split(path: Path) -> tuple[SplitRow, ...]:
    """Reads what `write_split` wrote.

    Raises:
        IntegrityError: It is missing or damaged.
    """
    try:
        if not path.is_file():
            raise OSError("not a file")
        with path.open(newline="", encoding="utf-8", errors=files.UNDECODED) as handle:
            header, *lines = map(files.plain_cells, csv.reader(handle))
        rows = tuple(SplitRow(name, label, patient or None, side, sha) for name, label, patient, side, sha in lines)
    except (OSError, ValueError, csv.Error) as error:
        raise IntegrityError("is missing or damaged", where=path, fix="restore it or train again") from error
    if tuple(header) != _COLUMNS or not rows or not {row.side for row in rows} <= set(SIDES):
        raise IntegrityError("is not a division", where=path, fix="restore it or train again")
    return rows


def assemble(
    task: Task, items: Sequence[Item], sides: Sequence[str], cached: Cached, masks: Cached | None = None
) -> Prepared:
    """Puts together what belongs to the same images: their facts, sides and pixels.

    Raises:
        BadInputError: A slice is named that a study in windows has not.
    """
    _refuse_beyond(items, cached)
    return Prepared(
        task=task,
        ids=tuple(item.id for item in items),
        labels=labels_of(items),
        patients=tuple(item.patient for item in items),
        digests=cached.digests,
        sides=np.array(sides, dtype="<U5"),
        cached=cached,
        masks=masks,
        slices=tuple(item.slices for item in items),
    )


def _refuse_beyond(items: Sequence[Item], cached: Cached) -> None:
    for item, slices in zip(items, () if cached.slices is None else cached.slices.tolist(), strict=False):
        if item.slices is not None and item.slices[-1] >= slices:
            what = f"slice {item.slices[-1] + 1} is named as positive, and the study has {slices}"
            raise BadInputError(what, where=item.source.where, fix="correct the cell of slices")


def _matched(dataset: Dataset, rows: Sequence[SplitRow], fix: str) -> list[Item]:
    """The items of a division in its order, with its patients."""
    items = {item.id: item for item in dataset.items}
    _refuse([row.id for row in rows if row.id not in items], "missing", dataset, fix)
    relabelled = [row.id for row in rows if dataset.task.text(items[row.id].label) != row.label]
    _refuse(relabelled, "labelled otherwise", dataset, fix)
    return [replace(items[row.id], patient=row.patient) for row in rows]


def _refuse(ids: Sequence[str], how: str, dataset: Dataset, fix: str) -> None:
    if ids:
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        some = ", ".join(f"{id:.80}" for id in ids[:_SHOWN])
        raise BadInputError(
            f"not the images of this run: {len(ids)} {how} since ({some}{more})",
            where=dataset.path,
            fix=f"{fix}, or train a new run",
        )
