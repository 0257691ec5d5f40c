"""Several models beside each other: one table, and accuracy over cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev

from ttl_deploy.pages import figures
from ttl_deploy.pages.answer import best_export, fastest, headline
from ttl_deploy.pages.charts import Point, frontier
from ttl_deploy.pages.document import Figure, Section, Table
from ttl_deploy.pages.subject import Subject
from ttl_deploy.pages.words import NOTHING, between, megabytes, metric_of, millions, number, title_of

_DEPLOYED = ("file", "export", "latency (ms)")


def shared_metric(subjects: Sequence[Subject]) -> str | None:
    """The headline metric that most of the models have; None where none has any."""
    found = [name for name in map(headline, subjects) if name is not None]
    return max(dict.fromkeys(found), key=found.count, default=None)


def comparison(subjects: Sequence[Subject]) -> Section:
    """The models in their order, as a table that can be sorted and as pictures."""
    metric = shared_metric(subjects)
    columns = ("model", "network", *map(title_of, _names(subjects)), "params (M)", "MACs (M)", *_DEPLOYED)
    rows = tuple(_row(place, subject, subjects) for place, subject in enumerate(subjects, 1))
    table = Table(columns, rows, "On the test side of each, with intervals of 95 %", (0, 1), sortable=True)
    drawn = tuple(_pictures(subjects, metric)) if metric is not None else ()
    tables = (table, *_together(subjects))
    return Section("The models beside each other", tuple(_notes(subjects)), tables, drawn)


def _together(subjects: Sequence[Subject]) -> Iterator[Table]:
    """Of runs that differ by their seed or their fold alone, means and standard deviations (n - 1)."""
    groups: dict[str, dict[int, Subject]] = {}
    for place, subject in enumerate(subjects, 1):
        if subject.evidence is not None:
            config = subject.evidence.run.config
            alike = config.model_dump_json(exclude={"seed": True, "split": {"seed", "fold"}})
            groups.setdefault(alike, {})[place] = subject
    metrics = _names(subjects)
    rows = tuple(_mean_row(group, metrics) for group in groups.values() if len(group) > 1)
    if rows:
        columns = ("runs", "network", *map(title_of, metrics))
        yield Table(columns, rows, "Runs that differ by seed or fold alone: mean and standard deviation", (0, 1))


def _mean_row(group: Mapping[int, Subject], metrics: Sequence[str]) -> tuple[str, ...]:
    runs = list(group.values())
    names = ", ".join(f"{place}. {one.name}" for place, one in group.items())
    return (names, runs[0].words, *(_mean(runs, metric) for metric in metrics))


def _mean(group: Sequence[Subject], metric: str) -> str:
    values = [float(one.test[metric]) for one in group if one.test.get(metric) is not None]
    return f"{number(mean(values))} ± {number(stdev(values))}" if len(values) == len(group) else NOTHING


def lead(subjects: Sequence[Subject]) -> str:
    """Which is the most accurate, and which is the smallest whose interval reaches as far."""
    metric = shared_metric(subjects)
    known = [subject for subject in subjects if metric is not None and subject.test.get(metric) is not None]
    if metric is None or not known:
        return f"{len(subjects)} models, of which none has its run beside it: their files are told, and their checks."
    best = max(known, key=lambda subject: float(subject.test[metric]))
    interval = best.test.get(f"{metric}_interval")
    sure = f" (95 % interval {between(interval)})" if interval else ""
    words = (
        f"Of {len(subjects)} models {best.name} ({best.words}) has the highest {title_of(metric)}, "
        f"{number(best.test[metric])}{sure}, with {millions(best.parameters)} million parameters."
    )
    small = _smallest_inside(known, metric, interval)
    if small is None or small.parameters >= best.parameters:
        return words
    return (
        f"{words} The smallest inside that interval is {small.name} ({small.words}) with "
        f"{number(small.test[metric])} and {millions(small.parameters)} million parameters; that the two are equal "
        "is not shown by that."
    )


def _smallest_inside(known: Sequence[Subject], metric: str, interval: Sequence[float] | None) -> Subject | None:
    """The smallest model that is not below the interval of the best."""
    inside = [subject for subject in known if interval is not None and subject.test[metric] >= interval[0]]
    return min(inside, key=lambda subject: subject.parameters, default=None)


def _names(subjects: Sequence[Subject]) -> list[str]:
    """The headline metrics of any of the tasks, and accuracy."""
    named = dict.fromkeys(name for subject in subjects for name in (*subject.task.METRICS, "accuracy"))
    return [name for name in named if any(subject.test.get(name) is not None for subject in subjects)]


def _row(place: int, subject: Subject, subjects: Sequence[Subject]) -> tuple[str, ...]:
    export, speed = best_export(subject), fastest(subject)
    return (
        f"{place}. {subject.name}",
        subject.words,
        *(metric_of(subject.test, name) for name in _names(subjects)),
        millions(subject.parameters),
        millions(subject.macs),
        NOTHING if export is None else megabytes(export.size),
        NOTHING if export is None else export.verdict,
        NOTHING if speed is None else number(speed.measurement.typical_ms, 2),
    )


def _notes(subjects: Sequence[Subject]) -> Iterator[str]:
    tests = {subject.evidence.test.ids for subject in subjects if subject.evidence is not None}
    if len(tests) > 1:
        yield "Caution: the models were not all tested on the same images, so their numbers differ by that too."
    if len({subject.spec.classes for subject in subjects}) > 1:
        yield "Caution: the models do not say the same classes."


def _pictures(subjects: Sequence[Subject], metric: str) -> Iterator[Figure]:
    known = [subject for subject in subjects if subject.test.get(metric) is not None]
    if len(known) < 2:
        return
    intervals = [subject.test.get(f"{metric}_interval") for subject in known]
    for name, unit, costs in (
        ("parameters", "parameters, millions", [subject.parameters / 1e6 for subject in known]),
        ("macs", "multiply-adds of an image, millions", [subject.macs / 1e6 for subject in known]),
    ):
        points = [
            Point(f"{place}. {subject.name}", cost, float(subject.test[metric]), 0.0, True, False)
            for place, (subject, cost) in enumerate(zip(known, costs, strict=True), 1)
        ]
        best = ", ".join(point.name for point in frontier(points)[:6])
        says = f"Numbers are the table's. No other model is as small and as good as: {best}."
        title = f"{title_of(metric)} over {'parameters' if name == 'parameters' else 'multiply-adds'}"
        yield figures.pareto_figure(f"pareto-{name}", title, says, points, intervals, unit, title_of(metric))
