"""Reads a table of images: columns `path` and `label`, and where known the patient and `split`.

UTF-8, or UTF-16 with its mark; separated by comma, semicolon or tab as its header is, or as a first line `sep=;` says
(Excel); paths are relative to the table's folder.
"""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from ttl_deploy.data.columns import NAMES, REQUIRED, Columns, find_columns, named_columns, normal
from ttl_deploy.data.image_paths import ImagePaths
from ttl_deploy.data.items import FileSource
from ttl_deploy.data.listing import SIDE_WORDS, Entry, Listing, side_of
from ttl_deploy.data.values import is_missing, mark_of, patient_of, tidy
from ttl_deploy.errors import BadInputError, near
from ttl_deploy.files import is_file, is_folder
from ttl_deploy.inputs.image_kinds import IMAGE_SUFFIXES
from ttl_deploy.tasks import UNKNOWN
from ttl_deploy.tasks.multilabel import text_of_marks

_COLUMNS = ("path", "label")
_OPTIONAL = ("patient_id", "split")
_SEPARATORS = ",;\t"


def read_csv(
    table: Path,
    columns: Columns | None = None,
    *,
    options: bool = False,
    classes: Sequence[str] | None = None,
    several: bool = False,
) -> Listing:
    """Lists the images of a table; a label that is missing is left as it is written.

    Args:
        table: The file.
        columns: Which columns to use; None: found by their names.
        options: Whether the command has options for the columns, so that an error may name them.
        classes: The user's names of the classes.
        several: Whether an image may have several labels; each may then have a column of 1, 0 and -1. Columns that the
            user names are of 1 and 0 where it has one.

    Raises:
        BadInputError: It is not UTF-8 or not a table, a column is missing or may be another, or a row is incomplete,
            wrong or double; the error names the line.
    """
    rows = table_rows(table)
    header = next(rows, None)
    if header is None:
        raise _no_images(table)
    columns = columns or Columns()
    given = several or columns.labels is not None
    marked = _marked(table, header[1], columns, classes, options=options) if given else {}
    if marked:
        columns = replace(columns, label="")
    of_marks = _joined if several else _one_of
    paths = ImagePaths(table, columns.template) if columns.template is not None else None
    places = find_columns(table, header[1], columns, options=options, required=("path",) if marked else REQUIRED)
    entries: list[Entry] = []
    lines: dict[str, tuple[int, str]] = {}
    endings = Endings()
    for line, cells in rows:
        found = {role: _cell(cells, i) for role, i in places.items()}
        if marked:
            found["label"] = of_marks(table, line, cells, marked)
        if paths is not None and found["path"]:
            found["path"] = paths.of(found["path"], _place(table, line))
        entry = _entry(table, line, found, endings)
        _refuse_double(table, entry, line, lines)
        entries.append(entry)
    if not entries:
        raise _no_images(table)
    used = {role: header[1][place] for role, place in places.items()}
    taken = {*places.values(), *marked.values()}
    unused = tuple(name for place, name in enumerate(header[1]) if name and place not in taken)
    return Listing(
        entries,
        columns=used,
        unused=unused,
        told=endings.told(),
        notes=tuple(_notes([header[1][place] for place in marked.values()], columns.template)),
        classes=tuple(marked) or None,
        separator=columns.separator,
        is_table=True,
    )


def _notes(of_labels: Sequence[str], template: str | None) -> Iterator[str]:
    if of_labels:
        yield f"labels from the columns {', '.join(of_labels)}"
    if template is not None:
        yield f"images at {template}"


