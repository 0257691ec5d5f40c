"""What a model has to reach to be accepted, fixed in a file before it is measured.

YAML, because the project reads YAML already. Every field is known: a misspelt criterion would be none at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ttl_deploy import documents
from ttl_deploy.errors import BadInputError, DamagedError
from ttl_deploy.spec.bounds import Bounds
from ttl_deploy.spec.record import Record, read_record

Share = Annotated[float | None, Field(strict=True, ge=0, le=1)]
Most = Annotated[float | None, Field(strict=True, gt=0, allow_inf_nan=False)]
Count = Annotated[int | None, Field(strict=True, gt=0)]


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


class Criteria(Record):
    """Acceptance criteria.

    Attributes:
        by: Whether a floor is held against the lower end of the 95 % interval, or against the value.
        bounds: How much the artifact may differ from the reference, in the words of `Bounds`.
        minimum: Floors.
        maximum: Ceilings.
    """

    by: Literal["interval", "value"] = "interval"
    bounds: Bounds = Bounds()
    minimum: Floors = Floors()
    maximum: Ceilings = Ceilings()


@dataclass(frozen=True)
class CriteriaFile:
    """Criteria as they stand in a file.

    Attributes:
        path: The file.
        content: Its bytes.
        criteria: What they say.
        bounds: Names of the bounds that stand in it; a preset sets others.
    """

    path: Path
    content: bytes
    criteria: Criteria
    bounds: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the bytes."""
        return hashlib.sha256(self.content).hexdigest()


def read_criteria(path: str | Path) -> CriteriaFile:
    """Reads a criteria file.

    Raises:
        BadInputError: There is no such file, or it asks for nothing.
        DamagedError: It is no YAML, has a field that no criterion has, or a value out of range.
    """
    place = Path(path)
    missing = "write one: minimum, maximum and bounds, see the README"
    content = documents.read_bytes(place, most=documents.CONFIG.bytes, missing=missing)
    said = documents.read_yaml(place)
    if not isinstance(said, dict) or not any(said.get(name) for name in ("bounds", "minimum", "maximum")):
        raise BadInputError("asks for nothing", where=place, fix="give it some of bounds, minimum, maximum")
    _refuse_unknown(Criteria, said, place)
    return CriteriaFile(place, content, read_record(Criteria, said, place), tuple(said.get("bounds") or ()))


def _refuse_unknown(kind: type[Record], said: Mapping[Any, Any], place: Path, within: str = "") -> None:
    for name, value in said.items():
        if name not in kind.model_fields:
            known = ", ".join(kind.model_fields)
            raise DamagedError(f"has an unknown field {f'{within}{name}'!r:.80}", where=place, fix=f"known: {known}")
        inner = kind.model_fields[name].annotation
        if isinstance(inner, type) and issubclass(inner, Record):
            if not isinstance(value, dict):
                what = f"{name} is {value!r:.80}, not names with values"
                raise DamagedError(what, where=place, fix=f"known: {', '.join(inner.model_fields)}")
            _refuse_unknown(inner, value, place, f"{name}.")


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
