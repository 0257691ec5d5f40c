"""The papers' accuracies as data: what is printed, what it means, and of which network it is. No torch.

They lie in `benchmarks/paper/accuracy/`, one TOML file a table. No row is ever compared by itself: the images are not
here.
"""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ttl_deploy.documents import read_toml
from ttl_deploy.resources import data_tables
from ttl_deploy.spec import SCHEMA_VERSION, Record, read_record

FOLDER = "benchmarks/paper/accuracy"

Unit = Literal["fraction", "per cent"]
Start = Literal["transfer", "stats", "random"]

_PER: dict[Unit, int] = {"fraction": 1, "per cent": 100}
_PRINTED = re.compile(r"([0-9.]+)%?(?: ± ([0-9.]+))?")


class Cell(Record):
    """One printed number.

    Attributes:
        printed: Its signs, such as `84.9 ± 0.1`.
        value: What they mean, as a fraction.
        spread: Likewise, of what the table says; None where none is printed.
    """

    printed: str
    value: float = Field(ge=0, le=1)
    spread: float | None = Field(default=None, ge=0, le=1)


class AccuracyRow(Record):
    """One row.

    Attributes:
        name: As printed.
        group: What the table groups rows by, empty where it does not.
        data: The images, where the table has several sets.
        backbones: The network, by the names of the zoo, present or future; empty where the paper's text does not tell.
        method: Of transfer.
        cut: For `ttl` and `tf`; of `lwft` the papers print none.
        start: What the reused layers started from.
        values: The numbers by metric; `auroc:NAME` is of one label.
        slip: What is wrong with the printed row, one line.
        note: What a reader should know, one line.
    """

    name: str
    group: str = ""
    data: str | None = None
    backbones: tuple[str, ...] = ()
    method: str = "ftl"
    cut: str | None = None
    start: Start = "transfer"
    values: dict[str, Cell] = Field(min_length=1)
    slip: str | None = None
    note: str | None = None

    @property
    def title(self) -> str:
        """Group, name and images."""
        return " ".join(part for part in (self.group, self.name, f"({self.data})" if self.data else "") if part)


class AccuracyTable(Record):
    """One table.

    Attributes:
        name: Its short name, for example `TTL 1`.
        title: What it is about.
        source: Paper and table.
        unit: In which its numbers are printed, where a row's slip does not say otherwise.
        data: The images of all rows; None where each row says its own.
        weights: What rows of transfer started from.
        spread: What the numbers behind ± are of; None where there are none.
        lost: What the table has and this file has not, one line.
        rows: The rows in the paper's order.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    title: str
    source: str
    unit: Unit
    data: str | None = None
    weights: str
    spread: str | None = None
    lost: str | None = None
    rows: tuple[AccuracyRow, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _meant(cls, content: Any) -> Any:
        """Cells of printed signs alone."""
        unit = content.get("unit") if isinstance(content, dict) else None
        if unit not in _PER or not isinstance(content.get("rows"), list):
            return content
        return {**content, "rows": [_with_cells(row, unit) for row in content["rows"]]}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        twice = [title for title, times in Counter(row.title for row in self.rows).items() if times > 1]
        if twice:
            raise ValueError(f"row {twice[0]} is there twice")
        for row in self.rows:
            if (self.data is None) == (row.data is None):
                raise ValueError(f"row {row.title} and its table name the images twice or not at all")
            if not row.slip and any(cell != _cell(cell.printed, self.unit) for cell in row.values.values()):
                raise ValueError(f"row {row.title} means other numbers than it prints, without a slip that says why")
            if self.spread is None and any(cell.spread is not None for cell in row.values.values()):
                raise ValueError(f"row {row.title} has a spread, and the table does not say of what")
        return self

    def images_of(self, row: AccuracyRow) -> str:
        """The name of a row's images."""
        return row.data or self.data or ""


def load_accuracies(folder: Path | None = None) -> tuple[AccuracyTable, ...]:
    """Reads every table of accuracies.

    Args:
        folder: Holds the TOML files; None: the ones that come with the program.

    Raises:
        IntegrityError: A file is not TOML, or a field is missing, unknown or wrong; the error names both.
    """
    return tuple(read_record(AccuracyTable, read_toml(path), path) for path in data_tables(FOLDER, folder))


def _with_cells(row: Any, unit: Unit) -> Any:
    values = row.get("values") if isinstance(row, dict) else None
    if not isinstance(values, dict):
        return row
    return {
        **row,
        "values": {name: _cell(cell, unit) if isinstance(cell, str) else cell for name, cell in values.items()},
    }


def _cell(printed: str, unit: Unit) -> Cell:
    """What signs mean in a unit.

    Raises:
        ValueError: They are no number.
    """
    found = _PRINTED.fullmatch(printed)
    if found is None:
        raise ValueError(f"{printed!r:.80} is not a number, or two with ± between them")
    value, spread = (None if part is None else float(Decimal(part) / _PER[unit]) for part in found.groups())
    return Cell(printed=printed, value=value, spread=spread)
