"""Reads a table of images: columns `path` and `label`, and where known `patient_id` and `split`.

UTF-8, separated by comma, semicolon or tab as its header is; paths are relative to the table's folder.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from ttl_deploy.data.items import FileSource
from ttl_deploy.data.listing import SPLIT_NAMES, Entry, Listing
from ttl_deploy.errors import BadInputError

_COLUMNS = ("path", "label")
_OPTIONAL = ("patient_id", "split")


def read_csv(table: Path) -> Listing:
    """Lists the images of a table.

    Raises:
        BadInputError: It is not UTF-8 or not a table, a column is missing, or a row is incomplete, wrong or double; the
            error names the line.
    """
    return _listing(table, open_table(table))


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
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            yield from _rows(table, handle, required, optional)
    except UnicodeDecodeError as error:
        raise BadInputError("is not UTF-8 text", where=table, fix="save it as CSV UTF-8") from error
    except csv.Error as error:
        raise BadInputError(f"is not a table: {error}", where=table, fix="save it as CSV UTF-8") from error


def _rows(
    table: Path, lines: Iterable[str], required: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    text = iter(lines)
    head: list[str] = []
    for line in text:
        head.append(line)
        if not line.isspace():
            break
    delimiter = max(",;\t", key="".join(head).count)
    reader = csv.reader(chain(head, text), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if header is None:
            header = _checked_header(table, cells, required, optional)
            yield reader.line_num, dict.fromkeys(header, "")
        elif len(cells) > len(header):
            what = f"{len(cells)} cells where the header has {len(header)}"
            raise BadInputError(what, where=_place(table, reader.line_num), fix="quote cells that hold the separator")
        else:
            yield reader.line_num, dict(zip(header, cells, strict=False))


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


def _listing(table: Path, rows: Iterator[tuple[int, dict[str, str]]]) -> Listing:
    header = next(rows, None)
    entries: list[Entry] = []
    lines: dict[str, tuple[int, str]] = {}
    for line, cells in rows:
        entry = _entry(table, line, cells)
        _refuse_double(table, entry, line, lines)
        entries.append(entry)
    if header is None or not entries:
        raise BadInputError("lists no images", where=table, fix="give it a header (path,label) and a row per image")
    return Listing(entries, has_patients="patient_id" in header[1])


def _entry(table: Path, line: int, cells: dict[str, str]) -> Entry:
    place = _place(table, line)
    for name in _COLUMNS:
        if not cells.get(name):
            raise BadInputError(f"the {name} is blank", where=place, fix="fill it in or remove the line")
    name, path = _locate(table.parent, cells["path"])
    split = _side(cells.get("split", ""), place)
    return Entry(name, cells["label"], cells.get("patient_id") or None, split, FileSource(path), place)


def _side(word: str, place: str) -> str | None:
    if word and word.lower() not in SPLIT_NAMES:
        raise BadInputError(f"unknown split {word!r}", where=place, fix=f"valid: {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[word.lower()] if word else None


def _refuse_double(table: Path, entry: Entry, line: int, lines: dict[str, tuple[int, str]]) -> None:
    before, label = lines.setdefault(entry.id, (line, entry.label))
    if before != line:
        which = "with the same label" if label == entry.label else f"as {label!r} and as {entry.label!r}"
        raise BadInputError(
            f"{entry.id} is listed twice, {which} (first in line {before})",
            where=_place(table, line),
            fix="keep one of the lines",
        )


def _locate(folder: Path, text: str) -> tuple[str, Path]:
    """Id and path of an image; the same file written in two ways has one id."""
    relative = os.path.normpath(text.replace("\\", "/"))
    path = folder / relative
    if Path(relative).is_absolute() and path.is_relative_to(folder.absolute()):
        relative = str(path.relative_to(folder.absolute()))
    return Path(relative).as_posix(), path


def _place(table: Path, line: int) -> str:
    return f"{table}:{line}"
