"""Reads a data set from what the user has: a folder per class, a CSV, or an .npz in MedMNIST's layout.

Everything that can be refused without decoding an image is refused here, in one line that names the file or line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ttl_deploy.data.items import ArraySource, Dataset, FileSource, ImageSource, Item
from ttl_deploy.data.listing import Entry, Listing
from ttl_deploy.data.read_csv import read_csv
from ttl_deploy.data.read_folder import read_folder
from ttl_deploy.data.read_npz import read_npz
from ttl_deploy.errors import BadInputError, near

__all__ = ["ArraySource", "Dataset", "FileSource", "ImageSource", "Item", "read_dataset"]

_SHOWN = 5
"""How many missing files an error names."""


def read_dataset(
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    ignore_other_labels: bool = False,
    patient_pattern: str | None = None,
) -> Dataset:
    """Reads a data set; no image is decoded.

    Args:
        path: A folder with one folder per class, on its own or below train, val and test; a .csv with the columns path,
            label and, where known, patient_id and split; or an .npz in MedMNIST's layout.
        classes: Names and order of the classes (for an .npz the names of the labels 0, 1, …). None: as found, numbers
            sorted by value.
        ignore_other_labels: Leave out images whose label is not in `classes` instead of refusing them.
        patient_pattern: Regular expression with one group that finds the patient in an image's id, for data that has no
            patient_id.

    Returns:
        The data set, in the order of the input.

    Raises:
        BadInputError: Anything about it cannot be used; the error names the file or line and the way out.
    """
    listing = _list(path, classes)
    names = _settle_classes(path, listing, classes)
    entries = _of_classes(listing.entries, names, ignore=ignore_other_labels)
    _refuse_unpopulated(path, listing, entries, names)
    _refuse_missing(path, entries)
    if patient_pattern is not None:
        entries = _with_patients(path, listing, entries, patient_pattern)
    labels = {name: index for index, name in enumerate(names)}
    items = tuple(Item(e.id, labels[e.label], e.patient, e.split, e.source) for e in entries)
    return Dataset(path, names, items)


def _list(path: Path, classes: Sequence[str] | None) -> Listing:
    if not path.exists():
        raise BadInputError("no such file or folder", where=path, fix=_neighbours(path))
    if path.is_dir():
        return read_folder(path)
    if path.suffix.lower() == ".csv":
        return read_csv(path)
    if path.suffix.lower() == ".npz":
        return read_npz(path, classes)
    raise BadInputError("is not a data set", where=path, fix="pass a folder with one folder per class, a .csv or .npz")


def _neighbours(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
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


def _by_value(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts grade 2 before grade 10."""
    return tuple((0, int(p), p) if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", name) if p)


def _of_classes(entries: list[Entry], names: Sequence[str], *, ignore: bool) -> list[Entry]:
    valid = set(names)
    kept = [entry for entry in entries if entry.label in valid]
    if len(kept) < len(entries) and not ignore:
        other = next(entry for entry in entries if entry.label not in valid)
        raise BadInputError(
            f"label {other.label!r} is not one of the classes ({', '.join(names)})",
            where=other.place,
            fix="correct it, add it to --classes, or pass --ignore-other-labels to leave such images out",
        )
    return kept


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
    missing = [e.id for e in entries if isinstance(e.source, FileSource) and not e.source.path.is_file()]
    if not missing:
        return
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    raise BadInputError(
        f"{len(missing)} of {len(entries)} images listed {'is' if len(missing) == 1 else 'are'} missing: "
        f"{', '.join(missing[:_SHOWN])}{more}",
        where=path,
        fix=f"restore them or correct the paths, which are relative to {path.parent}",
    )


def _with_patients(path: Path, listing: Listing, entries: list[Entry], pattern: str) -> list[Entry]:
    if listing.has_patients:
        raise BadInputError("has a column patient_id already", where=path, fix="leave --patient-pattern out")
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise BadInputError(f"{pattern!r} is not a regular expression: {error}", where="--patient-pattern") from error
    if expression.groups != 1:
        raise BadInputError(
            f"{pattern!r} has {expression.groups} groups",
            where="--patient-pattern",
            fix=r"put one pair of parentheses around the patient, as in (P\d+)_",
        )
    return [replace(entry, patient=_patient(entry, expression)) for entry in entries]


def _patient(entry: Entry, expression: re.Pattern[str]) -> str:
    found = expression.search(entry.id)
    if found is None or not found[1]:
        raise BadInputError(
            f"--patient-pattern {expression.pattern!r} finds no patient in {entry.id}",
            where=entry.place,
            fix="correct the pattern or rename the file",
        )
    return found[1]
