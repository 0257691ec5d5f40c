"""Singular-vector canonical correlation (Raghu 2017; paper, section 3.3): how much two sets of features agree.

All in float64, by QR and SVD only: no covariance is ever formed, so that nothing is squared that is already small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

VARIANCE = 0.99
"""Fraction of the variance that the SVD keeps (Raghu 2017, section 2)."""

_RANK_TOLERANCE = 1e-10
"""Directions with less than this fraction of the largest singular value are rounding, not features."""


def cca(x: NDArray[np.floating], y: NDArray[np.floating]) -> Matrix:
    """Canonical correlation coefficients, largest first: the singular values of the whitened cross-covariance.

    With centred X = U_x S_x V_x' and Y likewise, Sxx^(-1/2) Sxy Syy^(-1/2) has the singular values of U_x' U_y.

    Args:
        x: (n, p).
        y: (n, q), of the same samples.

    Returns:
        (min(rank X, rank Y),) in 0 to 1.

    Raises:
        ValueError: The shapes do not belong together, or one side does not vary.
    """
    return _correlations(x, y, variance=1.0)


def svcca(x: NDArray[np.floating], y: NDArray[np.floating], *, variance: float = VARIANCE) -> Matrix:
    """`cca` between the principal components of each side that hold `variance` of its variance.

    Args:
        x: (n, p).
        y: (n, q), of the same samples.
        variance: Fraction to keep, above 0, at most 1.

    Returns:
        (min(components of X, components of Y),) in 0 to 1, largest first.

    Raises:
        ValueError: As `cca`.
    """
    return _correlations(x, y, variance=variance)


def components(features: NDArray[np.floating], *, variance: float = VARIANCE) -> int:
    """How many principal components `svcca` keeps of features (n, p).

    Canonical correlations are inflated where the samples are not several times as many.
    """
    return int(_components(features, variance).shape[1])


def random_coefficients(samples: int, channels: Sequence[int], *, variance: float = VARIANCE, seed: int = 0) -> Matrix:
    """`svcca` between independent standard normal features of a shape: the curve that the paper's figures 4 and 7 draw.

    No null for images: two networks that read the same pixels correlate although nothing is reused (see `Reuse`).

    Args:
        samples: n.
        channels: (p, q).
        variance: As in `svcca`.
        seed: Of the random numbers.
    """
    generator = np.random.default_rng(seed)
    x, y = (generator.standard_normal((samples, width)) for width in channels)
    return svcca(x, y, variance=variance)


def _correlations(x: NDArray[np.floating], y: NDArray[np.floating], *, variance: float) -> Matrix:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise ValueError(f"two matrices of the same samples are needed, got shapes {x.shape} and {y.shape}")
    if not 0 < variance <= 1:
        raise ValueError(f"variance is a fraction above 0 and at most 1, got {variance}")
    cross = _components(x, variance).T @ _components(y, variance)
    coefficients: Matrix = scipy.linalg.svdvals(cross)
    # Rounding may leave 1 by a few units in the last place.
    return np.minimum(coefficients, 1.0)


def _components(features: NDArray[np.floating], variance: float) -> Matrix:
    """An orthonormal basis (n, k) of the leading principal components' scores.

    QR first: the SVD is then of a small square matrix whatever the number of samples.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    q, r = scipy.linalg.qr(centred, mode="economic", overwrite_a=True, check_finite=True)
    left, singular, _right = scipy.linalg.svd(r, full_matrices=False, overwrite_a=True)
    if singular[0] <= 0:
        raise ValueError("features that do not vary have no correlation")
    kept = singular > _RANK_TOLERANCE * singular[0]
    if variance < 1:
        share = np.cumsum(singular**2) / np.sum(singular**2)
        # The first component that brings the sum to the fraction is kept too.
        kept &= np.arange(len(singular)) <= np.searchsorted(share, variance)
    basis: Matrix = q @ left[:, kept]
    return basis
