"""The variance of a difference of two AUROCs on the same images, after DeLong, DeLong and Clarke-Pearson (1988).

Several classes are one mean, whose variance comes from the same shares (`ttl_deploy.training.delong`). No torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.tasks.task import Truth
from ttl_deploy.training.delong import shares_of

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def error_of_difference(
    truth: Truth, reference: Floats, candidate: Floats, chosen: list[int], clusters: Labels
) -> float | None:
    """Standard error of the difference of two headline AUROCs on the same images.

    Args:
        truth: (N, M); see `Task.truth`.
        reference: (N, M) scores.
        candidate: (N, M) scores.
        chosen: The columns whose mean is the headline.
        clusters: (N,), the number of each image's patient.

    Returns:
        The standard error; None where a class has fewer than two patients with it or without it.
    """
    total = np.zeros(len(truth))
    for k in chosen:
        sides = [shares_of(truth[:, k], scores[:, k], clusters) for scores in (reference, candidate)]
        if sides[0] is None or sides[1] is None:
            return None
        total += (sides[1] - sides[0]) / len(chosen)
    return float(np.sqrt((np.bincount(clusters, weights=total) ** 2).sum()))
