"""How a model does on parts of its test side, as a column of the run's table divides it.

The metrics are those of the whole test side, taken anew of the recorded predictions of each part, with intervals by
patient. No image is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ttl_deploy.data import divided
from ttl_deploy.data.divided import FEW, Part
from ttl_deploy.pages import curves, figures
from ttl_deploy.pages.document import Figure, Section, Table
from ttl_deploy.pages.subject import Evidence, Subject
from ttl_deploy.pages.words import NOTHING, metric_of, title_of, with_interval
from ttl_deploy.training.measures import measure_of
from ttl_deploy.training.resampling import numbered
from ttl_deploy.training.run import table_of


def subgroups(
    subject: Subject, columns: Sequence[str], data: Path | None, prefix: str, level: int
) -> Iterator[Section]:
    """A section with a table and a picture for each column; nothing of a model without its run.

    Args:
        subject: The model.
        columns: Of the table, by their heads.
        data: Where the table is now; None: where it was.
        prefix: Of the figures' names.
        level: Of the headings.

    Raises:
        BadInputError: The run was not read from a table, or it has no such column, or too many groups.
    """
    evidence = subject.evidence
    if evidence is None:
        return
    for place, column in enumerate(columns, 1):
        found = [(part, _measured(subject, evidence, part)) for part in parts(evidence, column, data)]
        table, figure = _table(subject, column, found), _figure(subject, column, found, f"{prefix}-subgroup-{place}")
        yield Section(f"By {column}", (_warning(found),), (table,), figure, level=level)


def parts(evidence: Evidence, column: str, data: Path | None = None) -> list[Part]:
    """The test side divided by a column; see `subgroups`."""
    return divided.parts(table_of(evidence.run, data), column, evidence.test.ids)


def _measured(subject: Subject, evidence: Evidence, part: Part) -> dict[str, Any]:
    """The metrics of a part, and its rates where there are two sides."""
    test, task = evidence.test, subject.task
    groups = None if evidence.patients is None else [evidence.patients[k] for k in part.places]
    labels, rows = test.labels[part.places], test.logits[part.places]
    patients = numbered(groups, len(rows))
    found = measure_of(task).evaluate(task, labels, rows, groups=groups).model_dump()
    reached = curves.reached(task, labels, rows, patients)
    rates = {} if reached is None else reached.model_dump()
    return {**found, **curves.accuracy(task, labels, rows, patients), **rates}


def _warning(found: Sequence[tuple[Part, Mapping[str, Any]]]) -> str:
    few = [part.name for part, measured in found if (measured["patients"] or measured["images"]) < FEW]
    small = f" Fewer than {FEW} patients, too few to rely on: {', '.join(few)}." if few else ""
    return f"Groups of the test side, with intervals of 95 %; they were not tested against each other.{small}"


def _table(subject: Subject, column: str, found: Sequence[tuple[Part, Mapping[str, Any]]]) -> Table:
    names = [name for name in (*subject.task.METRICS, "accuracy") if any(m.get(name) is not None for _p, m in found)]
    rates = [name for name in ("sensitivity", "specificity") if subject.task.divided is not None]
    rows = tuple(
        (
            part.name,
            str(measured["images"]),
            NOTHING if measured["patients"] is None else str(measured["patients"]),
            *(metric_of(measured, name) for name in names),
            *(with_interval(measured[rate]["value"], measured[rate]["interval"]) for rate in rates),
        )
        for part, measured in found
    )
    return Table((column, "images", "patients", *map(title_of, names), *rates), rows, sortable=True)


def _figure(
    subject: Subject, column: str, found: Sequence[tuple[Part, Mapping[str, Any]]], name: str
) -> tuple[Figure, ...]:
    metric = subject.task.METRICS[0]
    known = [(p.name, m[metric], m.get(f"{metric}_interval")) for p, m in found if m.get(metric) is not None]
    if not known:
        return ()
    says = ", ".join(f"{group} {with_interval(value, interval)}" for group, value, interval in known) + "."
    whole = float(subject.test[metric])
    title = f"{title_of(metric)} by {column}"
    return (figures.groups_figure(name, title, f"{says} The line is all test images.", known, title_of(metric), whole),)
