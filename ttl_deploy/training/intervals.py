"""Intervals of 95 % for AUROC and AUPRC that cover the truth with few patients, or with no error seen.

Two things make an interval too short: few patients, whose standard error is itself uncertain, and a score near its
limit, where a symmetric interval leaves the range or shrinks to nothing. So the interval is one of Student's t on the
logit scale, and its end toward chance reaches at least to where the score would be if patients of a kind that these
few do not show were ranked by chance. NumPy and SciPy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class ScoreEstimate:
    """A score between 0 and 1, and how sure it is.

    Attributes:
        value: The score.
        error: Its standard error.
        freedom: Degrees of freedom of the standard error.
        doubt: How much nearer to chance the truth may be by patients unlike any that were seen; see `unseen`. Below 0
            where the value is worse than chance.
    """

    value: float
    error: float
    freedom: float
    doubt: float

    @property
    def interval(self) -> Interval:
        """The 95 % interval; it has a width wherever the value is not that of chance."""
        low, high = _logit_interval(self.value, self.error, self.freedom)
        return min(low, self.value - self.doubt), max(high, self.value - self.doubt)


def estimate(value: float, error: float, *, chance: float, patients: int) -> ScoreEstimate:
    """The estimate of one class against the rest.

    Args:
        value: AUROC or AUPRC.
        error: Its standard error, by patient.
        chance: What ranking by chance gives: 0.5 for AUROC, the share of positives for AUPRC.
        patients: How many there are on the rarer side, at least 2.
    """
    return ScoreEstimate(value, error, patients - 1, (value - chance) * unseen(patients))


def mean(parts: Sequence[ScoreEstimate], error: float) -> ScoreEstimate:
    """The estimate of a mean over classes.

    The degrees of freedom are Welch and Satterthwaite's: those of the classes that make the error.

    Args:
        parts: Each class against the rest.
        error: Standard error of the mean; not from `parts`, because the classes share their images.
    """
    variances = np.array([part.error**2 for part in parts])
    weights = np.array([part.freedom for part in parts])
    total = (variances**2 / weights).sum()
    freedom = float(variances.sum() ** 2 / total) if total > 0 else float(weights.min())
    doubts = np.array([part.doubt for part in parts])
    doubt = float(np.sign(doubts.sum()) * np.sqrt((doubts**2).sum()) / len(parts))
    return ScoreEstimate(float(np.mean([part.value for part in parts])), error, freedom, doubt)


def unseen(patients: int) -> float:
    """The largest share that patients of some kind may have of which a sample holds none.

    At 97.5 % confidence, the one-sided half of 95 % (Clopper and Pearson 1934, no event in n): 1 - 0.025^(1/n), 0.37 of
    8 patients and 0.036 of 100.
    """
    return float(1 - ((1 - CONFIDENCE) / 2) ** (1 / patients))


def least_error_of(successes: int) -> float:
    """Standard deviation of a proportion of which only successes were seen: Beta(n + 1/2, 1/2), Jeffreys' posterior."""
    a, b = successes + 0.5, 0.5
    return float(np.sqrt(a * b / ((a + b) ** 2 * (a + b + 1))))


def of_mean_share(hits: Sequence[NDArray[np.bool_]], patients: Sequence[NDArray[np.int64]]) -> Interval | None:
    """The interval of a mean of fractions, as balanced accuracy is of the classes' recalls.

    Errors are by patient: one with images of several classes is one patient. A fraction of which all images are hits,
    or none, has the error that such a fraction deserves; patients unlike any seen may be all hits or none.

    Args:
        hits: Of each fraction (n,).
        patients: Of each fraction (n,) numbers, which mean the same in all of them.

    Returns:
        None without a fraction, or where one is of fewer than two patients.
    """
    known = [len(np.unique(owners)) for owners in patients]
    if not known or min(known) < 2:
        return None
    residues = np.zeros((len(hits), max(int(owners.max()) for owners in patients) + 1))
    parts, unknown = [], 0.0
    for row, right, owners, count in zip(residues, hits, patients, known, strict=True):
        value, error = float(right.mean()), 0.0
        if value in (0.0, 1.0):
            error = least_error_of(count)
            unknown += error**2
        else:
            shares = np.bincount(owners, weights=right - value, minlength=len(row)) / len(right)
            row[:] = shares * np.sqrt(count / (count - 1))
            error = float(np.sqrt((row**2).sum()))
        parts.append(estimate(value, error, chance=float(value < 0.5), patients=count))
    error = float(np.sqrt((residues.sum(axis=0) ** 2).sum() + unknown)) / len(parts)
    return mean(parts, error).interval


def _logit_interval(value: float, error: float, freedom: float) -> Interval:
    from scipy.special import expit, logit, stdtrit

    if not 0 < value < 1:
        return value, value
    half = stdtrit(freedom, (1 + CONFIDENCE) / 2) * error / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))
