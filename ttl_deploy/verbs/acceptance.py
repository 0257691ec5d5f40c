"""Acceptance criteria held against a finished check: a row for each, and one result. No torch.

A floor holds where the lower end of the artifact's own 95 % interval reaches it, or the value where the file says
`by: value`. A bound holds as `verify` judges it. A group of images is judged likewise, by its own images alone. What is
asked and cannot be told is never taken to hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from ttl_deploy.data.divided import FEW, Part
from ttl_deploy.errors import BadInputError
from ttl_deploy.pages.curves import accuracy, reached
from ttl_deploy.pages.document import Section, Table
from ttl_deploy.pages.words import NOTHING, between
from ttl_deploy.parity.compare import Comparison, Result, against_bound
from ttl_deploy.parity.sides import Sides
from ttl_deploy.parity.verify import Check
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import Bounds, CriteriaFile, Placement, Record, Trust
from ttl_deploy.spec.criteria import By, Floors
from ttl_deploy.tasks import task_of
from ttl_deploy.training.measures import measure_of
from ttl_deploy.training.resampling import numbered
from ttl_deploy.verbs.bench import bench

Held = Literal["held", "not held", "cannot be judged"]
Interval = tuple[float, float]

_HELD: dict[Result, Held] = {"pass": "held", "fail": "not held", "inconclusive": "cannot be judged"}
_MIB = 2**20
_P95_SAMPLES = 200
"""The least of which the 95th percentile is told; see `Measurement`."""


class Group(Record):
    """Images that a column of their table has together.

    Attributes:
        column: Its head.
        name: Its value, or from which number to which.
        images: How many.
        patients: Of how many; None where none is known.
    """

    column: str
    name: str
    images: int
    patients: int | None

    @property
    def words(self) -> str:
        """What they are, for a row's reason."""
        return f"{self.images} images" if self.patients is None else f"{self.images} images of {self.patients} patients"


class Row(Record):
    """A criterion and what became of it.

    Attributes:
        criterion: Its name in the file; of a group, with the group's after its column's.
        asked: In words.
        seen: In words.
        interval: 95 % interval of what was seen; None where there is none.
        result: What became of it.
        why: One line.
        group: The images that it is of; None: all.
    """

    criterion: str
    asked: str
    seen: str
    interval: Interval | None
    result: Held
    why: str
    group: Group | None = Field(default=None, exclude_if=lambda value: value is None)


class Acceptance(Record):
    """All criteria of a file.

    Attributes:
        file: Its path, as given.
        sha256: Of its bytes.
        result: fail where one is not held, else inconclusive where one cannot be judged, else pass.
        rows: The first is the check itself; the others in the order of the records.
    """

    file: str
    sha256: str
    result: Result
    rows: tuple[Row, ...]

    @property
    def lead(self) -> str:
        """The answer in a sentence."""
        counts = {held: sum(row.result == held for row in self.rows) for held in ("held", "not held")}
        open_ = len(self.rows) - sum(counts.values())
        return (
            f"{self.result.upper()}: of {len(self.rows)} criteria {counts['held']} held, "
            f"{counts['not held']} not held, {open_} cannot be judged."
        )


def accept(
    check: Check,
    file: CriteriaFile,
    *,
    placement: Placement = Placement(),
    trust: Trust = Trust(),
    reporter: Reporter = SILENT,
) -> Acceptance:
    """Judges a check by criteria.

    Args:
        check: As `verify` made it, under the file's own bounds and divided by the file's own subgroups.
        file: The criteria.
        placement: Where the artifact ran; a latency is measured there, which takes seconds.
        trust: Whose artifact it may be.
        reporter: Told of the measurement.

    Raises:
        BadInputError: The check is not divided by a column that the file names.
        TtlDeployError: The latency is asked for and its measurement failed.
    """
    for column in file.criteria.subgroups:
        if column not in check.parts:
            what = f"has criteria by {column}, and the check was not divided by that"
            raise BadInputError(what, where=file.path, fix="pass its columns and groups to verify as subgroups")
    seen = _Seen(check, check.sides)
    said = file.criteria
    rows = (
        _of_check(check),
        *_bounds(check.comparison, said.bounds.filled(seen.precision), file.bounds),
        *_floors(seen, said.minimum, said.by),
        *_ceilings(seen, file, placement, trust, reporter),
        *_groups(seen, file),
    )
    results = {row.result for row in rows}
    result: Result = "fail" if "not held" in results else "inconclusive" if "cannot be judged" in results else "pass"
    return Acceptance(file=str(file.path), sha256=file.sha256, result=result, rows=rows)


