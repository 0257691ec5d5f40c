"""What a trial's validation predictions are worth, how sure that is, and which candidate wins.

The test side is never looked at here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.spec.search import Prefer
from ttl_deploy.tasks import Labels, Task
from ttl_deploy.training.metrics import MEASURES, resampled

RESAMPLES = 400
"""Bootstrap resamples behind a standard error, which is then known to about 1 in 28."""


Key = TypeVar("Key")


@dataclass(frozen=True)
class Score:
    """A candidate's metric on the validation side.

    Attributes:
        value: Mean over the repeats.
        error: Standard error of that mean, see `combine`.
        resamples: The mean over the repeats on resamples of the patients, the same ones for every candidate.
        floor: The error below which no score and no difference of two is known on so many patients.
    """

    value: float
    error: float
    resamples: tuple[float, ...] = ()
    floor: float = 0.0


def metric_of(
    labels: Labels, probabilities: NDArray[np.float64], groups: Sequence[str], task: Task, metric: str
) -> tuple[float, tuple[float, ...]]:
    """The metric, and its values on `RESAMPLES` resamples of whole patients (the same for every model)."""
    value = MEASURES[metric](labels, probabilities, task)
    values = resampled(labels, probabilities, task, metric, groups=groups, bootstrap=RESAMPLES)
    return value, tuple(values.tolist())


def combine(values: Sequence[float], resamples: Sequence[Sequence[float]], floor: float = 0.0) -> Score:
    """The score of a candidate from its repeats.

    With m the mean over R repeats, the error is sqrt(var_boot(m) + s^2 / R): the bootstrap variance of m over
    patients (every repeat measured on the same resamples), and for R > 1 the variance s^2 between repeats by R. It is
    never below the floor: repeats on the same patients make no more of them.

    Args:
        values: One per repeat.
        resamples: One sequence per repeat; empty where the data cannot be resampled.
        floor: See `Measure.floor`.
    """
    mean = float(np.mean(values))
    drawn = np.asarray(resamples, dtype=np.float64)
    of_patients = float(np.var(drawn.mean(axis=0), ddof=1)) if drawn.shape[1] > 1 else 0.0
    of_repeats = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0
    error = max(floor, float(np.sqrt(of_patients + of_repeats)))
    return Score(mean, error, tuple(drawn.mean(axis=0).tolist()), floor)


def pooled(scores: Sequence[Score]) -> Score:
    """The score of a candidate from divisions whose validation sides have no patient in common.

    With m divisions the error is that of a mean of independent values, sqrt(sum of squares) / m, or what the values
    themselves scatter, s / sqrt(m), if that is more: the training sides differ too.
    """
    count = len(scores)
    values = [score.value for score in scores]
    of_patients = float(np.sqrt(sum(score.error**2 for score in scores))) / count
    of_divisions = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    drawn = [score.resamples for score in scores]
    same = len({len(row) for row in drawn}) == 1
    resamples = tuple(np.mean(drawn, axis=0).tolist()) if same else ()
    floor = float(np.sqrt(sum(score.floor**2 for score in scores))) / count
    return Score(float(np.mean(values)), max(of_patients, of_divisions), resamples, floor)


def refuted(other: Score, best: Score, errors: float) -> bool:
    """Whether a score is worse than another by more than so many standard errors of their difference.

    Both were measured on the same patients, so the difference is surer than either: its standard error is the
    standard deviation of the difference over the resamples they share, but not less than the floor.
    """
    paired = np.subtract(best.resamples, other.resamples)
    spread = float(np.std(paired, ddof=1)) if len(paired) > 1 else 0.0
    return best.value - other.value > errors * max(spread, best.floor)


def tied(scores: Mapping[Key, Score]) -> list[Key]:
    """Those within one standard error of the best value, the best itself included; the error is that of the best."""
    best = max(scores.values(), key=lambda score: score.value)
    error = max(score.error for score in scores.values() if score.value == best.value)
    return [key for key, score in scores.items() if score.value >= best.value - error]


def choose(
    scores: Mapping[Key, Score],
    sizes: Mapping[Key, tuple[int, ...]],
    prefer: Prefer,
    distances: Mapping[Key, int] | None = None,
) -> Key:
    """The winner among those that are not told apart (`tied`), the rule of one standard error of Breiman 1984.

    Args:
        scores: Of the candidates.
        sizes: Of each; of equal ones the smaller wins.
        prefer: `smaller`: the smallest of them; `block`: the one nearest to the paper's block cutoff; `accuracy`: the
            best value, error or not.
        distances: How many cuts each lies from the block cutoff; needed for `block`.
    """
    if prefer == "accuracy":
        return max(scores, key=lambda key: (scores[key].value, [-size for size in sizes[key]]))
    far = distances if prefer == "block" and distances is not None else dict.fromkeys(scores, 0)
    return min(tied(scores), key=lambda key: (far[key], sizes[key]))
