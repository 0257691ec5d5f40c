"""Whether it matters what a head makes of the features: pooled against not, over the cuts (paper, B.2 and Fig. 6).

Of runs that differ in head and cut, such as the trials of two searches. The best of a curve is chosen on the test side
that it is told of, so that it flatters both heads alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ttl_deploy.analysis.analyses import ANALYSES, ANSWERS, SAME_SIDE, SEVERAL, Need, of_all_runs
from ttl_deploy.analysis.finding import Finding, Lines, Series, Table
from ttl_deploy.analysis.scoring import title_of
from ttl_deploy.analysis.subject import Subject
from ttl_deploy.errors import BadInputError
from ttl_deploy.zoo import BACKBONES

WHOLE = "whole network"
"""The place of runs that are cut nowhere."""

Points = Mapping[tuple[str, str], Sequence[Subject]]
"""Runs by head and cut."""


def _heads(subjects: Sequence[Subject]) -> None:
    models = [subject.run.config.model for subject in subjects]
    first = models[0]
    for subject, model in zip(subjects, models, strict=True):
        if (model.backbone, model.method, model.input) != (first.backbone, first.method, first.input):
            what = f"differs from {subjects[0].name} in more than head and cut: its network, method or image size"
            raise BadInputError(what, where=subject.run.folder, fix="pass runs that differ in head and cut alone")
    if len({model.head for model in models}) < 2:
        what = f"heads are compared, and all runs have the head {first.head}"
        raise BadInputError(what, fix="pass runs of another head too")


HEADS = Need(_heads, 1)
"""Two heads or more, on one network by one method."""


def look(subjects: Sequence[Subject]) -> Finding:
    """The task's metrics on the test side by head and cut; of several runs, such as of other seeds, their mean."""
    points: defaultdict[tuple[str, str], list[Subject]] = defaultdict(list)
    for subject in subjects:
        points[subject.config.model.head, subject.config.model.cut or WHOLE].append(subject)
    cuts = _cuts(subjects[0], {cut for _head, cut in points})
    heads = tuple(dict.fromkeys(head for head, _cut in points))
    metrics = subjects[0].run.task.METRICS
    return Finding(
        " ".join(_sentence(points, metric, heads, cuts) for metric in metrics),
        {"": _table(points, metrics, heads, cuts)},
        {metric: _lines(points, metric, heads, cuts) for metric in metrics},
        {"runs": len(subjects)},
        {metric: f"{title_of(metric)} by head and cut" for metric in metrics},
    )


def _cuts(subject: Subject, met: set[str]) -> tuple[str, ...]:
    """Those of the network that some run has, bottom first."""
    model = subject.config.model
    own = (point.name for point in BACKBONES.get(model.backbone).at(model.input.size).cut_points)
    return tuple(cut for cut in (*own, WHOLE) if cut in met)


def _values(runs: Sequence[Subject], metric: str) -> list[float]:
    """Of a test side on which the metric does not exist, NaN."""
    found = [run.run.metrics()["test"][metric] for run in runs]
    return [float("nan") if value is None else float(value) for value in found]


def _table(points: Points, metrics: Sequence[str], heads: Sequence[str], cuts: Sequence[str]) -> Table:
    rows = []
    for head in heads:
        for cut in cuts:
            runs = points.get((head, cut), ())
            if runs:
                values = [_values(runs, metric) for metric in metrics]
                told = [number for own in values for number in (np.mean(own), np.min(own), np.max(own))]
                rows.append((head, cut, len(runs), runs[0].run.metrics()["parameters"], *told))
    of = [name for metric in metrics for name in (metric, f"{metric}_least", f"{metric}_most")]
    return Table.of(("head", "cut", "runs", "parameters", *of), rows)


def _means(points: Points, metric: str, head: str, cuts: Sequence[str]) -> list[float]:
    """One for each cut; NaN where there is no run."""
    return [float(np.mean(_values(points.get((head, cut), ()), metric) or [np.nan])) for cut in cuts]


def _lines(points: Points, metric: str, heads: Sequence[str], cuts: Sequence[str]) -> Lines:
    series = []
    for head in heads:
        means = _means(points, metric, head, cuts)
        series.append(Series.of(f"{head}{_best(means, cuts)}", means))
    return Lines(tuple(cuts), tuple(series), f"{title_of(metric)} on the test side")


def _best(means: Sequence[float], cuts: Sequence[str]) -> str:
    if np.isnan(means).all():
        return ""
    best = int(np.nanargmax(means))
    return f", best {means[best]:.3f} after {cuts[best]}"


def _sentence(points: Points, metric: str, heads: Sequence[str], cuts: Sequence[str]) -> str:
    told, tops = [], []
    for head in heads:
        means = _means(points, metric, head, cuts)
        if np.isnan(means).all():
            return f"{title_of(metric)} does not exist on this test side."
        best = int(np.nanargmax(means))
        tops.append(means[best])
        told.append(f"{means[best]:.3f}{_interval(points[head, cuts[best]], metric)} with {head} after {cuts[best]}")
    return f"{title_of(metric)} at its best: {', '.join(told)}; {max(tops) - min(tops):.3f} apart."


def _interval(runs: Sequence[Subject], metric: str) -> str:
    """Of one run its own, of several from the least to the most."""
    values = _values(runs, metric)
    own = runs[0].run.metrics()["test"].get(f"{metric}_interval")
    if len(runs) > 1:
        return f" (mean of {len(runs)} runs, {min(values):.3f} to {max(values):.3f})"
    return "" if own is None else f" ({own[0]:.3f} to {own[1]:.3f})"


ANALYSES.register("heads", of_all_runs(look, SEVERAL, ANSWERS, HEADS, SAME_SIDE))
