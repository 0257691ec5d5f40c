"""A protocol by name: what a paper says of its training, as defaults of a request, and the printed rows beside it.

The files of the papers lie in `benchmarks/paper/recipes/`; a user's own is of the same form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ttl_deploy.spec.data import Data
from ttl_deploy.spec.model import Model
from ttl_deploy.spec.record import SCHEMA_VERSION, Record
from ttl_deploy.spec.training import Protocol

FoldHolds = Literal["test", "val+test"]


class DataDefaults(Data):
    """What a recipe says of the images; where they are is the user's."""

    path: Annotated[Path, Field(exclude=True)] = Path()


class SeriesDefaults(Record):
    """How many runs a recipe asks for.

    Attributes:
        repeats: Seeds.
        folds: Of a cross-validation.
        fold_holds: What a fold is; see `SplitSpec`.
    """

    repeats: int | None = Field(default=None, ge=1)
    folds: int | None = Field(default=None, ge=2)
    fold_holds: FoldHolds = "test"


class RowsBeside(Record):
    """Printed rows that a run is set beside.

    Attributes:
        table: Short name of the accuracy table.
        groups: Of the rows; empty: all.
    """

    table: str
    groups: tuple[str, ...] = ()


class Sections(Record):
    """What a recipe says, by the record that it says it of; only what is written counts."""

    data: DataDefaults = Field(default_factory=DataDefaults)
    model: Model = Field(default_factory=Model)
    protocol: Protocol = Field(default_factory=Protocol)

    @model_validator(mode="after")
    def _names_no_other(self) -> Self:
        if self.protocol.recipe is not None:
            raise ValueError("protocol.recipe names another recipe: write out what it says")
        if "path" in self.data.model_fields_set:
            raise ValueError("data.path says which images: that is for the command to say")
        return self


class When(Sections):
    """What a recipe says besides of some models.

    Attributes:
        model_is: Fields of the model with patterns that all their values match, such as `backbone = "deit_*"`.
    """

    model_is: dict[str, str] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> Self:
        unknown = sorted(self.model_is.keys() - Model.model_fields.keys())
        if unknown:
            raise ValueError(f"model_is names {unknown[0]!r:.80}, which no model has")
        return self


class RecipeFile(Sections):
    """A recipe.

    Attributes:
        title: What it trains, in words.
        source: Paper and section.
        open: What the source leaves open, and what is done here, a sentence each.
        series: How many runs.
        when: What it says besides of some models, the last one first.
        beside: The printed rows to compare with.
    """

    schema_version: int = SCHEMA_VERSION
    title: str
    source: str
    open: tuple[str, ...] = ()
    series: SeriesDefaults = Field(default_factory=SeriesDefaults)
    when: tuple[When, ...] = ()
    beside: tuple[RowsBeside, ...] = ()


def said_in(record: Record) -> dict[str, Any]:
    """The fields that somebody gave a value, by name, nested records too."""
    return {
        name: said_in(value) if isinstance(value := getattr(record, name), Record) else value
        for name in type(record).model_fields
        if name in record.model_fields_set
    }


def over(above: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    """Both together; what both say is said as above."""
    merged = dict(below)
    for name, value in above.items():
        under = below.get(name)
        merged[name] = over(value, under) if isinstance(value, dict) and isinstance(under, dict) else value
    return merged
