"""Images divided by a column of the table that they were listed from: sex, age, scanner, site.

The column need have no other use. No image is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.data.image_paths import ImagePaths
from ttl_deploy.data.own_sides import seen_from
from ttl_deploy.data.read_csv import locate, table_rows
from ttl_deploy.errors import BadInputError, near

MOST = 12
"""Groups of a column; more of numbers are put together."""
FEW = 10
"""Patients below which a group tells little."""
UNSAID = "not said"
_QUARTERS = 4
_TABLES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class Part:
    """A group of images.

    Attributes:
        name: Value of the column, or from which number to which.
        places: (M,) of its images among those that were divided.
    """

    name: str
    places: NDArray[np.int64]


@dataclass(frozen=True)
class ImageTable:
    """A table that images were listed from.

    Attributes:
        path: The file.
        column: Head of the column that names the images.
        template: Where the images are, with `{}` for that cell; None: the cell is the path.
        first: Folder of the table whose images these were joined to, from which their ids are seen; None: its own.
    """

    path: Path
    column: str = "path"
    template: str | None = None
    first: Path | None = None


def parts(table: ImageTable, column: str, ids: Sequence[str]) -> list[Part]:
    """Some images divided by a column; those whose cell is blank, or that the table has not, are a group too.

    Args:
        table: Where they were listed.
        column: By its head.
        ids: The images.

    Raises:
        BadInputError: It is no table, has no such column, or that one is blank for all of them or has too many groups.
    """
    cells = _cells(table, column, ids)
    values = [cells.get(image, "") for image in ids]
    distinct = sorted({value for value in values if value})
    if not distinct:
        what = f"its column {column} says nothing of any image of the test side"
        raise BadInputError(what, where=table.path, fix="name a column that is filled in for them")
    numbers = _numbers(values)
    if len(distinct) > MOST and numbers is not None:
        return list(_quarters(numbers))
    if len(distinct) > MOST:
        raise BadInputError(
            f"the column {column} has {len(distinct)} different values on the test side",
            where=table.path,
            fix=f"name one of at most {MOST} groups, or of numbers",
        )
    named = [*((value, value) for value in distinct), *([(UNSAID, "")] if "" in values else [])]
    return [Part(name, np.flatnonzero(np.asarray(values) == value)) for name, value in named]


def _numbers(values: Sequence[str]) -> NDArray[np.float64] | None:
    """The column as numbers, NaN where there is none; None where a value is none."""
    try:
        return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return None


def _quarters(values: NDArray[np.float64]) -> Iterator[Part]:
    """As many images in each as the same numbers let there be."""
    known = np.isfinite(values)
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, _QUARTERS + 1)))
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    for k in range(len(edges) - 1):
        inside = np.flatnonzero(known & (place == k))
        if len(inside):
            yield Part(f"{values[inside].min():g} to {values[inside].max():g}", inside)
    if not known.all():
        yield Part(UNSAID, np.flatnonzero(~known))


def _cells(table: ImageTable, column: str, ids: Sequence[str]) -> dict[str, str]:
    """The column's cell of each image that the table has."""
    path, kind = table.path, table.path.suffix.lower()
    if kind not in _TABLES or not path.is_file():
        what = "is no table that is there" if kind in _TABLES else "is no table, so it has no columns"
        raise BadInputError(what, where=path, fix="say with --data where the run's table is, or ask for no subgroups")
    rows = table_rows(path)
    _line, header = next(rows, (0, []))
    if column not in header:
        raise BadInputError(f"has no column {column!r:.80}", where=path, fix=near(column, [h for h in header if h]))
    if table.column not in header:
        raise BadInputError(f"has no column {table.column!r:.80}, which the run was read from", where=path)
    named = _ids(table, header.index(table.column), ids)
    place = header.index(column)
    return {named(cells, line): cells[place] if place < len(cells) else "" for line, cells in rows}


def _ids(table: ImageTable, place: int, ids: Sequence[str]) -> Callable[[Sequence[str], int], str]:
    """What finds the id of a row's image; a path may leave the ending out."""
    paths = None if table.template is None else ImagePaths(table.path, table.template)
    way = os.path.relpath(table.path.parent, table.first or table.path.parent)
    known = set(ids)
    whole = {str(Path(name).with_suffix("")): name for name in known}

    def of(cells: Sequence[str], line: int) -> str:
        text = cells[place] if place < len(cells) else ""
        named = text if paths is None or not text else paths.of(text, f"{table.path}:{line}")
        found = seen_from(way, locate(table.path.parent, named)[0])
        return found if found in known else whole.get(found, found)

    return of
