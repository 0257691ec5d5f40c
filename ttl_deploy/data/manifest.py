"""Reads a data set from what the user has: a folder per class, a CSV, or an .npz in MedMNIST's layout.

Everything that can be refused without decoding an image is refused here, in one line that names the file or line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ttl_deploy.data.columns import NAMES, Columns
from ttl_deploy.data.items import ArraySource, Dataset, FileSource, ImageSource, Item, Reading
from ttl_deploy.data.listing import Entry, Listing
from ttl_deploy.data.read_csv import read_csv
from ttl_deploy.data.read_folder import read_folder
from ttl_deploy.data.read_npz import read_npz
from ttl_deploy.data.values import is_missing, merged, one_writing, same_value, whole_number
from ttl_deploy.errors import BadInputError, near
from ttl_deploy.files import exists, is_file, is_folder
from ttl_deploy.spec import Data

__all__ = ["ArraySource", "Dataset", "FileSource", "ImageSource", "Item", "dataset_of", "read_dataset"]

TABLES = frozenset({".csv", ".tsv"})
"""Endings of a table, in lower case."""

_SHOWN = 5
"""How many missing files an error names."""


def read_dataset(
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    ignore_other_labels: bool = False,
    patient_pattern: str | None = None,
    columns: Columns | None = None,
    options: bool = False,
) -> Dataset:
    """Reads a data set; no image is decoded.

    Labels and patients that are written in several ways (`0` and `0.0`, `Normal` and `normal`) are one each; see
    `ttl_deploy.data.values`.

    Args:
        path: A folder with one folder per class, on its own or below train, val and test; a .csv with the columns path,
            label and, where known, patient_id and split; or an .npz in MedMNIST's layout.
        classes: Names and order of the classes (for an .npz the names of the labels 0, 1, …). None: as found, numbers
            sorted by value.
        ignore_other_labels: Leave out images whose label is not in `classes` instead of refusing them.
        patient_pattern: Regular expression with one group that finds the patient in an image's id, for data that has no
            patient_id.
        columns: Which columns of a table to use; None: found by their names.
        options: Whether the command has options for classes and columns, so that an error may name them.

    Returns:
        The data set, in the order of the input.

    Raises:
        BadInputError: Anything about it cannot be used; the error names the file or line and the way out.
    """
    listing = _list(path, classes, columns, options=options)
    _refuse_unlabelled(listing, classes, ignore=ignore_other_labels, options=options)
    listing, of_labels = _one_writing_of_labels(listing, classes)
    names = _settle_classes(path, listing, classes)
    entries, left_out = _of_classes(listing.entries, names, ignore=ignore_other_labels, options=options)
    _refuse_unpopulated(path, listing, entries, names)
    _refuse_missing(path, entries)
    entries, of_patients = _one_writing_of_patients(entries)
    if patient_pattern is not None:
        entries = _with_patients(path, listing, entries, patient_pattern)
    labels = {name: index for index, name in enumerate(names)}
    items = tuple(Item(e.id, labels[e.label], e.patient, e.split, e.source) for e in entries)
    found = Reading(
        listing.columns, listing.unused, listing.passed_over, left_out, (*listing.told, *of_labels, *of_patients)
    )
    return Dataset(path, names, items, found)


def dataset_of(data: Data) -> Dataset:
    """The images that a user asks for, with their classes, patients and sides; none is decoded.

    Raises:
        BadInputError: Anything about them cannot be used.
    """
    return read_dataset(
        data.path,
        classes=data.classes,
        ignore_other_labels=data.ignore_other_labels,
        patient_pattern=data.patient_pattern,
        columns=Columns(data.path_column, data.label_column, data.patient_column, data.split_column),
        options=True,
    )


def _list(path: Path, classes: Sequence[str] | None, columns: Columns | None, *, options: bool) -> Listing:
    if not exists(path):
        raise BadInputError("no such file or folder", where=path, fix=_neighbours(path))
    named = [role for role in NAMES if columns is not None and getattr(columns, role)]
    if named and path.suffix.lower() not in TABLES:
        raise BadInputError("is no table", where=path, fix=f"leave --{named[0]}-column out, or pass a .csv")
    if path.is_dir():
        return read_folder(path)
    if path.suffix.lower() in TABLES:
        return read_csv(path, columns, options=options)
    if path.suffix.lower() == ".npz":
        return read_npz(path, classes)
    raise BadInputError("is not a data set", where=path, fix="pass a folder with one folder per class, a .csv or .npz")


def _neighbours(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if is_folder(path.parent) else []
    return near(path.name, sorted(names)) if names else f"{path.parent} has nothing to choose from"


def _settle_classes(path: Path, listing: Listing, classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is None:
        found = {entry.label for entry in listing.entries} | set(listing.empty)
        names = tuple(sorted(found, key=_by_value))
    else:
        names = tuple(classes)
    undecoded = [name for name in names if not name.isascii() and _is_undecoded(name)]
    if undecoded:
        raise BadInputError(
            f"class {undecoded[0]!r} is not UTF-8 text",
            where=path,
            fix="rename its folder, or pass a CSV with the columns path and label",
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadInputError(f"class {twice[0]!r} is given twice", where="--classes", fix="name each class once")
    if len(names) < 2:
        found_line = f"has {len(names)} class{'' if len(names) == 1 else 'es'} ({', '.join(names) or 'none'})"
        raise BadInputError(found_line, where=path, fix=listing.hint)
    return names


def _is_undecoded(name: str) -> bool:
    """Whether a name holds bytes that are no text; it then cannot be written into a model."""
    return any("\udc80" <= letter <= "\udcff" for letter in name)


def _by_value(name: str) -> tuple[tuple[int, int, str, str], ...]:
    """Sort key that puts grade 2 before grade 10."""
    parts = [(part, whole_number(part) if part.isdecimal() else "") for part in re.split(r"(\d+)", name) if part]
    # Of two whole numbers the shorter is the smaller.
    return tuple((0, len(digits), digits, part) if digits else (1, 0, "", part) for part, digits in parts)


def _refuse_unlabelled(listing: Listing, classes: Sequence[str] | None, *, ignore: bool, options: bool) -> None:
    """A table's `nan` is no class, unless the user names one so."""
    if not listing.is_table or (ignore and classes is not None):
        return
    for entry in listing.entries:
        if is_missing(entry.label) and not any(same_value(name, entry.label) for name in classes or ()):
            how = f"is {entry.label!r}, which says that there is none" if entry.label else "is blank"
            way = "; where it is a class, list all classes with --classes" if entry.label and options else ""
            raise BadInputError(f"the label {how}", where=entry.place, fix=f"fill it in or remove the line{way}")


