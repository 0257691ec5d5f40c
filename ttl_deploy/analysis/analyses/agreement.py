"""How often runs say the same of the same images, and how often by chance (Juodelyte 2023, section 3.2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.analysis.analyses import ANALYSES, ANSWERS, SAME_SIDE, SEVERAL, of_all_runs
from ttl_deploy.analysis.finding import Finding, Map, Maps, Table
from ttl_deploy.analysis.subject import Subject
from ttl_deploy.tasks import UNKNOWN, Labels, task_of


def independent(first: float, second: float) -> float:
    """How often two runs of these accuracies would agree by chance, if whether one is right told nothing of the other.

    Both right or both wrong: a1 a2 + (1 - a1)(1 - a2). Of more than two classes it is too high, as two wrong answers
    may differ.
    """
    return first * second + (1 - first) * (1 - second)


def _said(subject: Subject, ids: Sequence[str]) -> tuple[Labels, Labels]:
    """Decisions and labels of the test side in an order of ids, (N, J) each."""
    own = subject.predictions
    place = {image: i for i, image in enumerate(own.ids)}
    order = [place[image] for image in ids]
    task = task_of(subject.run.config.model, subject.run.operating_point)
    decided = task.decide_by_logits(own.logits[order])
    return decided.reshape(len(ids), -1), own.labels[order].reshape(len(ids), -1)


def look(subjects: Sequence[Subject]) -> Finding:
    """The fraction of equal decisions, of every label where an image may have several; and each run's accuracy."""
    ids = subjects[0].predictions.ids
    told = [_said(subject, ids) for subject in subjects]
    accuracies = [_accuracy(*one) for one in told]
    count = len(subjects)
    equal = np.array([[float((a == b).mean()) for b, _l in told] for a, _k in told])
    chance = np.array([[independent(a, b) for b in accuracies] for a in accuracies])
    np.fill_diagonal(chance, 1.0)
    names = tuple(subject.name for subject in subjects)
    pairs = list(itertools.combinations(range(count), 2))
    rows = [(names[i], names[k], equal[i, k], chance[i, k], accuracies[i], accuracies[k]) for i, k in pairs]
    least = min(pairs, key=lambda pair: equal[pair])
    return Finding(
        f"{len(pairs)} pair{'s' * (len(pairs) > 1)} of runs on {len(ids)} test images agree on "
        f"{np.mean([equal[p] for p in pairs]):.1%} of the answers, independent ones would on "
        f"{np.mean([chance[p] for p in pairs]):.1%}; least alike are {names[least[0]]} and {names[least[1]]} "
        f"({equal[least]:.1%}).",
        {"": Table.of(("first", "second", "agreement", "independent", "accuracy_first", "accuracy_second"), rows)},
        {"": _maps(names, equal, chance)},
        {"images": len(ids)},
        {"": "How often the runs say the same"},
    )


def _accuracy(decided: Labels, labels: Labels) -> float:
    known = labels != UNKNOWN
    return float((decided == labels)[known].mean()) if known.any() else float("nan")


def _maps(names: tuple[str, ...], equal: NDArray[np.float64], chance: NDArray[np.float64]) -> Maps:
    maps = (Map("equal predictions", names, names, equal), Map("if they were independent", names, names, chance))
    return Maps(maps, written=True)


ANALYSES.register("agreement", of_all_runs(look, SEVERAL, ANSWERS, SAME_SIDE))
