"""What an analysis finds: a sentence, tables of numbers, and what is to be drawn of them, all of it plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Cell = str | int | float | bool | None


@dataclass(frozen=True)
class Table:
    """Rows of numbers.

    Attributes:
        columns: Their names.
        rows: As long as the columns are many; None where a number does not exist.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @staticmethod
    def of(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
        """Rows of any numbers, NumPy's too; one that is not finite does not exist."""
        return Table(tuple(columns), tuple(tuple(map(_plain, row)) for row in rows))

    def as_dicts(self) -> list[dict[str, Cell]]:
        """The rows by column, for JSON."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def _plain(value: Any) -> Cell:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        name: Of the legend.
        values: One for each place of the axis; None where there is none.
    """

    name: str
    values: tuple[float | None, ...]

    @staticmethod
    def of(name: str, values: Iterable[Any]) -> Series:
        """Of any numbers; see `Table.of`."""
        return Series(name, tuple(_number(value) for value in values))


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


@dataclass(frozen=True)
class Lines:
    """Lines over layers.

    Attributes:
        places: Names of the layers, bottom first.
        series: The lines.
        label: Of the vertical axis.
        levels: Horizontal lines by name.
        mark: A layer at which a vertical line stands, and its words.
        logarithmic: Whether the vertical axis is.
        span: Of the vertical axis; None: what the values need.
    """

    places: tuple[str, ...]
    series: tuple[Series, ...]
    label: str
    levels: Mapping[str, float] = field(default_factory=dict)
    mark: tuple[str, str] | None = None
    logarithmic: bool = False
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Panels:
    """Small pictures side by side, each with lines over 0 to 1.

    Attributes:
        panels: Title and lines of each; a line's values are equally far from each other.
        across: Label of the horizontal axis.
        label: Of the vertical axis.
    """

    panels: tuple[tuple[str, tuple[Series, ...]], ...]
    across: str
    label: str


@dataclass(frozen=True)
class Curves:
    """Lines over numbers.

    Attributes:
        series: Each line, and where on the horizontal axis its values are.
        across: Label of the horizontal axis.
        label: Of the vertical axis.
        levels: Horizontal lines by name.
        marked: Whether each value has a mark.
    """

    series: tuple[tuple[Series, tuple[float, ...]], ...]
    across: str
    label: str
    levels: Mapping[str, float] = field(default_factory=dict)
    marked: bool = True


@dataclass(frozen=True)
class Map:
    """A matrix of numbers from 0 as colours.

    Attributes:
        title: What it shows.
        rows: Names of the rows, the lowest first.
        columns: Names of the columns.
        values: (rows, columns); NaN where there is none.
        across: Label of the horizontal axis.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    across: str = ""


@dataclass(frozen=True)
class Maps:
    """Maps side by side, on one scale.

    Attributes:
        maps: Each.
        upward: Label of the vertical axes.
        written: Whether the numbers stand in the cells.
        most: Of the scale, which begins at 0.
    """

    maps: tuple[Map, ...]
    upward: str = ""
    written: bool = False
    most: float = 1.0


@dataclass(frozen=True)
class Grids:
    """Grids of small pictures side by side.

    Attributes:
        grids: Title and pictures (N, H, W, 1 or 3) of each, 0 to 1.
    """

    grids: tuple[tuple[str, NDArray[np.float64]], ...]


@dataclass(frozen=True)
class Tile:
    """A picture of a sheet.

    Attributes:
        picture: (H, W, 1 or 3), 0 to 1.
        heat: (H, W) 0 to 1, laid over it; None: nothing is.
        words: Below it.
    """

    picture: NDArray[np.float64]
    heat: NDArray[np.float64] | None = None
    words: str = ""


@dataclass(frozen=True)
class Sheet:
    """Pictures in rows and columns.

    Attributes:
        columns: Titles of the columns.
        rows: Titles of the rows, the uppermost first.
        tiles: Row by row.
        scale: What the colours of the heat mean.
        note: What the words below the pictures mean.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    tiles: tuple[tuple[Tile, ...], ...]
    scale: str
    note: str


Figure = Lines | Panels | Curves | Maps | Grids | Sheet


@dataclass(frozen=True)
class Finding:
    """What an analysis found.

    Attributes:
        sentence: What its curve shows, with the numbers; it begins with a capital or a number, and not with a name.
        tables: By name; the name of the main one is empty.
        figures: Likewise.
        facts: What it was computed with, for the record.
        titles: What each figure shows, as a heading that needs no knowledge of the analysis' name, by the figure's
            name; one without is headed by its name.
    """

    sentence: str
    tables: Mapping[str, Table]
    figures: Mapping[str, Figure]
    facts: Mapping[str, Cell] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
