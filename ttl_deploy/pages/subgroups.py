"""How a model does on parts of its test side, as a column of the run's table divides it.

The metrics are those of the whole test side, taken anew of the recorded predictions of each part, with intervals by
patient. No image is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.data.image_paths import ImagePaths
from ttl_deploy.data.read_csv import locate, table_rows
from ttl_deploy.data.understood import read_columns
from ttl_deploy.errors import BadInputError, near
from ttl_deploy.pages import curves, figures
from ttl_deploy.pages.document import Figure, Section, Table
from ttl_deploy.pages.subject import Evidence, Subject
from ttl_deploy.pages.words import NOTHING, metric_of, title_of, with_interval
from ttl_deploy.training.measures import measure_of
from ttl_deploy.training.resampling import numbered
from ttl_deploy.training.run import DATA, place_of_data

MOST = 12
"""Groups of a column; more of numbers are put together."""
UNSAID = "not said"
_QUARTERS = 4
_FEW = 10
"""Patients below which a group tells little."""
_TABLES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class Part:
    """A group of test images.

    Attributes:
        name: Value of the column, or from which number to which.
        places: (M,) of its images on the test side.
    """

    name: str
    places: NDArray[np.int64]


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
    cells = _cells(evidence, column, data)
    values = [cells.get(image, "") for image in evidence.test.ids]
    distinct = sorted({value for value in values if value})
    numbers = _numbers(values)
    if len(distinct) > MOST and numbers is not None:
        return list(_quarters(numbers))
    if len(distinct) > MOST:
        raise BadInputError(
            f"the column {column} has {len(distinct)} different values on the test side",
            where=place_of_data(evidence.run, data),
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


def _cells(evidence: Evidence, column: str, data: Path | None) -> dict[str, str]:
    """The column's cell of each image of the division that the table has."""
    table = place_of_data(evidence.run, data)
    if table.suffix.lower() not in _TABLES or not table.is_file():
        what = "is no table that is there" if table.suffix.lower() in _TABLES else "is no table, so it has no columns"
        raise BadInputError(what, where=table, fix="say with --data where the run's table is, or leave --subgroup out")
    rows = table_rows(table)
    _line, header = next(rows, (0, []))
    if column not in header:
        raise BadInputError(f"has no column {column!r:.80}", where=table, fix=near(column, [h for h in header if h]))
    path = read_columns(evidence.run.folder / DATA).get("path", "path")
    if path not in header:
        raise BadInputError(f"has no column {path!r:.80}, which the run was read from", where=table)
    ids = _ids(evidence, table, header.index(path))
    place = header.index(column)
    return {ids(cells, line): cells[place] if place < len(cells) else "" for line, cells in rows}


def _ids(evidence: Evidence, table: Path, place: int) -> Callable[[Sequence[str], int], str]:
    """What finds the id of a row's image, as the run has it; a path may leave the ending out."""
    template = evidence.run.config.reading.path_template
    paths = None if template is None else ImagePaths(table, template)
    known = {row.id for row in evidence.division}
    whole = {str(Path(name).with_suffix("")): name for name in known}

    def of(cells: Sequence[str], line: int) -> str:
        text = cells[place] if place < len(cells) else ""
        found = locate(table.parent, text if paths is None or not text else paths.of(text, f"{table}:{line}"))[0]
        return found if found in known else whole.get(found, found)

    return of


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
    few = [part.name for part, measured in found if (measured["patients"] or measured["images"]) < _FEW]
    small = f" Fewer than {_FEW} patients, too few to rely on: {', '.join(few)}." if few else ""
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