def open_table(
    table: Path, required: Sequence[str] = _COLUMNS, optional: Sequence[str] = _OPTIONAL
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column name, one per row, read as they are asked for.

    Args:
        table: The file.
        required: Columns that have to be there.
        optional: Columns that may be there; like the required ones, they may not be there twice.

    Yields:
        First the header as a row without cells, then the rows that are not blank.

    Raises:
        BadInputError: It is not UTF-8 or not a table, a column is missing or double, or a row has more cells than the
            header.
    """
    header: list[str] | None = None
    for line, cells in table_rows(table):
        if header is None:
            header = _checked_header(table, cells, required, optional)
            yield line, dict.fromkeys(header, "")
        else:
            yield line, dict(zip(header, cells, strict=False))


def table_rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of the header, then of each row that is not blank.

    Raises:
        BadInputError: It is not UTF-8, or not a table.
    """
    try:
        with table.open(newline="", encoding=_encoding(table)) as handle:
            yield from _rows(table, handle)
    except UnicodeError as error:
        raise BadInputError("is not UTF-8 text", where=table, fix="save it as CSV UTF-8") from error
    except csv.Error as error:
        raise BadInputError(f"is not a table: {error}", where=table, fix="save it as CSV UTF-8") from error


def _encoding(table: Path) -> str:
    with table.open("rb") as handle:
        return "utf-16" if handle.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _rows(table: Path, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    text = iter(lines)
    separator, head = _separator(text)
    reader = csv.reader(chain(head, text), delimiter=separator, strict=True)
    width: int | None = None
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if width is None:
            width = len(cells)
        # Excel gives every line as many separators as the widest of the sheet.
        while len(cells) > width and not cells[-1]:
            cells.pop()
        if len(cells) > width:
            what = f"{len(cells)} cells where the header has {width}"
            raise BadInputError(what, where=_place(table, reader.line_num), fix="quote cells that hold the separator")
        yield reader.line_num, cells


def _separator(text: Iterator[str]) -> tuple[str, list[str]]:
    """The separator, and the lines up to the header; a line that only names the separator is made blank."""
    head: list[str] = []
    said = None
    for line in text:
        named = re.fullmatch(r'"?sep=(.)"?\s*', line, re.IGNORECASE | re.DOTALL) if said is None else None
        said = named[1] if named else said
        head.append("\n" if named else line)
        if head[-1].strip():
            break
    return said or max(_SEPARATORS, key="".join(head).count), head


def _checked_header(table: Path, cells: list[str], required: Sequence[str], optional: Sequence[str]) -> list[str]:
    header = [cell.lower() for cell in cells]
    missing = [name for name in required if name not in header]
    if missing:
        found = ", ".join(cells)
        raise BadInputError(
            f"has no column {' and '.join(missing)}; found: {found}",
            where=table,
            fix=f"the first line names the columns {', '.join(required)} and, where known, {' and '.join(optional)}",
        )
    double = [name for name in (*required, *optional) if header.count(name) > 1]
    if double:
        raise BadInputError(f"has the column {double[0]} twice", where=table, fix="remove one")
    return header


def _no_images(table: Path) -> BadInputError:
    return BadInputError("lists no images", where=table, fix="give it a header (path,label) and a row per image")


class Endings:
    """Finds the images of paths that leave the ending out; each folder is listed once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[str]]] = {}
        self._found: list[tuple[str, str]] = []

    def complete(self, path: Path, place: str) -> Path:
        """The path, with the ending of the one image that it names without.

        Raises:
            BadInputError: It may be several images.
        """
        if path.suffix.lower() in IMAGE_SUFFIXES or is_file(path):
            return path
        names = self._images(path.parent).get(path.name, [])
        if len(names) > 1:
            raise BadInputError(f"{path.name} may be {' or '.join(names)}", where=place, fix="write the ending")
        if not names:
            return path
        self._found.append((path.name, names[0]))
        return path.with_name(names[0])

    def told(self) -> tuple[str, ...]:
        """What was completed, in a sentence."""
        if not self._found:
            return ()
        short, whole = self._found[0]
        return (f"{len(self._found):,} paths have no ending: {short} is read as {whole}, others likewise",)

    def _images(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._folders:
            names = sorted(entry.name for entry in folder.iterdir()) if is_folder(folder) else []
            found: dict[str, list[str]] = defaultdict(list)
            for name in names:
                stem, ending = os.path.splitext(name)  # noqa: PTH122 - a million Path objects are slow
                if ending.lower() in IMAGE_SUFFIXES:
                    found[stem].append(name)
            self._folders[folder] = found
        return self._folders[folder]


def _marked(
    table: Path, header: Sequence[str], columns: Columns, classes: Sequence[str] | None, *, options: bool
) -> dict[str, int]:
    """Position of each label's own column; empty where the labels are in one column together.

    The columns that the user names for it; else those that the user's classes name; else, in a table without a column
    of labels, all that hold nothing but 1, 0, -1 and no value, and are of no other use.
    """
    if columns.labels is not None:
        return _named(table, header, columns.labels, options=options)
    if columns.label:
        return {}
    together = columns.label is None and any(normal(name) in NAMES["label"] for name in header)
    if classes is not None:
        found = named_columns(table, header, classes)
        missing = next((name for name in classes if name not in found), None)
        if found and missing is not None and not together:
            way = "correct --classes; " if options else ""
            raise BadInputError(f"has no column {missing!r}", where=table, fix=f"{way}{near(missing, header)}")
        return found if missing is None else {}
    if together:
        return {}
    used = find_columns(table, header, replace(columns, label=""), options=options, required=())
    free = {place: name for place, name in enumerate(header) if name and place not in used.values()}
    places = _places_of_marks(table, free)
    return named_columns(table, header, [tidy(free[place]) for place in places])


def _named(table: Path, header: Sequence[str], names: Sequence[str], *, options: bool) -> dict[str, int]:
    """Position of each column that the user names for a label."""
    found = named_columns(table, header, names)
    missing = next((name for name in names if name not in found), None)
    if missing is not None:
        way = "correct --label-columns; " if options else ""
        raise BadInputError(f"has no column {missing!r}", where=table, fix=f"{way}{near(missing, header)}")
    return found


def _places_of_marks(table: Path, free: Mapping[int, str]) -> list[int]:
    """The columns of nothing but marks, of which some are 1 or 0."""
    left, known = set(free), set()
    rows = table_rows(table)
    next(rows)
    for _, cells in rows:
        for place in sorted(left):
            mark = mark_of(_cell(cells, place))
            if mark is None:
                left.discard(place)
            elif mark != UNKNOWN:
                known.add(place)
    return sorted(left & known)


def _joined(table: Path, line: int, cells: Sequence[str], marked: Mapping[str, int]) -> str:
    """The labels of a row as one text; see `ttl_deploy.data.several_labels`."""
    marks = []
    for name, place in marked.items():
        mark = mark_of(_cell(cells, place))
        if mark is None:
            fix = "write 1 for yes, 0 for no, and -1 or nothing where it is not known"
            raise BadInputError(f"{name} is {_cell(cells, place)!r}", where=_place(table, line), fix=fix)
        marks.append(mark)
    return text_of_marks(marked, marks)


def _one_of(table: Path, line: int, cells: Sequence[str], marked: Mapping[str, int]) -> str:
    """The class of a row: the one whose column is 1, where every other is 0."""
    marks = {name: mark_of(_cell(cells, place)) for name, place in marked.items()}
    strange = next((name for name, mark in marks.items() if mark not in (0, 1)), None)
    if strange is not None:
        what, fix = f"{strange} is {_cell(cells, marked[strange])!r}", "write 1 in the column of the class, 0 in others"
        raise BadInputError(what, where=_place(table, line), fix=fix)
    chosen = [name for name, mark in marks.items() if mark == 1]
    if not chosen:
        fix = "name the column of its class with the others, correct the line or remove it"
        raise BadInputError(f"none of {', '.join(marked)} is 1", where=_place(table, line), fix=fix)
    if len(chosen) > 1:
        fix = "correct it; where an image may have several labels, that is the task multilabel"
        raise BadInputError(f"{' and '.join(chosen)} are 1", where=_place(table, line), fix=fix)
    return chosen[0]


def _cell(cells: Sequence[str], place: int) -> str:
    return cells[place] if place < len(cells) else ""


def _entry(table: Path, line: int, cells: dict[str, str], endings: Endings) -> Entry:
    """An image from the cells of its roles."""
    place = _place(table, line)
    if not cells["path"]:
        raise BadInputError("the path is blank", where=place, fix="fill it in or remove the line")
    name, short = locate(table.parent, cells["path"])
    path = endings.complete(short, place)
    name = name.removesuffix(short.name) + path.name
    split = side_in(cells.get("split", ""), place)
    patient, slices = patient_of(cells.get("patient", "")), slices_in(cells.get("slices", ""), place)
    return Entry(name, tidy(cells["label"]), patient, split, FileSource(path), place, slices=slices)


def slices_in(cell: str, place: str) -> tuple[int, ...] | None:
    """The slices of a cell such as `12-31;40`, from 0 where the cell counts from 1; None where it is blank.

    Raises:
        BadInputError: It is no list of slices.
    """
    if is_missing(cell):
        return None
    fix = "write numbers and ranges from 1 on, as in 12-31;40"
    found: set[int] = set()
    for part in cell.split(";"):
        bounds = re.fullmatch(r"\s*([0-9]{1,5})\s*(?:-\s*([0-9]{1,5})\s*)?", part)
        first = int(bounds[1]) if bounds else 0
        last = int(bounds[2] or first) if bounds else 0
        if not 1 <= first <= last:
            raise BadInputError(f"{part.strip()!r:.80} names no slices", where=place, fix=fix)
        found.update(range(first - 1, last))
    return tuple(sorted(found))


def side_in(word: str, place: str) -> str | None:
    """The side that a cell names; None where it is blank.

    Raises:
        BadInputError: It names none.
    """
    if is_missing(word):
        return None
    side = side_of(word)
    if side is None:
        raise BadInputError(f"unknown split {word!r}", where=place, fix=f"valid: {', '.join(SIDE_WORDS)}")
    return side


def _refuse_double(table: Path, entry: Entry, line: int, lines: dict[str, tuple[int, str]]) -> None:
    before, label = lines.setdefault(entry.id, (line, entry.label))
    if before != line:
        which = "with the same label" if label == entry.label else f"as {label!r} and as {entry.label!r}"
        raise BadInputError(
            f"{entry.id} is listed twice, {which} (first in line {before})",
            where=_place(table, line),
            fix="keep one of the lines",
        )


def locate(folder: Path, text: str) -> tuple[str, Path]:
    """Id and path of an image; the same file written in two ways has one id."""
    relative = os.path.normpath(text.replace("\\", "/"))
    path = folder / relative
    if Path(relative).is_absolute() and path.is_relative_to(folder.absolute()):
        relative = str(path.relative_to(folder.absolute()))
    return Path(relative).as_posix(), path


def _place(table: Path, line: int) -> str:
    return f"{table}:{line}"
