"""The variance of a difference of two AUROCs on the same images, after DeLong, DeLong and Clarke-Pearson (1988).

Several classes are one mean, whose variance comes from the same shares (`ttl_deploy.training.delong`). No torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.training.delong import shares

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def error_of_difference(
    labels: Labels, reference: Floats, candidate: Floats, chosen: list[int], clusters: Labels
) -> float | None:
    """Standard error of the difference of two headline AUROCs on the same images.

    Args:
        labels: (N,).
        reference: (N, K) scores.
        candidate: (N, K) scores.
        chosen: The classes, each against the rest, whose mean is the headline.
        clusters: (N,), the number of each image's patient.

    Returns:
        The standard error; None where a class has fewer than two patients with it or without it.
    """
    total = np.zeros(len(labels))
    for k in chosen:
        sides = [shares(labels == k, scores[:, k], clusters) for scores in (reference, candidate)]
        if sides[0] is None or sides[1] is None:
            return None
        total += (sides[1] - sides[0]) / len(chosen)
    return float(np.sqrt((np.bincount(clusters, weights=total) ** 2).sum()))
