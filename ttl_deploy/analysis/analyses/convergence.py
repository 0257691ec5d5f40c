"""How soon a run was good enough: epochs and steps to thresholds of the validation metric (Raghu 2019, Fig. 6, 7)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ttl_deploy.analysis.analyses import ANALYSES, HISTORY, of_all_runs
from ttl_deploy.analysis.finding import Curves, Finding, Series, Table
from ttl_deploy.analysis.scoring import title_of
from ttl_deploy.analysis.subject import Subject

AUROC = "auroc"
ENOUGH = 0.91
"""AUROC that Raghu 2019 counts steps to."""
SHARE = 0.95
"""Of the best value of a run, and of all runs."""


def first_reached(values: Sequence[float | None], threshold: float) -> int | None:
    """The first epoch, from 1, of which the value is at least a threshold; None where none is."""
    return next((epoch for epoch, v in enumerate(values, 1) if v is not None and v >= threshold), None)


def monitored(subject: Subject) -> str:
    """The validation metric that the run's schedule goes by; where that is the loss, what chose its best epoch."""
    task, named = subject.run.task, subject.run.config.schedule.monitor
    return named if named in task.METRICS else task.SELECTS


def steps_of(subject: Subject) -> int | None:
    """Steps of an epoch: images over the batch; None of studies in windows, whose inputs nobody wrote down."""
    if subject.run.config.preprocess.windows is not None:
        return None
    images, batch = int(subject.run.metrics()["images"]["train"]), subject.run.config.batch_size
    # A last batch of one image is dropped; see `training_loader`.
    return math.ceil(images / batch) - (images % batch == 1 and images > 1)


def look(subjects: Sequence[Subject]) -> Finding:
    """The speed-up is of epochs, against the first run; a rate that falls over the epochs decides part of it."""
    metrics = {subject.name: monitored(subject) for subject in subjects}
    columns = ("run", "metric", "threshold", "value", "epochs", "steps", "epochs_trained", "speed_up")
    rows: list[tuple[object, ...]] = []
    for name, metric, thresholds in _asked(subjects, metrics):
        reached = [first_reached(_values(subject, metric), thresholds[subject.name]) for subject in subjects]
        for subject, epochs in zip(subjects, reached, strict=True):
            steps, base = steps_of(subject), reached[0]
            done = None if epochs is None or steps is None else epochs * steps
            faster = None if epochs is None or base is None else base / epochs
            count = len(subject.run.history())
            rows.append((subject.name, metric, name, thresholds[subject.name], epochs, done, count, faster))
    return Finding(
        _sentence(rows, subjects),
        {"": Table.of(columns, rows)},
        {"": _curves(subjects, metrics)},
        titles={"": "How soon training was good enough"},
    )


def _asked(subjects: Sequence[Subject], metrics: Mapping[str, str]) -> list[tuple[str, str, dict[str, float]]]:
    """(words, metric, threshold by run); a metric that the runs do not share gives no threshold."""
    found, names = [], [subject.name for subject in subjects]
    if all(any(value is not None for value in _values(subject, AUROC)) for subject in subjects):
        found.append((f"{ENOUGH:.0%} AUROC", AUROC, dict.fromkeys(names, ENOUGH)))
    if len(set(metrics.values())) == 1:
        metric = metrics[names[0]]
        bests = {subject.name: _best(subject, metric) for subject in subjects}
        found.append((f"{SHARE:.0%} of its best", metric, {name: SHARE * best for name, best in bests.items()}))
        if len(subjects) > 1:
            found.append((f"{SHARE:.0%} of the best of all", metric, dict.fromkeys(names, SHARE * max(bests.values()))))
    return found


def _values(subject: Subject, metric: str) -> list[float | None]:
    return [row.get(f"val_{metric}") for row in subject.run.history()]


def _best(subject: Subject, metric: str) -> float:
    return max((value for value in _values(subject, metric) if value is not None), default=float("nan"))


def _curves(subjects: Sequence[Subject], metrics: Mapping[str, str]) -> Curves:
    series = []
    for subject in subjects:
        values = _values(subject, metrics[subject.name])
        series.append((Series.of(subject.name, values), tuple(float(k) for k in range(1, len(values) + 1))))
    found = list(dict.fromkeys(metrics.values()))
    levels = {f"{ENOUGH:.0%}": ENOUGH} if found == [AUROC] else {}
    return Curves(tuple(series), "epoch", f"{' or '.join(map(title_of, found))} on the validation side", levels)


def _sentence(rows: Sequence[tuple[object, ...]], subjects: Sequence[Subject]) -> str:
    told = [f"{run} {_when(epochs)} {name}" for run, _m, name, _v, epochs, *_rest in rows]
    rates = [{row["learning_rate"] for row in subject.run.history()} for subject in subjects]
    falling = " The learning rate was not constant, which decides part of it." if any(len(r) > 1 for r in rates) else ""
    # Not the run's name first: a sentence begins with a capital, and a name stays as it is.
    said = f"How soon: {'; '.join(told)}" if told else "The runs share no metric"
    return f"{said}.{falling}"


def _when(epochs: object) -> str:
    return "never reached" if epochs is None else f"took {epochs} epoch{'s' * (epochs != 1)} to"


ANALYSES.register("convergence", of_all_runs(look, HISTORY))
