"""Sides that come with the data in files of their own: a table of the test images, or a list of those of the whole.

CheXpert has `train.csv` and `valid.csv`; ChestX-ray14 one table, and `test_list.txt` with a file name a line.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ttl_deploy.data.columns import Columns
from ttl_deploy.data.listing import Entry, Listing
from ttl_deploy.errors import BadInputError, near
from ttl_deploy.files import exists, is_file, is_folder

TABLES = frozenset({".csv", ".tsv"})
"""Endings of a table, in lower case."""

LISTS = frozenset({".txt", ".lst", ".list"})
"""Endings of a list, in lower case."""

_LONGEST = 2**26
"""Bytes of a list that is read."""


def with_own_sides(path: Path, listing: Listing, sides: Mapping[str, Path], read: Callable[[Path], Listing]) -> Listing:
    """The images of a table and of the files beside it, each on its side; what no file names is for training.

    Args:
        path: The table.
        listing: Its images.
        sides: By `val` and `test`, a table read as the first is, or a list of images in it.
        read: Reads a table.

    Raises:
        BadInputError: A file is empty, names what is not in the table, or two name one image.
    """
    listing = replace(listing, entries=[replace(entry, split="train") for entry in listing.entries])
    lists = {side: file for side, file in sides.items() if file.suffix.lower() in LISTS}
    listing = _listed(listing, lists)
    for side, file in sides.items():
        if side not in lists:
            listing = _joined(path, listing, side, file, read(file))
    counts = Counter(entry.split for entry in listing.entries)
    told = tuple(f"{side} side from {file.name}: {counts[side]:,} images" for side, file in sides.items())
    return replace(listing, notes=(*listing.notes, *told))


def refuse_sides(columns: Columns, sides: Mapping[str, Path], *, options: bool) -> None:
    """Raises `BadInputError` where files of sides contradict a column of sides, or one is missing or cannot be read.

    Args:
        columns: How the table is read.
        sides: See `with_own_sides`.
        options: Whether the command has options for the files, so that an error may name them.
    """
    if not sides:
        return
    option = f"--{next(iter(sides))}-data"
    if columns.split:
        raise BadInputError(f"{option} and --split-column are both given", fix="leave one out")
    if "test" not in sides:
        raise BadInputError("has no test side beside it", where=option, fix="pass --test-data too, or leave it out")
    if len(set(sides.values())) < len(sides):
        raise BadInputError("is the validation side too", where="--test-data", fix="leave --val-data out")
    for side, file in sides.items():
        _refuse_other_file(side, file, options=options)


def _refuse_other_file(side: str, file: Path, *, options: bool) -> None:
    option = f" as --{side}-data" if options else ""
    if not is_file(file):
        what = "is no file" if exists(file) else "no such file"
        names = sorted(entry.name for entry in file.parent.iterdir()) if is_folder(file.parent) else []
        known = [name for name in names if _is_read(Path(name))]
        raise BadInputError(what, where=file, fix=f"pass a table or a list{option}; {near(file.name, known)}")
    if not _is_read(file):
        what, fix = "is no table and no list", f"pass a .csv or a .txt of file names{option}"
        raise BadInputError(what, where=file, fix=fix)


def _is_read(file: Path) -> bool:
    return file.suffix.lower() in TABLES | LISTS


def _joined(path: Path, listing: Listing, side: str, file: Path, more: Listing) -> Listing:
    """Two listings in one; ids are as seen from the first table's folder."""
    if [*more.columns] != [*listing.columns] or more.classes != listing.classes:
        what = f"has not the columns of {path.name}: {', '.join(more.columns.values())}"
        raise BadInputError(what, where=file, fix="give both the same columns")
    way = os.path.relpath(file.parent, path.parent)
    known = {entry.id: entry.place for entry in listing.entries}
    entries = [replace(entry, id=seen_from(way, entry.id), split=side) for entry in more.entries]
    both = next((entry for entry in entries if entry.id in known), None)
    if both is not None:
        what = f"{both.id} is on two sides, here and in {known[both.id]}"
        raise BadInputError(what, where=both.place, fix="remove one of the lines")
    return replace(listing, entries=[*listing.entries, *entries], told=(*listing.told, *more.told))


def seen_from(way: str, name: str) -> str:
    """An image's id in a table, as it is with that of the first.

    Args:
        way: From the first table's folder to the other's.
        name: The id in the other.
    """
    whole = PurePosixPath(way, name).as_posix()
    return name if way == "." else os.path.normpath(whole)


def _listed(listing: Listing, lists: Mapping[str, Path]) -> Listing:
    """The listing with the images of each list on its side."""
    places = _places(listing.entries)
    entries = list(listing.entries)
    taken: dict[int, str] = {}
    for side, file in lists.items():
        for line, name in _names(file):
            here = f"{file}:{line}"
            number = _place(name, places, here)
            if taken.setdefault(number, here) != here:
                raise BadInputError(f"{name} was listed in {taken[number]}", where=here, fix="remove one of the lines")
            entries[number] = replace(entries[number], split=side)
    return replace(listing, entries=entries)


def _places(entries: Sequence[Entry]) -> Mapping[str, list[int]]:
    """Where the images are that a name may mean: a path, or a file's name alone."""
    found: dict[str, list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        for name in {entry.id, PurePosixPath(entry.id).name}:
            found[name].append(number)
    return found


def _place(name: str, places: Mapping[str, list[int]], here: str) -> int:
    numbers = places.get(name.replace("\\", "/"), [])
    if not numbers:
        fix = "correct it, or pass the list that belongs to the table"
        raise BadInputError(f"{name:.80} is none of the table's images", where=here, fix=fix)
    if len(numbers) > 1:
        raise BadInputError(
            f"{name:.80} may be {len(numbers)} images", where=here, fix="write the path as the table does"
        )
    return numbers[0]


def _names(file: Path) -> list[tuple[int, str]]:
    """The names in a list, with their lines; blank lines are passed over."""
    if file.stat().st_size > _LONGEST:
        raise BadInputError("is too long for a list of images", where=file, fix="pass a table")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeError as error:
        raise BadInputError("is not UTF-8 text", where=file, fix="write the name of an image on each line") from error
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise BadInputError("lists no images", where=file, fix="write the name of an image on each line")
    return found
