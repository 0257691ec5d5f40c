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


def _logit_interval(value: float, error: float, freedom: float) -> Interval:
    from scipy.special import expit, logit, stdtrit

    if not 0 < value < 1:
        return value, value
    half = stdtrit(freedom, (1 + CONFIDENCE) / 2) * error / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))