def section(found: Acceptance, level: int = 2) -> Section:
    """The rows as a part of a report."""
    rows = tuple(
        (row.criterion, row.asked, row.seen, between(row.interval, 4), row.result, row.why) for row in found.rows
    )
    table = Table(("criterion", "asked", "seen", "95 % interval", "result", "why"), rows, words=(0, 1, 2, 4, 5))
    said = f"Fixed in {found.file}, SHA-256 {found.sha256}."
    return Section("Acceptance criteria", (found.lead, said), (table,), level=level)


@dataclass(frozen=True)
class _Seen:
    """What the artifact alone reaches on the images of a check, or on some of them."""

    check: Check
    sides: Sides

    @cached_property
    def unknown(self) -> str | None:
        """Why nothing is known of it; None where something is."""
        if not self.check.comparison.labelled:
            return "the images have no labels"
        if self.check.comparison.not_finite:
            return f"outputs of {self.check.comparison.not_finite} images are not finite"
        return None

    @property
    def precision(self) -> str:
        """Of the artifact's graph."""
        return self.check.record.precision or "fp32"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Metrics and their intervals, by name."""
        said, groups, manifest = self.sides.said, self.sides.groups, self.check.artifact.manifest
        task = task_of(manifest.model, manifest.operating_point)
        found = measure_of(task).evaluate(task, said.labels, said.logits, groups=groups).model_dump()
        if not task.columns:
            return found
        patients = numbered(groups, len(said.ids))
        found |= accuracy(task, said.labels, said.logits, patients)
        rates = reached(task, said.labels, said.logits, patients)
        for name, rate in rates or ():
            found |= {name: rate.value, f"{name}_interval": rate.interval}
        return found


def _of_check(check: Check) -> Row:
    judged = check.verdict
    return Row(
        criterion="parity",
        asked=f"the artifact is {check.record.reference}",
        seen=judged.result,
        interval=None,
        result=_HELD[judged.result],
        why=judged.reason,
    )


def _bounds(comparison: Comparison, bounds: Bounds, asking: Sequence[str]) -> Iterator[Row]:
    for name in Bounds.model_fields:
        value = getattr(bounds, name)
        if name not in asking or value in (None, "default"):
            continue
        found = against_bound(comparison, bounds, name)
        asked = str(value) if isinstance(value, str) else f"at {_side(name)} {value:g}"
        if not found:
            yield _unjudged(f"bounds.{name}", asked, "nothing that it bounds can be had of this task on these images")
        for each in found:
            seen = NOTHING if each.number is None else f"{each.measure} {each.number + 0.0:.4g}"
            yield Row(
                criterion=f"bounds.{name}",
                asked=asked,
                seen=seen,
                interval=each.interval and (each.interval[0] + 0.0, each.interval[1] + 0.0),
                result=_HELD[each.result],
                why=each.reason,
            )


def _side(name: str) -> str:
    return "most" if name.startswith("max_") else "least"


def _floors(seen: _Seen, floors: Floors, by: By) -> Iterator[Row]:
    for name, least in floors:
        if least is not None:
            yield _floor(seen, name, least, by)


def _floor(seen: _Seen, name: str, least: float, by: By) -> Row:
    called = f"minimum.{name}"
    asked = f"{'lower end of the interval' if by == 'interval' else 'value'} at least {least:g}"
    if seen.unknown is not None:
        return _unjudged(called, asked, seen.unknown)
    value, interval = seen.metrics.get(name), seen.metrics.get(f"{name}_interval")
    if value is None or not math.isfinite(value):
        return _unjudged(called, asked, "it is not defined for this task on these images")
    number = value if by == "value" else interval and interval[0]
    if number is None:
        why = "no interval of it is known on these images; by: value would judge the number"
        return _unjudged(called, asked, why, f"{value:.4f}")
    word = "the value" if by == "value" else "the lower end"
    held = number >= least
    return Row(
        criterion=called,
        asked=asked,
        seen=f"{value:.4f}",
        interval=interval,
        result="held" if held else "not held",
        why=f"{word} {number:.4f} {'reaches' if held else 'is below'} {least:g}",
    )


def _groups(seen: _Seen, file: CriteriaFile) -> Iterator[Row]:
    for column, asked in file.criteria.subgroups.items():
        by = asked.by or file.criteria.by
        bounds = asked.bounds.filled(seen.precision)
        for part in seen.check.parts[column]:
            own = replace(seen, sides=seen.sides.at(part.places))
            group = _group(column, part, own.sides)
            asking = file.subgroup_bounds[column]
            rows = [
                *(_bounds(own.sides.compare(), bounds, asking) if asking else ()),
                *_floors(own, asked.floors(part.name), by),
            ]
            yield from (_of_group(row, group) for row in rows)


def _group(column: str, part: Part, sides: Sides) -> Group:
    patients = None if sides.groups is None else len(set(sides.groups))
    return Group(column=column, name=part.name, images=len(part.places), patients=patients)


def _of_group(row: Row, group: Group) -> Row:
    """A row of a group's images alone, which so few that they tell little leave open."""
    few = (group.patients or group.images) < FEW
    reason = f"fewer than {FEW} {'images' if group.patients is None else 'patients'} tell too little"
    told = {"result": _HELD["inconclusive"], "why": f"{group.words}: {reason}"} if few else {}
    called, why = f"subgroups.{group.column}.{group.name}.{row.criterion}", f"{group.words}: {row.why}"
    return row.model_copy(update={"criterion": called, "why": why, "group": group, **told})


