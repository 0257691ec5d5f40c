"""Where feature reuse ends: the cut above which finetuning changed features as much as chance would (appendix C.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.5
"""Overlap from which two distributions of coefficients count as substantially overlapped."""


@dataclass(frozen=True)
class Reuse:
    """The comparison at one cut.

    Attributes:
        cut: Its name.
        coefficients: SVCCA coefficients between the features before and after finetuning, largest first.
        random: The same between random features of the same shape.
    """

    cut: str
    coefficients: tuple[float, ...]
    random: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean coefficient, the usual summary (Raghu 2017)."""
        return float(np.mean(self.coefficients))

    @property
    def random_mean(self) -> float:
        """Mean coefficient of the random features."""
        return float(np.mean(self.random))

    @property
    def overlap(self) -> float:
        """See the function of this name."""
        return overlap(np.asarray(self.coefficients), np.asarray(self.random))


def overlap(coefficients: NDArray[np.float64], random: NDArray[np.float64]) -> float:
    """How far coefficients overlap with random ones: 1 - sup_t (G(t) - F(t)).

    F and G are the empirical distribution functions of the coefficients and of the random ones: one minus the
    one-sided Kolmogorov-Smirnov distance, without bins or bandwidth. 0 where every coefficient lies above all random
    ones, 1 where they are distributed alike, and also where they lie below: with few samples and many channels random
    features correlate strongly, and coefficients that do not exceed that are no sign of reuse.
    """
    places = np.concatenate([coefficients, random])
    f = np.searchsorted(np.sort(coefficients), places, side="right") / len(coefficients)
    g = np.searchsorted(np.sort(random), places, side="right") / len(random)
    return float(1 - max(0.0, (g - f).max()))


def detect_cut(reuses: Sequence[Reuse], threshold: float = THRESHOLD) -> str:
    """The truncation point of appendix C.1, step 4.

    With O_k = `overlap` of the coefficients before and after finetuning and the random ones at cut k = 1..K, bottom
    first, the cut is k* = max{k : O_k < threshold}: the highest cut whose features are still told from random ones.
    From k* + 1 onward reuse has ended. Where no cut is below the threshold, k* = 1.

    Args:
        reuses: Bottom first.
        threshold: 0 to 1. Higher keeps more layers.
    """
    reused = [reuse.cut for reuse in reuses if reuse.overlap < threshold]
    return reused[-1] if reused else reuses[0].cut
