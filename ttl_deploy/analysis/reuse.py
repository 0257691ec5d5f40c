"""Where feature reuse ends: the cut above which finetuning changed features as much as chance would (appendix C.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.analysis.svcca import components, random_coefficients, svcca
from ttl_deploy.spec.strategies import REUSE_ENDS

ROWS_PER_COMPONENT = 3
"""Images needed for each principal component kept; with fewer, canonical correlations are high whatever was reused."""


@dataclass(frozen=True)
class Reuse:
    """The comparison at one cut.

    Two baselines: the paper's figures draw coefficients between Gaussian features, but two networks that read the same
    images correlate far above those although they share nothing. What is decided is therefore decided against two
    randomly initialised networks on the same images, the baseline of Juodelyte 2023 ("Revisiting Hidden
    Representations in Transfer Learning for Medical Imaging", section 5.2).

    Attributes:
        cut: Its name.
        coefficients: SVCCA coefficients between the features before and after finetuning, largest first.
        unrelated: The same between two randomly initialised networks on the same places of the same images.
        gaussian: The same between standard normal features of the same shape.
        rows: Samples, one place of each image, so that they are independent.
        components: Principal components kept, the most of any side.
    """

    cut: str
    coefficients: tuple[float, ...]
    unrelated: tuple[float, ...]
    gaussian: tuple[float, ...]
    rows: int
    components: int

    @property
    def mean(self) -> float:
        """Mean coefficient, the usual summary (Raghu 2017)."""
        return float(np.mean(self.coefficients))

    @property
    def unrelated_mean(self) -> float:
        """Mean coefficient of the two random networks."""
        return float(np.mean(self.unrelated))

    @property
    def gaussian_mean(self) -> float:
        """Mean coefficient of the Gaussian features."""
        return float(np.mean(self.gaussian))

    @property
    def overlap(self) -> float:
        """With the two random networks; see the function of this name."""
        return overlap(np.asarray(self.coefficients), np.asarray(self.unrelated))

    @property
    def tells(self) -> bool:
        """Whether there are images enough to tell reuse from none."""
        return self.rows >= ROWS_PER_COMPONENT * self.components


def reuse_of(cut: str, features: Sequence[NDArray[np.float32]], seed: int) -> Reuse:
    """The comparison at a cut.

    Args:
        cut: Its name.
        features: (images, channels) before and after training, and of two unrelated networks; see `sampled_features`.
        seed: Of the Gaussian features.
    """
    before, after, one, another = features
    return Reuse(
        cut=cut,
        coefficients=tuple(svcca(before, after).tolist()),
        unrelated=tuple(svcca(one, another).tolist()),
        gaussian=tuple(random_coefficients(len(before), (before.shape[1], after.shape[1]), seed=seed).tolist()),
        rows=len(before),
        components=max(components(each) for each in features),
    )


def overlap(coefficients: NDArray[np.float64], random: NDArray[np.float64]) -> float:
    """How far coefficients overlap with random ones: 1 - sup_t (G(t) - F(t)).

    F and G are the empirical distribution functions of the coefficients and of the random ones: one minus the
    one-sided Kolmogorov-Smirnov distance, without bins or bandwidth. 0 where every coefficient lies above all random
    ones, 1 where they are distributed alike, and also where they lie below: coefficients that do not exceed those of
    chance are no sign of reuse.
    """
    places = np.concatenate([coefficients, random])
    f = np.searchsorted(np.sort(coefficients), places, side="right") / len(coefficients)
    g = np.searchsorted(np.sort(random), places, side="right") / len(random)
    return float(1 - max(0.0, (g - f).max()))


def detect_cut(reuses: Sequence[Reuse], threshold: float = REUSE_ENDS) -> str | None:
    """The truncation point of appendix C.1, step 4.

    With O_k = `overlap` of the coefficients before and after finetuning and those of two unrelated networks at cut
    k = 1..K, bottom first, the cut is the last of the first run of cuts with O_k < threshold: from the next one onward
    reuse has ended, and a cut further up that exceeds chance again does not bring it back. Where no cut is below the
    threshold, it is the first.

    Args:
        reuses: Bottom first.
        threshold: 0 to 1. Higher keeps more layers.

    Returns:
        The cut, or None where too few images leave it open.
    """
    last = None
    for reuse in reuses:
        if not reuse.tells:
            return None
        if reuse.overlap < threshold:
            last = reuse.cut
        elif last is not None:
            break
    return reuses[0].cut if last is None else last
