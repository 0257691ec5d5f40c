"""One model as sections of a report: how accurate it is and what it decides, then the sections of other files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.pages import curves, exported, figures, looks, origin
from ttl_deploy.pages.document import Figure, Section, Table
from ttl_deploy.pages.subgroups import subgroups
from ttl_deploy.pages.subject import Evidence, Subject
from ttl_deploy.pages.words import METRICS, NOTHING, between, metric_of, number, title_of, with_interval
from ttl_deploy.spec import OperatingPoint
from ttl_deploy.tasks.operating_point import Reached
from ttl_deploy.training.measures import measure_of
from ttl_deploy.training.resampling import numbered

_FEWEST_POINTS, _MOST_POINTS, _POINTS_OF_ALL = 12, 400, 16_000
"""Of one curve, and of all of a document: more are not seen, and the page has to stay small."""
_MOST_CLASSES = 24
"""Of a confusion matrix: more columns are read by nobody."""
_RATES = {
    "sensitivity": "of all that have it, so many are found",
    "specificity": "of all without it, so many are let be",
    "positive_predictive_value": "of all that are flagged, so many have it, where it is as frequent as here",
    "negative_predictive_value": "of all that are let be, so many are without it, likewise",
}


def sections(
    subject: Subject,
    *,
    prefix: str,
    level: int,
    share: int = 1,
    subgroup: Sequence[str] = (),
    data: Path | None = None,
) -> Iterator[Section]:
    """All that is known of a model; what is not known has no section.

    Args:
        subject: The model.
        prefix: Of its figures' names, which no other model of the document has.
        level: Of the headings.
        share: Among how many models the room of a page is divided.
        subgroup: Columns of its table; see `subgroups`.
        data: Where its table is now; None: where it was.

    Raises:
        BadInputError: The table has no such column, or cannot be read.
    """
    evidence = subject.evidence
    if evidence is not None:
        yield _accuracy(subject, evidence, prefix, level)
        yield from _of_columns(subject, evidence, prefix, level, share)
    yield from subgroups(subject, subgroup, data, prefix, level)
    yield from exported.exports(subject, level)
    yield from exported.speeds(subject, prefix, level)
    if evidence is not None:
        yield from origin.paper(evidence, level)
        yield origin.data(evidence, level)
        yield origin.training(evidence, prefix, level)
    yield from looks.section(subject.looks, "What training did to its layers", prefix, level)
    yield origin.machines(subject, level)


def _accuracy(subject: Subject, evidence: Evidence, prefix: str, level: int) -> Section:
    test, val = subject.test, evidence.record.val.model_dump()
    rows = tuple(
        (title, number(test[name]), between(test.get(f"{name}_interval")), number(val.get(name)), says)
        for name, (title, says) in METRICS.items()
        if test.get(name) is not None
    )
    columns = ("metric", "test", "95 % interval", "validation", "what it says")
    table = Table(columns, rows, f"On {test['images']:,} test images", words=(0, 4))
    classes = [_per_class(test["per_class"])] if len(test.get("per_class", ())) > 1 else []
    caution = [f"Caution: {test['caution']}."] if test.get("caution") else []
    drawn = tuple(_each(subject, evidence, prefix))
    return Section("Accuracy", (*caution, _intervals(test)), (table, *classes), drawn, level=level)


def _each(subject: Subject, evidence: Evidence, prefix: str) -> Iterator[Figure]:
    """How the scores of single images are spread, where an image has one."""
    for metric, values in measure_of(subject.task).each(evidence.test.logits).items():
        low, middle, high = np.percentile(values, (5, 50, 95))
        title = f"{title_of(metric)} of single images"
        says = f"Median {middle:.3f}, 5th percentile {low:.3f}, 95th {high:.3f}, worst {values.min():.3f}."
        yield figures.spread_figure(f"{prefix}-{metric}", title, says, np.sort(values), title_of(metric))


def _intervals(test: Mapping[str, Any]) -> str:
    if test["patients"]:
        return "Intervals are taken over whole patients, because images of one patient resemble each other."
    return "Intervals are taken over images, because patients are not known; with several of one they are too narrow."


def _per_class(classes: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            found["name"],
            str(found["images"]),
            NOTHING if found["patients"] is None else str(found["patients"]),
            *(metric_of(found, name) for name in ("auroc", "auprc")),
            # Without their intervals, which are in `metrics.json`: the table would be wider than the page.
            *(number(found[f"sensitivity_at_{at}_specificity"]) for at in (90, 95)),
        )
        for found in classes
    )
    columns = ("class", "images", "patients", "AUROC", "AUPRC", "found at 90 % specificity", "at 95 %")
    return Table(columns, rows, "Each class against the rest, with intervals of 95 %", sortable=True)


def _of_columns(subject: Subject, evidence: Evidence, prefix: str, level: int, share: int) -> Iterator[Section]:
    """Curves and decisions, where images are ranked."""
    task, test = subject.task, evidence.test
    if not task.columns:
        return
    patients = numbered(evidence.patients, len(test.ids))
    found = curves.columns(task, test.labels, test.logits, patients)
    reached = curves.reached(task, test.labels, test.logits, patients)
    if found:
        yield _curves(subject, evidence, found, reached, prefix, level, share)
    rates = [_rates(reached)] if reached is not None else []
    title = "Decisions" if subject.point is None else "Decisions at the operating point"
    tables = (*rates, _confusion(subject, evidence))
    yield Section(title, (_rule(subject.point, task.positive),), tables, level=level)


def _curves(
    subject: Subject,
    evidence: Evidence,
    found: Sequence[curves.Column],
    reached: Reached | None,
    prefix: str,
    level: int,
    share: int,
) -> Section:
    points = min(_MOST_POINTS, max(_FEWEST_POINTS, _POINTS_OF_ALL // (len(found) * share)))
    areas = {found["name"]: found for found in subject.test["per_class"]}
    drawn = (
        _roc(prefix, [curves.roc(column).at_most(points) for column in found], areas, subject, reached),
        _precision_recall(prefix, found, areas, points),
        _reliability(prefix, subject, evidence, found),
    )
    hidden = len(found) > figures.MOST_CURVES
    notes = (f"The pictures have {figures.MOST_CURVES} of {len(found)} curves, their CSV files all.",) if hidden else ()
    return Section("ROC, precision-recall and calibration", notes, figures=drawn, level=level)


def _roc(
    prefix: str, lines: Sequence[curves.Curve], areas: Mapping[str, Any], subject: Subject, reached: Reached | None
) -> Figure:
    says, marks = _areas(lines, areas, "auroc", "Area"), []
    where = "operating point" if subject.point is not None else "decision at one half"
    if reached is not None and reached.sensitivity.value is not None and reached.specificity.value is not None:
        found, spared = reached.sensitivity.value, reached.specificity.value
        marks = [(where, 1 - spared, found)]
        says += f" The mark is the {where}: sensitivity {number(found)}, specificity {number(spared)}."
    names = ("1 - specificity", "sensitivity")
    return figures.curves_figure(f"{prefix}-roc", "ROC", says, lines, names, marks)


def _precision_recall(prefix: str, found: Sequence[curves.Column], areas: Mapping[str, Any], points: int) -> Figure:
    lines = [curves.precision_recall(column).at_most(points) for column in found]
    says = _areas(lines, areas, "auprc", "Average precision")
    if len(found) == 1:
        says += f" Chance is {number(float(found[0].positive.mean()))}, the share of the class."
    name, title = f"{prefix}-precision-recall", "Precision and recall"
    return figures.curves_figure(name, title, says, lines, ("recall", "precision"))


def _areas(lines: Sequence[curves.Curve], areas: Mapping[str, Any], metric: str, words: str) -> str:
    each = [(line.name, areas[line.name][metric], areas[line.name][f"{metric}_interval"]) for line in lines[:4]]
    told = ", ".join(f"{name} {with_interval(value, interval)}" for name, value, interval in each)
    return f"{words}, with its interval of 95 %: {told}{', and more below' if len(lines) > 4 else ''}."


def _reliability(prefix: str, subject: Subject, evidence: Evidence, found: Sequence[curves.Column]) -> Figure:
    """Of one column its own probability; of several the most probable answer's, as the calibration error takes it."""
    test, says = evidence.test, "On the diagonal what is said is what is found; bars are intervals of 95 %."
    if len(found) == 1:
        bins = curves.reliability(found[0].scores, found[0].positive, found[0].patients)
        names = (f"probability said of {figures.short(found[0].name)}", "share found")
    else:
        patients = numbered(evidence.patients, len(test.ids))
        bins = curves.reliability(*curves.answers(subject.task, test.labels, test.logits, patients))
        names = ("probability said of the answer", "share that is right")
    says += f" Calibration error {number(subject.test['ece'])}."
    return figures.reliability_figure(f"{prefix}-calibration", "Calibration", says, bins, *names)