def _one_writing_of_labels(listing: Listing, classes: Sequence[str] | None) -> tuple[Listing, list[str]]:
    """The listing with one writing per class, that of `classes` where they are given; and what was merged."""
    counts = Counter(entry.label for entry in listing.entries) + Counter(dict.fromkeys(listing.empty, 1))
    writing = one_writing(counts) if classes is None else _as_named(counts, classes)
    entries = [replace(e, label=writing[e.label]) if writing[e.label] != e.label else e for e in listing.entries]
    filled = {entry.label for entry in entries}
    empty = tuple(name for name in listing.empty if writing[name] not in filled)
    told = [
        f"class {name} is written in {len(group)} ways: {', '.join(f'{text} ({counts[text]:,})' for text in group)}"
        for name, group in merged(writing).items()
    ]
    return replace(listing, entries=entries, empty=empty), told


def _as_named(counts: Counter[str], classes: Sequence[str]) -> dict[str, str]:
    """Each label as the user writes it; a label that two of the user's classes may mean stays as it is."""
    exact = set(classes)
    found = {}
    for label in counts:
        same = [label] if label in exact else [name for name in classes if same_value(name, label)]
        found[label] = same[0] if len(same) == 1 else label
    return found


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


def _of_classes(
    entries: list[Entry], names: Sequence[str], *, ignore: bool, options: bool
) -> tuple[list[Entry], dict[str, int]]:
    """The images of the classes, and how many of each other label there are."""
    valid = set(names)
    others = Counter(entry.label for entry in entries if entry.label not in valid)
    if others and not ignore:
        other = next(entry for entry in entries if entry.label not in valid)
        way = ", add it to --classes, or pass --ignore-other-labels to leave such images out"
        raise BadInputError(
            f"label {other.label!r} is not one of the classes ({', '.join(names)})",
            where=other.place,
            fix=f"correct it{way if options else ' or remove such images'}",
        )
    return [entry for entry in entries if entry.label in valid], dict(others)


def _refuse_unpopulated(path: Path, listing: Listing, entries: list[Entry], names: Sequence[str]) -> None:
    filled = {entry.label for entry in entries}
    for name in names:
        if name not in filled:
            raise BadInputError(
                f"class {name!r} has no images",
                where=path / name if name in listing.empty and (path / name).is_dir() else path,
                fix=f"add images, or leave the class out; {near(name, sorted({e.label for e in listing.entries}))}",
            )


def _refuse_missing(path: Path, entries: list[Entry]) -> None:
    sources = [(e.id, e.source) for e in entries]
    gone = [(name, s.path) for name, s in sources if isinstance(s, FileSource) and not is_file(s.path)]
    if not gone:
        return
    missing = [name for name, _ in gone]
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    raise BadInputError(
        f"{len(missing)} of {len(entries)} images listed {'is' if len(missing) == 1 else 'are'} missing: "
        f"{', '.join(missing[:_SHOWN])}{more}",
        where=path,
        fix=f"restore them or correct the paths, which are relative to {path.parent}{_alike(gone[0][1])}",
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


def _patient(entry: Entry, expression: re.Pattern[str]) -> str:
    found = expression.search(entry.id)
    if found is None or not found[1]:
        raise BadInputError(
            f"--patient-pattern {expression.pattern!r} finds no patient in {entry.id}",
            where=entry.place,
            fix="correct the pattern or rename the file",
        )
    return found[1]
