"""AUROC, average precision and sensitivities of many resamples of the same images, sorted once. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.tasks.task import Labels
from ttl_deploy.training.resampling import Floats, Times, counting

Mask = NDArray[np.bool_]


def most_false(specificity: float) -> float:
    """The share of the negatives that a threshold may call positive; a point exactly on the bound belongs inside.

    1 - 0.9 is not 0.1 in binary.
    """
    return 1 - specificity + 1e-12


class Ranked:
    """The images of one class and the rest, sorted once, so that a resample costs one sparse product.

    Both areas are sums over the scores that a positive image has: what lies between two of them is counted together.
    Images of the same score stand or fall together. All counts are integers, so an area is off by no more than the
    rounding of its last divisions and of their sum.

    Args:
        positive: (N,).
        scores: (N,).
        clusters: (N,), the number of each image's patient.
        known: (N,) of which images that is known; None: of all. The others count nowhere.
    """

    def __init__(self, positive: Mask, scores: Floats, clusters: Labels, known: Mask | None = None) -> None:
        order = np.argsort(-scores, kind="stable")
        order = order if known is None else order[known[order]]
        yes, ranked = positive[order], scores[order]
        run = np.cumsum(np.append(False, ranked[1:] != ranked[:-1]))
        holds = np.bincount(run, weights=yes) > 0
        # The score of a positive at which, or above which, an image comes in; after the last there is one more.
        step: Labels = (np.cumsum(holds) - holds)[run]
        self._steps = int(holds.sum()) + 1
        kind = np.where(yes, 0, np.where(holds[run], 1, 2))
        patients = int(clusters.max()) + 1
        self._sums = counting(kind * self._steps + step, clusters[order], (3 * self._steps, patients))

    def areas(self, times: Times) -> tuple[Floats, Floats]:
        """AUROC and average precision of resamples.

        Args:
            times: How often each patient was drawn; both sides drawn at least once.

        Returns:
            (B,) and (B,).
        """
        return self.counted(times).areas()

    def counted(self, times: Times) -> Counted:
        """What all measures of resamples are made of; `times` as in `areas`."""
        gained, tied, above = (self._sums @ times).reshape(3, self._steps, -1)
        true = np.cumsum(gained, axis=0, dtype=np.int32)
        return Counted(gained, tied, true, np.cumsum(above + tied, axis=0, dtype=np.int32))


@dataclass(frozen=True)
class Counted:
    """Images of B resamples by the positives' scores, the highest first; after the lowest there is one more step.

    Attributes:
        gained: (G, B) positives of each score.
        tied: (G, B) negatives of the same score.
        true: (G, B) positives from that score on.
        false: (G, B) negatives from that score on.
    """

    gained: Times
    tied: Times
    true: Times
    false: Times

    def areas(self) -> tuple[Floats, Floats]:
        """AUROC and average precision, each (B,)."""
        positives, negatives = self.true[-1].astype(np.float64), self.false[-1].astype(np.float64)
        precision = self.true / np.maximum(self.true + self.false, 1)
        below = (self.false[-1] - self.false) + self.tied / 2
        area = np.einsum("gb,gb->b", self.gained, below) / (positives * negatives)
        return area, np.einsum("gb,gb->b", self.gained, precision) / positives

    def sensitivities(self, specificity: float) -> Floats:
        """(B,) the highest sensitivity of a threshold with at least the specificity, 0 to 1."""
        inside = (self.false <= most_false(specificity) * self.false[-1]).sum(axis=0)
        true = np.concatenate([np.zeros_like(self.true[:1]), self.true])
        return np.asarray(true[inside, np.arange(true.shape[1])] / self.true[-1])
