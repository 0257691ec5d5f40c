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
        """See `overlap`."""
        return overlap(np.asarray(self.coefficients), np.asarray(self.random))


def overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """How far two samples overlap: 1 - sup_t |F(t) - G(t)|, F and G their empirical distribution functions.

    1 for equal distributions, 0 where all of one lies above all of the other; no bins, no bandwidth. (One minus the
    Kolmogorov-Smirnov distance.)
    """
    places = np.concatenate([first, second])
    f = np.searchsorted(np.sort(first), places, side="right") / len(first)
    g = np.searchsorted(np.sort(second), places, side="right") / len(second)
    return float(1 - np.abs(f - g).max())


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