def _ceilings(seen: _Seen, file: CriteriaFile, placement: Placement, trust: Trust, reporter: Reporter) -> Iterator[Row]:
    for name, most in file.criteria.maximum:
        if most is None:
            continue
        asked, called = f"at most {most:g}", f"maximum.{name}"
        if name == "latency_p95_ms":
            yield _latency(seen.check, most, placement, trust, reporter)
        elif name in ("brier", "ece") and seen.unknown is not None:
            yield _unjudged(called, asked, seen.unknown)
        else:
            number = _number(seen, name)
            yield _unjudged(called, asked, "this task has none") if number is None else _ceiling(name, number, most)


def _number(seen: _Seen, name: str) -> float | None:
    manifest = seen.check.artifact.manifest
    if name == "size_mib":
        return sum(each.size for file, each in manifest.files.items() if not file.endswith(".md")) / _MIB
    found: float | None = getattr(manifest, name) if name in ("parameters", "macs") else seen.metrics.get(name)
    return found


def _ceiling(name: str, number: float, most: float, more: str = "") -> Row:
    held = number <= most
    return Row(
        criterion=f"maximum.{name}",
        asked=f"at most {most:g}",
        seen=f"{number:.6g}",
        interval=None,
        result="held" if held else "not held",
        why=f"{number:.6g} is {'within' if held else 'above'} {most:g}{more}",
    )


def _latency(check: Check, most: float, placement: Placement, trust: Trust, reporter: Reporter) -> Row:
    rows = bench(
        [check.artifact.folder],
        threads=placement.threads,
        device=placement.device,
        runtime=[check.runtime],
        torch=(),
        whole=False,
        min_samples=_P95_SAMPLES,
        min_seconds=1.0,
        roofline=False,
        trust=trust,
        reporter=reporter,
    )
    m = next(row.measurement for row in rows if row.role == "own")
    where = f", {m.runtime}, {m.threads} threads, {m.hardware.get('cpu', m.device)}, {len(m.samples_ms)} samples"
    if m.p95_ms is None or m.noise is not None:
        seen = NOTHING if m.p95_ms is None else f"{m.p95_ms:.6g}"
        return _unjudged("maximum.latency_p95_ms", f"at most {most:g}", f"{m.noise or 'too few samples'}{where}", seen)
    return _ceiling("latency_p95_ms", m.p95_ms, most, where)


def _unjudged(criterion: str, asked: str, why: str, seen: str = NOTHING) -> Row:
    return Row(criterion=criterion, asked=asked, seen=seen, interval=None, result="cannot be judged", why=why)
