"""Linear centred kernel alignment (Kornblith 2019) with the unbiased HSIC (Song 2012), over batches (Nguyen 2020).

Only Gram matrices of a batch are kept, so that the features of a whole network never are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

BATCH = 64
"""Images of a batch (Matsoukas 2022)."""

_ROUNDING = 1e-12
"""Of the largest inner product: what is smaller is none, so that features that do not vary have no CKA."""

LEAST = 4
"""Images below which the unbiased estimate does not exist."""


def u_centred(gram: NDArray[np.floating]) -> Matrix:
    """A Gram matrix (n, n) with a zero diagonal and rows and columns that add up to zero (Szekely 2014).

    The inner product of two, over n (n - 3), is the unbiased HSIC of Song 2012, equation 4.

    Raises:
        ValueError: It has fewer than `LEAST` images.
    """
    count = len(gram)
    if count < LEAST:
        raise ValueError(f"{count} images are too few for an unbiased estimate")
    plain = np.array(gram, dtype=np.float64)
    np.fill_diagonal(plain, 0.0)
    means = plain.sum(axis=1) / (count - 2)
    centred = plain - means[:, None] - means[None, :] + means.sum() / (count - 1)
    np.fill_diagonal(centred, 0.0)
    centred[np.abs(centred) < _ROUNDING * np.abs(plain).max()] = 0.0
    return np.asarray(centred)


class Alignment:
    """CKA of all pairs of two lists of layers, gathered batch by batch."""

    def __init__(self) -> None:
        self._ratios: list[Matrix] = []
        self._cross: list[Matrix] = []
        self._first: list[Matrix] = []
        self._second: list[Matrix] = []

    def add(self, first: Sequence[NDArray[np.floating]], second: Sequence[NDArray[np.floating]]) -> None:
        """Takes a batch in.

        Args:
            first: Gram matrices (n, n) of the layers of one network.
            second: Of another's, or the same one's, on the same images.
        """
        one, other = _stacked(first), _stacked(second)
        count = len(first[0])
        scale = count * (count - 3)
        cross = one @ other.T / scale
        own, others = (one**2).sum(axis=1) / scale, (other**2).sum(axis=1) / scale
        self._cross.append(cross)
        self._first.append(own)
        self._second.append(others)
        self._ratios.append(_ratio(cross, own, others))

    @property
    def batches(self) -> int:
        """How many were taken in."""
        return len(self._ratios)

    @property
    def mean_of_ratios(self) -> Matrix:
        """(layers, layers) the mean of the batches' own CKA, as Matsoukas 2022 computes it."""
        return np.asarray(np.mean(self._ratios, axis=0))

    @property
    def ratio_of_means(self) -> Matrix:
        """(layers, layers) of HSIC averaged over the batches first, as Nguyen 2020 defines it."""
        cross, own, others = (np.mean(parts, axis=0) for parts in (self._cross, self._first, self._second))
        return _ratio(cross, own, others)


def _stacked(grams: Sequence[NDArray[np.floating]]) -> Matrix:
    return np.stack([u_centred(gram).ravel() for gram in grams])


def _ratio(cross: Matrix, first: Matrix, second: Matrix) -> Matrix:
    """NaN where a layer's features do not vary."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(cross / np.sqrt(np.outer(first, second)))
