"""What a trial's validation predictions are worth, how sure that is, and which candidate wins.

The test side is never looked at here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.training.metrics import auprc, auroc, resampled

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
    """

    value: float
    error: float
    resamples: tuple[float, ...] = ()


def metric_of(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], groups: Sequence[str], metric: str
) -> tuple[float, tuple[float, ...]]:
    """The metric, and its values on `RESAMPLES` resamples of whole patients (the same for every model)."""
    value = {"auprc": auprc, "auroc": auroc}[metric](labels, probabilities)
    values = resampled(labels, probabilities, metric, groups=groups, bootstrap=RESAMPLES)
    return value, tuple(values.tolist())


def combine(values: Sequence[float], resamples: Sequence[Sequence[float]]) -> Score:
    """The score of a candidate from its repeats.

    With m the mean over R repeats, the error is sqrt(var_boot(m) + s^2 / R): the bootstrap variance of m over
    patients (every repeat measured on the same resamples), and for R > 1 the variance s^2 between repeats by R.

    Args:
        values: One per repeat.
        resamples: One sequence per repeat; empty where the data cannot be resampled.
    """
    mean = float(np.mean(values))
    drawn = np.asarray(resamples, dtype=np.float64)
    of_patients = float(np.var(drawn.mean(axis=0), ddof=1)) if drawn.shape[1] > 1 else 0.0
    of_repeats = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0
    return Score(mean, float(np.sqrt(of_patients + of_repeats)), tuple(drawn.mean(axis=0).tolist()))


def refuted(other: Score, best: Score, errors: float) -> bool:
    """Whether a score is worse than another by more than so many standard errors of their difference.

    Both were measured on the same patients, so the difference is surer than either: its standard error is the
    standard deviation of the difference over the resamples they share, or 0 where there are none.
    """
    paired = np.subtract(best.resamples, other.resamples)
    spread = float(np.std(paired, ddof=1)) if len(paired) > 1 else 0.0
    return best.value - other.value > errors * spread


def choose(
    scores: Mapping[Key, Score], sizes: Mapping[Key, tuple[int, ...]], prefer: Literal["smaller", "accuracy"]
) -> Key:
    """The winner: the smallest within one standard error of the best (Breiman 1984), or the best itself.

    The error is that of the best. Equal values: the smaller one.
    """
    best = max(scores, key=lambda key: (scores[key].value, [-size for size in sizes[key]]))
    if prefer == "accuracy":
        return best
    least = scores[best].value - scores[best].error
    return min((key for key in scores if scores[key].value >= least), key=lambda key: sizes[key])
