"""Reads a data set from what the user has: a folder per class, a CSV, MedMNIST's .npz or PatchCamelyon's .h5 files.

Everything that can be refused without decoding an image is refused here, in one line that names the file or line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ttl_deploy.data.columns import Columns
from ttl_deploy.data.h5_arrays import H5Arrays, is_h5
from ttl_deploy.data.image_paths import refuse_no_template
from ttl_deploy.data.items import ArraySource, Dataset, FileSource, ImageSource, Interpretation, Item, source_at
from ttl_deploy.data.listing import Entry, Listing
from ttl_deploy.data.one_label import settle_one
from ttl_deploy.data.own_sides import TABLES, refuse_sides, with_own_sides
from ttl_deploy.data.read_csv import read_csv
from ttl_deploy.data.read_folder import read_folder
from ttl_deploy.data.read_masks import list_masks, settle_masks
from ttl_deploy.data.read_npz import read_arrays, read_npz
from ttl_deploy.data.several_labels import UnknownPolicy, settle_several
from ttl_deploy.data.values import merged, one_writing
from ttl_deploy.errors import BadInputError, near
from ttl_deploy.files import exists, is_file, is_folder
from ttl_deploy.inputs.reading import READERS
from ttl_deploy.spec import Data, Reading, TaskSpec
from ttl_deploy.tasks import TASKS, Label, Task

__all__ = [
    "ArraySource",
    "Dataset",
    "FileSource",
    "ImageSource",
    "Item",
    "columns_of",
    "dataset_of",
    "read_dataset",
    "sides_of",
]

_SHOWN = 5
"""How many missing files an error names."""


def read_dataset(
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    ignore_other_labels: bool = False,
    patient_pattern: str | None = None,
    columns: Columns | None = None,
    sides: Mapping[str, Path] | None = None,
    options: bool = False,
    task: TaskSpec = TaskSpec(),  # noqa: B008 - a frozen record
    unknown: UnknownPolicy = "ignore",
    kind: str = "image",
) -> Dataset:
    """Reads a data set; no image is decoded.

    Labels and patients that are written in several ways (`0` and `0.0`, `Normal` and `normal`) are one each; see
    `ttl_deploy.data.values`.

    Args:
        path: A folder with one folder per class, on its own or below train, val and test; a .csv with the columns path,
            label and, where known, patient_id and split; an .npz in MedMNIST's layout; or PatchCamelyon's folder. Where
            an image may have several labels, they are joined by `|` in one cell, or have a column of 1, 0 and -1 each.
        classes: Names and order of the classes (for an .npz the names of the labels 0, 1, …). None: as found, numbers
            sorted by value.
        ignore_other_labels: Leave out images whose label is not in `classes` instead of refusing them; where an image
            may have several labels, leave out the label and keep the image.
        patient_pattern: Regular expression with one group that finds the patient in an image's id, for data that has no
            patient_id; in the cell where `columns` names one of patients.
        columns: How a table is read; None: by the names of its columns.
        sides: A table or list of the images of `val` and `test`; see `ttl_deploy.data.own_sides`.
        options: Whether the command has options for classes and columns, so that an error may name them.
        task: What the labels mean.
        unknown: Of several labels, what one counts as of which nothing is known.
        kind: Of the inputs, as in `InputSpec`: of volumes, a path of a table may be the folder of a series.

    Returns:
        The data set, in the order of the input.

    Raises:
        BadInputError: Anything about it cannot be used; the error names the file or line and the way out.
    """
    of_task, columns, sides = TASKS.get(task.kind), columns or Columns(), sides or {}
    several = of_task.SEVERAL
    _refuse_contradictions(path, columns, sides, options=options, several=several)
    if not exists(path):
        raise BadInputError("no such file or folder", where=path, fix=_neighbours(path))
    if of_task.DENSE:
        listing = _masks(path, columns, sides, options=options)
        found = settle_masks(path, listing, classes, task)
    elif several:
        listing = _list(path, classes, columns, sides, options=options, several=True, kind=kind)
        found = settle_several(
            path, listing, classes, task, ignore=ignore_other_labels, unknown=unknown, options=options
        )
    else:
        listing = _list(path, classes, columns, sides, options=options, several=False, kind=kind)
        found = settle_one(path, listing, classes, task, ignore=ignore_other_labels, options=options)
    entries = _with_folders(found.entries, kind)
    _refuse_missing(path, entries, columns.template if options else None)
    if patient_pattern is not None and columns.patient:
        entries = _patients_within(entries, pattern_of_patients(patient_pattern))
    entries, of_patients = _one_writing_of_patients(entries)
    if patient_pattern is not None and not columns.patient:
        entries = _with_patients(path, listing, entries, patient_pattern)
    items = tuple(
        Item(e.id, label, e.patient, e.split, e.source, e.mask, e.slices)
        for e, label in zip(entries, found.labels, strict=True)
    )
    _refuse_slices(path, found.task, entries, found.labels)
    reading = Interpretation(
        columns=listing.columns,
        unused=listing.unused,
        passed_over=listing.passed_over,
        left_out=found.left_out,
        merged=(*listing.told, *found.told, *of_patients),
        notes=(*listing.notes, *found.notes),
    )
    return Dataset(path, found.task, items, reading)


def dataset_of(data: Data, kind: str = "image") -> Dataset:
    """The images that a user asks for, with their classes, patients and sides; none is decoded.

    Args:
        data: What the user says of them.
        kind: Of the inputs that the network takes.

    Raises:
        BadInputError: Anything about them cannot be used.
    """
    return read_dataset(
        data.path,
        classes=data.classes,
        ignore_other_labels=data.ignore_other_labels,
        patient_pattern=data.patient_pattern,
        columns=columns_of(data),
        sides=sides_of(data),
        options=True,
        task=data.task_spec,
        unknown=data.unknown,
        kind=kind,
    )


def columns_of(reading: Reading) -> Columns:
    """How a user, or a run, says that a table is read."""
    return Columns(
        reading.path_column,
        reading.label_column,
        reading.patient_column,
        reading.split_column,
        labels=reading.label_columns,
        separator=reading.labels_separator,
        template=reading.path_template,
        slices=reading.slices_column,
    )


def sides_of(reading: Reading) -> dict[str, Path]:
    """The files of single sides."""
    said = {"val": reading.val_data, "test": reading.test_data}
    return {side: Path(file) for side, file in said.items() if file is not None}


def refuse_misreading(data: Data) -> None:
    """Refuses what a user says of tables, patients and sides, as far as it is seen to be wrong without the data.

    Raises:
        BadInputError: A template or a pattern is none, options contradict each other, or a side's file is not there.
    """
    several = TASKS.get(data.task).SEVERAL
    _refuse_contradictions(data.path, columns_of(data), sides_of(data), options=True, several=several)
    if data.patient_pattern is not None:
        pattern_of_patients(data.patient_pattern)


def _refuse_contradictions(
    path: Path, columns: Columns, sides: Mapping[str, Path], *, options: bool, several: bool
) -> None:
    if columns.template is not None:
        refuse_no_template(columns.template)
    if columns.labels is not None and columns.label:
        raise BadInputError("--label-column and --label-columns are both given", where=path, fix="leave one out")
    if columns.separator is not None and columns.labels is not None:
        what = "--labels-separator divides one column, and --label-columns names several"
        raise BadInputError(what, where=path, fix="leave one out")
    if columns.separator is not None and not several:
        fix = "leave it out, or say that images may have several: multilabel"
        raise BadInputError("every image has one label in this task", where="--labels-separator", fix=fix)
    refuse_sides(columns, sides, options=options)


def _masks(path: Path, columns: Columns, sides: Mapping[str, Path], *, options: bool) -> Listing:
    needless = [name for name in ("labels", "separator", "template") if getattr(columns, name) is not None]
    if needless or sides:
        words = {"labels": "--label-columns", "separator": "--labels-separator", "template": "--path-template"}
        option = words[needless[0]] if needless else f"--{next(iter(sides))}-data"
        raise BadInputError("is of labels, not of masks", where=option, fix="leave it out")
    return list_masks(path, columns, options=options)


def _list(
    path: Path,
    classes: Sequence[str] | None,
    columns: Columns,
    sides: Mapping[str, Path],
    *,
    options: bool,
    several: bool,
    kind: str,
) -> Listing:
    arrays = is_h5(path)
    of_tables = [*columns.of_tables, *(f"--{side}-data" for side in sides)]
    needless = [option for option in of_tables if not (arrays and option == "--patient-column")]
    if needless and path.suffix.lower() not in TABLES:
        raise BadInputError("is no table", where=path, fix=f"leave {needless[0]} out, or pass a .csv")
    if arrays:
        opened = H5Arrays(path, columns.patient)
        listing = read_arrays(path, opened, classes, several=several, options=options, kind=kind)
        return replace(listing, columns={"patient": columns.patient} if columns.patient else {})
    if path.is_dir():
        return read_folder(path, kind)
    if path.suffix.lower() in TABLES:
        return _tables(path, classes, columns, sides, options=options, several=several)
    if path.suffix.lower() == ".npz":
        return read_npz(path, classes, several=several, options=options, kind=kind)
    raise BadInputError("is not a data set", where=path, fix="pass a folder with one folder per class, a .csv or .npz")


def _tables(
    path: Path,
    classes: Sequence[str] | None,
    columns: Columns,
    sides: Mapping[str, Path],
    *,
    options: bool,
    several: bool,
) -> Listing:
    columns = replace(columns, split="") if sides else columns
    listing = read_csv(path, columns, options=options, classes=classes, several=several)
    # A label that no image of a small table has is a label all the same.
    alike = columns if listing.classes is None else replace(columns, label=None, labels=listing.classes)

    def read(table: Path) -> Listing:
        return read_csv(table, alike, options=options, classes=classes, several=several)

    return with_own_sides(path, listing, sides, read) if sides else listing


def _refuse_slices(path: Path, task: Task, entries: Sequence[Entry], labels: Sequence[Label]) -> None:
    """Raises `BadInputError` where slices are named that no label makes positive."""
    named = [(entry, label) for entry, label in zip(entries, labels, strict=True) if entry.slices is not None]
    if not named:
        return
    if len(task.telling) != 1:
        what = f"positive slices are of one label or the second of two classes, not of {', '.join(task.classes)}"
        raise BadInputError(what, where=path, fix="leave --slices-column out")
    yes = task.members(np.array([label for _entry, label in named]))[:, task.classes.index(task.telling[0])]
    wrong = next((entry for (entry, _label), right in zip(named, yes, strict=True) if not right), None)
    if wrong is not None:
        what = f"names positive slices of {wrong.id}, which is not {task.telling[0]}"
        raise BadInputError(what, where=wrong.place, fix="correct the label, or leave the cell of slices blank")


def _with_folders(entries: Sequence[Entry], kind: str) -> list[Entry]:
    """The entries, of which those that name a folder are the series in it, where a kind of inputs has such."""
    if not READERS[kind].folders:
        return list(entries)
    return [
        replace(entry, source=source_at(entry.source.path, kind)) if isinstance(entry.source, FileSource) else entry
        for entry in entries
    ]


def _neighbours(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if is_folder(path.parent) else []
    return near(path.name, sorted(names)) if names else f"{path.parent} has nothing to choose from"


def _one_writing_of_patients(entries: list[Entry]) -> tuple[list[Entry], list[str]]:
    counts = Counter(entry.patient for entry in entries if entry.patient is not None)
    writing = one_writing(counts)
    groups = merged(writing)
    if not groups:
        return entries, []
    name, group = min(groups.items())
    others = f" and {len(groups) - 1:,} more" if len(groups) > 1 else ""
    told = f"patient {name} is written in {len(group)} ways ({', '.join(group)}){others}: each is one patient"
    return [replace(e, patient=writing[e.patient]) if e.patient else e for e in entries], [told]


def _refuse_missing(path: Path, entries: list[Entry], template: str | None) -> None:
    sources = [(e.id, e.source) for e in entries]
    gone = [(name, s.path) for name, s in sources if isinstance(s, FileSource) and not is_file(s.path)]
    if not gone:
        return
    missing = [name for name, _ in gone]
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    wrong = "the paths, which are" if template is None else f"--path-template {template}, which is"
    raise BadInputError(
        f"{len(missing)} of {len(entries)} images listed {'is' if len(missing) == 1 else 'are'} missing: "
        f"{', '.join(missing[:_SHOWN])}{more}",
        where=path,
        fix=f"restore them or correct {wrong} relative to {path.parent}{_alike(gone[0][1])}",
    )


def _alike(gone: Path) -> str:
    """The files whose names are like that of a missing one: another case, another ending."""
    folder = gone.parent
    names = [entry.name for entry in folder.iterdir() if entry.is_file()] if is_folder(folder) else []
    alike = [name for name in sorted(names) if Path(name).stem.casefold() == gone.stem.casefold()]
    return f"; beside {gone.name} there is {', '.join(alike[:_SHOWN])}" if alike else ""


def _with_patients(path: Path, listing: Listing, entries: list[Entry], pattern: str) -> list[Entry]:
    if any(entry.patient is not None for entry in entries):
        column = listing.columns.get("patient", "of patients")
        raise BadInputError(f"has patients already: {column}", where=path, fix="leave --patient-pattern out")
    expression = pattern_of_patients(pattern)
    return [replace(entry, patient=_patient(entry, expression)) for entry in entries]


def pattern_of_patients(pattern: str) -> re.Pattern[str]:
    """The regular expression that finds the patient in an image's id.

    Raises:
        BadInputError: It is none, or has not one group.
    """
    fix = r"put one pair of parentheses around the patient, as in (P\d+)_"
    try:
        expression = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        fault = f"{pattern!r:.80} is not a regular expression: {error}"
        raise BadInputError(fault, where="--patient-pattern", fix=fix) from error
    if expression.groups != 1:
        fault = f"{pattern!r:.80} has {expression.groups} groups"
        raise BadInputError(fault, where="--patient-pattern", fix=fix)
    return expression


def _patients_within(entries: list[Entry], expression: re.Pattern[str]) -> list[Entry]:
    """The patients as the pattern finds them in the cells of a column."""
    fix = "correct the pattern or the cell"
    return [
        entry if entry.patient is None else replace(entry, patient=_found(expression, entry.patient, entry.place, fix))
        for entry in entries
    ]


def _patient(entry: Entry, expression: re.Pattern[str]) -> str:
    return _found(expression, entry.id, entry.place, "correct the pattern or rename the file")


def _found(expression: re.Pattern[str], text: str, place: str, fix: str) -> str:
    found = expression.search(text)
    if found is None or not found[1]:
        what = f"--patient-pattern {expression.pattern!r} finds no patient in {text}"
        raise BadInputError(what, where=place, fix=fix)
    return found[1]
