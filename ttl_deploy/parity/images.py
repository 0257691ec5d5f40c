"""The images that two models are compared on, when they are not the test split of a run: with labels or without.

Labelled sets are read by `ttl_deploy.data`; where a set has a test side of its own, that is taken. Without labels, a
folder of images, a CSV with the column `path`, or an .npz with `test_images` will do. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ttl_deploy.data.cache import PixelCache
from ttl_deploy.data.columns import normal
from ttl_deploy.data.h5_arrays import is_h5
from ttl_deploy.data.image_paths import ImagePaths
from ttl_deploy.data.items import ArraySource, Dataset, Item, source_at
from ttl_deploy.data.manifest import columns_of, read_dataset
from ttl_deploy.data.npz_arrays import NpzArrays
from ttl_deploy.data.prepared import Prepared, assemble, cached_masks
from ttl_deploy.data.read_csv import locate, open_table
from ttl_deploy.data.read_folder import is_leftover
from ttl_deploy.data.read_npz import images_of
from ttl_deploy.errors import BadInputError
from ttl_deploy.inputs.reading import READERS
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import PreprocessSpec, Reading
from ttl_deploy.tasks import Label, Task


def read_items(path: Path, task: Task, reading: Reading = Reading(), kind: str = "image") -> Dataset:
    """The images of a data set, or of its test side where it has one.

    Args:
        path: A folder, CSV or .npz.
        task: The models' own; a label that is none of its classes is refused.
        reading: How a table is read.
        kind: Of the inputs, as in `InputSpec`.

    Returns:
        A data set; where it has no labels, all are `Task.unlabelled`.

    Raises:
        BadInputError: There is nothing to read, or a label is not a class.
    """
    unlabelled = _unlabelled(path, task, reading, kind)
    if unlabelled is not None:
        if not unlabelled:
            raise BadInputError("holds no image", where=path, fix="pass a folder, CSV or .npz of images")
        return Dataset(path, task, unlabelled)
    dataset = read_dataset(
        path,
        classes=task.classes,
        ignore_other_labels=reading.ignore_other_labels,
        patient_pattern=reading.patient_pattern,
        columns=columns_of(reading),
        task=task.spec,
        unknown=reading.unknown,
        kind=kind,
    )
    tested = tuple(item for item in dataset.items if item.split == "test")
    return replace(dataset, items=tested or dataset.items)


def prepare_items(
    items: Sequence[Item],
    task: Task,
    preprocess: PreprocessSpec,
    *,
    cache: Path | None = None,
    reporter: Reporter = SILENT,
) -> Prepared:
    """Decodes images; all of them count as the test side.

    Raises:
        UnreadableImageError: An image cannot be read.
    """
    cached = PixelCache(cache, preprocess).ensure(items, skip_unreadable=False, reporter=reporter)
    masks = cached_masks(items, preprocess, cache, reporter)
    return assemble(task, items, ["test"] * len(items), cached, masks)


def _unlabelled(path: Path, task: Task, reading: Reading, kind: str) -> tuple[Item, ...] | None:
    """The images of a set that has no labels; None where it has some, or is nothing we know."""
    if is_h5(path):
        return None
    if path.is_dir():
        return _loose(path, task.unlabelled, kind)
    if path.suffix.lower() == ".csv" and path.is_file():
        return _listed(path, task, reading, kind)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _rows(path, task.unlabelled, kind)
    return None


def _loose(folder: Path, label: Label, kind: str) -> tuple[Item, ...] | None:
    reader = READERS[kind]
    if reader.is_folder(folder):
        return (Item(folder.name, label, None, None, source_at(folder, kind)),)
    kept = [entry for entry in folder.iterdir() if not is_leftover(entry.name)]
    if any(entry.is_dir() and not reader.is_folder(entry) for entry in kept):
        return None
    found = sorted(entry for entry in kept if entry.is_dir() or (entry.is_file() and reader.is_file(entry)))
    return tuple(Item(entry.name, label, None, None, source_at(entry, kind)) for entry in found)


def _listed(table: Path, task: Task, reading: Reading, kind: str) -> tuple[Item, ...] | None:
    if reading.label_column or reading.label_columns:
        return None
    column = (reading.path_column or "path").lower()
    try:
        (_, header), *rows = open_table(table, required=(column,), optional=("label",))
    except (BadInputError, ValueError):
        return None  # the reader of labelled tables says what is wrong
    columns = {normal(name) for name in header}
    if not rows or "label" in header or (task.SEVERAL and any(normal(name) in columns for name in task.classes)):
        return None
    template = reading.path_template
    paths = ImagePaths(table, template) if template is not None else None
    cells = [(cells[column], f"{table}:{line}") for line, cells in rows if cells.get(column)]
    found = [cell if paths is None else paths.of(cell, place) for cell, place in cells]
    names = dict.fromkeys(locate(table.parent, path)[0] for path in found)
    return tuple(Item(name, task.unlabelled, None, None, source_at(table.parent / name, kind)) for name in names)


def _rows(path: Path, label: Label, kind: str) -> tuple[Item, ...] | None:
    try:
        arrays = NpzArrays(path)
    except BadInputError:
        return None  # the reader of labelled arrays says what is wrong
    if "test_images" not in arrays.names or any(name.endswith("_labels") for name in arrays.names):
        return None
    images = images_of(path, arrays, "test_images", kind)
    names = [f"test/{row:05d}" for row in range(len(images))]
    return tuple(
        Item(name, label, None, None, ArraySource(images, row, f"{path}:{name}")) for row, name in enumerate(names)
    )
