"""The Fréchet distance of two clouds of features, as of two Gaussians (Heusel 2017; Matsoukas 2022, section 2).

||m - m'||^2 + Tr(S + S' - 2 (S S')^1/2), of means and unbiased covariances. The last trace is the sum of the singular
values of A A'^T where S = A^T A and S' = A'^T A', which needs no root of a matrix that may have none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def frechet(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """The distance, at least 0.

    Args:
        first: (N, D).
        second: (M, D).

    Raises:
        ValueError: A cloud has fewer than two points, or numbers that are not finite.
    """
    (mean, root), (other_mean, other_root) = _moments(first), _moments(second)
    shared = np.linalg.svd(root @ other_root.T, compute_uv=False).sum()
    spread = (root**2).sum() + (other_root**2).sum()
    return max(0.0, float(((mean - other_mean) ** 2).sum() + spread - 2 * shared))


def _moments(points: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """The mean, and a root A (at most D, D) of the covariance A^T A."""
    if len(points) < 2:
        raise ValueError(f"a covariance needs two images, and there are {len(points)}")
    if not np.isfinite(points).all():
        raise ValueError("features that are not finite")
    exact = points.astype(np.float64)
    mean = exact.mean(axis=0)
    root = (exact - mean) / np.sqrt(len(exact) - 1)
    if len(root) > root.shape[1]:
        root = np.asarray(np.linalg.qr(root, mode="r"), dtype=np.float64)
    return mean, root


def by_chance(
    first: NDArray[np.floating], second: NDArray[np.floating], seed: int, draws: int, groups: NDArray[np.int64]
) -> list[float]:
    """The distance after the points of both were dealt out anew, as often as is drawn: what sizes alone make of it.

    Args:
        first: (N, D).
        second: (M, D).
        seed: Of the draws.
        draws: How many.
        groups: (N + M,) whom each point is of, from 0; those of one stay together, but for one group at the border.
    """
    both, generator = np.concatenate((first, second)), np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        order = np.argsort(generator.permutation(int(groups.max()) + 1)[groups], kind="stable")
        found.append(frechet(both[order[: len(first)]], both[order[len(first) :]]))
    return found
