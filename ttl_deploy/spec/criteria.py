"""What a model has to reach to be accepted, fixed in a file before it is measured.

YAML, because the project reads YAML already. Every field is known: a misspelt criterion would be none at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field

from ttl_deploy import documents
from ttl_deploy.errors import BadInputError, DamagedError
from ttl_deploy.spec.bounds import Bounds
from ttl_deploy.spec.record import Record, read_record

Share = Annotated[float | None, Field(strict=True, ge=0, le=1)]
Most = Annotated[float | None, Field(strict=True, gt=0, allow_inf_nan=False)]
Count = Annotated[int | None, Field(strict=True, gt=0)]

_ASKING = ("bounds", "minimum", "maximum", "subgroups")
_GROUPS_ASK = ("bounds", "minimum", "groups")


class Floors(Record):
    """Least that the artifact reaches on the images at hand; None: not asked. The names are those of `metrics.json`.

    Sensitivity, specificity and the predictive values are of the artifact's operating point.
    """

    auroc: Share = None
    auprc: Share = None
    quadratic_kappa: Annotated[float | None, Field(strict=True, ge=-1, le=1)] = None
    accuracy: Share = None
    balanced_accuracy: Share = None
    sensitivity: Share = None
    specificity: Share = None
    positive_predictive_value: Share = None
    negative_predictive_value: Share = None
    sensitivity_at_90_specificity: Share = None
    sensitivity_at_95_specificity: Share = None
    dice: Share = None
    jaccard: Share = None
    least_dice: Share = None


class Ceilings(Record):
    """Most that the artifact may have; None: not asked. Each is judged by its number.

    Attributes:
        brier: Brier score.
        ece: Expected calibration error.
        latency_p95_ms: 95th percentile of the time of one image, milliseconds, in the engine of the check.
        size_mib: Of all files that are deployed, texts for people aside.
        parameters: Of the source model.
        macs: Multiply-adds for one image.
    """

    brier: Annotated[float | None, Field(strict=True, ge=0, le=2)] = None
    ece: Share = None
    latency_p95_ms: Most = None
    size_mib: Most = None
    parameters: Count = None
    macs: Count = None


By = Literal["interval", "value"]


class GroupFloors(Record):
    """What the groups of one column of the images' table have to reach, each by itself.

    Attributes:
        by: As `Criteria.by`; None: as there.
        minimum: Floors of every group.
        bounds: How much the artifact may differ from the reference on the images of a group.
        groups: Floors of single groups, which win over those of every group; each has to be there.
    """

    by: By | None = None
    minimum: Floors = Floors()
    bounds: Bounds = Bounds()
    groups: dict[str, Floors] = Field(default_factory=dict)

    def floors(self, group: str) -> Floors:
        """Those of one group."""
        own = self.groups.get(group, Floors())
        return self.minimum.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


class Criteria(Record):
    """Acceptance criteria.

    Attributes:
        by: Whether a floor is held against the lower end of the 95 % interval, or against the value.
        bounds: How much the artifact may differ from the reference, in the words of `Bounds`.
        minimum: Floors.
        maximum: Ceilings.
        subgroups: By column of the images' table, such as sex, age, scanner, site.
    """

    by: By = "interval"
    bounds: Bounds = Bounds()
    minimum: Floors = Floors()
    maximum: Ceilings = Ceilings()
    subgroups: dict[str, GroupFloors] = Field(default_factory=dict)


@dataclass(frozen=True)
class CriteriaFile:
    """Criteria as they stand in a file.

    Attributes:
        path: The file.
        content: Its bytes.
        criteria: What they say.
        bounds: Names of the bounds that stand in it; a preset sets others.
        subgroup_bounds: The same by column.
    """

    path: Path
    content: bytes
    criteria: Criteria
    bounds: tuple[str, ...] = ()
    subgroup_bounds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the bytes."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def subgroups(self) -> dict[str, tuple[str, ...]]:
        """Columns that divide the images, and the groups of each that have to be there."""
        return {column: tuple(asked.groups) for column, asked in self.criteria.subgroups.items()}


def read_criteria(path: str | Path) -> CriteriaFile:
    """Reads a criteria file.

    Raises:
        BadInputError: There is no such file, or it asks for nothing.
        DamagedError: It is no YAML, has a field that no criterion has, or a value out of range.
    """
    place = Path(path)
    missing = "write one: minimum, maximum, bounds and subgroups, see the README"
    content = documents.read_bytes(place, most=documents.CONFIG.bytes, missing=missing)
    said = documents.read_yaml(place)
    if not isinstance(said, dict) or not any(said.get(name) for name in _ASKING):
        raise BadInputError("asks for nothing", where=place, fix=f"give it some of {', '.join(_ASKING)}")
    _refuse_unknown(Criteria, said, place)
    for column, asked in (said.get("subgroups") or {}).items():
        if not any(asked.get(name) for name in _GROUPS_ASK):
            what, fix = f"subgroups.{column} asks for nothing", f"give it some of {', '.join(_GROUPS_ASK)}"
            raise BadInputError(what, where=place, fix=fix)
    criteria = read_record(Criteria, said, place)
    by_column = {column: tuple(said["subgroups"][column].get("bounds") or ()) for column in criteria.subgroups}
    return CriteriaFile(place, content, criteria, tuple(said.get("bounds") or ()), by_column)


def _refuse_unknown(kind: type[Record], said: Mapping[Any, Any], place: Path, within: str = "") -> None:
    for name, value in said.items():
        if name not in kind.model_fields:
            known = ", ".join(kind.model_fields)
            raise DamagedError(f"has an unknown field {f'{within}{name}'!r:.80}", where=place, fix=f"known: {known}")
        inner = kind.model_fields[name].annotation
        if get_origin(inner) is dict:
            _refuse_no_names(value, f"{within}{name}", place, "give each name criteria of its own")
            for each, asked in value.items():
                _refuse_inner(get_args(inner)[1], asked, place, f"{within}{name}.{each}")
        elif isinstance(inner, type) and issubclass(inner, Record):
            _refuse_inner(inner, value, place, f"{within}{name}")


def _refuse_inner(kind: type[Record], said: Any, place: Path, name: str) -> None:
    _refuse_no_names(said, name, place, f"known: {', '.join(kind.model_fields)}")
    _refuse_unknown(kind, said, place, f"{name}.")


def _refuse_no_names(said: Any, name: str, place: Path, fix: str) -> None:
    if not isinstance(said, dict):
        raise DamagedError(f"{name} is {said!r:.80}, not names with values", where=place, fix=fix)


def refuse_other_bounds(said: Bounds, file: CriteriaFile) -> None:
    """Criteria are fixed beforehand, so no option moves one.

    Raises:
        BadInputError: A bound was said that is not what the file has.
    """
    for name in Bounds.model_fields:
        fixed = getattr(file.criteria.bounds, name)
        if name in said.model_fields_set and getattr(said, name) != fixed:
            given = "does not say it" if name not in file.criteria.bounds.model_fields_set else f"says {fixed}"
            raise BadInputError(
                f"contradicts {file.path}, which {given}",
                where=f"--{name.replace('_', '-')}",
                fix="leave it out, or say it in that file under bounds",
            )