def _rule(point: OperatingPoint | None, positive: str) -> str:
    if point is None:
        return "The more probable answer is given; no operating point was chosen."
    return f"{positive} is said from a probability of {point.threshold:.4f} on ({point.rule}, on the validation side)."


def _rates(reached: Reached) -> Table:
    found = [(name.replace("_", " "), getattr(reached, name), says) for name, says in _RATES.items()]
    rows = tuple(
        (name, number(rate.value), between(rate.interval), f"{rate.hits} of {rate.images}", says)
        for name, rate, says in found
    )
    return Table(("rate", "test", "95 % interval", "images", "what it says"), rows, words=(0, 4))


def _confusion(subject: Subject, evidence: Evidence) -> Table:
    counts = curves.confusion(subject.task, evidence.test.labels, evidence.test.logits)
    if counts.ndim == 3:
        return _of_labels(subject.task.classes, counts)
    if len(counts) > _MOST_CLASSES:
        return _mistaken(subject.task.classes, counts)
    rows = tuple(
        (name, *map(str, row), f"{100 * row[k] / row.sum():.1f} %" if row.sum() else NOTHING)
        for k, (name, row) in enumerate(zip(subject.task.classes, counts, strict=True))
    )
    columns = ("truth", *(f"said: {name}" for name in subject.task.classes), "right")
    return Table(columns, rows, "Confusion matrix, images")


def _of_labels(labels: Sequence[str], counts: NDArray[np.int64]) -> Table:
    rows = tuple(
        (name, *map(str, (yes[1], yes[0], no[1], no[0]))) for name, (no, yes) in zip(labels, counts, strict=True)
    )
    columns = ("label", "has it, found", "has it, missed", "has it not, flagged", "has it not, let be")
    return Table(columns, rows, "Confusion matrix of each label, images", sortable=True)


def _mistaken(classes: Sequence[str], counts: NDArray[np.int64]) -> Table:
    """The pairs that are taken for each other most often."""
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    pairs = [divmod(int(place), len(counts)) for place in np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CLASSES]]
    rows = tuple((classes[i], classes[j], str(wrong[i, j])) for i, j in pairs if wrong[i, j])
    caption = "Which classes are taken for which most often"
    return Table(("truth", "said", "images"), rows, caption, (0, 1), sortable=True)
