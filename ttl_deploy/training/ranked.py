"""AUROC and average precision of many resamples of the same images, whose scores are sorted once. No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.tasks.task import Labels
from ttl_deploy.training.resampling import Floats, Times, counting

Mask = NDArray[np.bool_]


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
        gained, tied, above = (self._sums @ times).reshape(3, self._steps, -1)
        true = np.cumsum(gained, axis=0, dtype=np.int32)
        false = np.cumsum(above + tied, axis=0, dtype=np.int32)
        positives, negatives = true[-1].astype(np.float64), false[-1].astype(np.float64)
        precision = true / np.maximum(true + false, 1)
        below = (false[-1] - false) + tied / 2
        area = np.einsum("gb,gb->b", gained, below) / (positives * negatives)
        return area, np.einsum("gb,gb->b", gained, precision) / positives
