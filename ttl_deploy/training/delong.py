"""How far an AUROC may be from its expectation, after DeLong, DeLong and Clarke-Pearson (1988).

Several images of one patient are one piece of evidence: their shares are added up before they are squared, as in
Obuchowski (1997). No torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.tasks.task import UNKNOWN, Truth
from ttl_deploy.training.resampling import distinct

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]


def placements(positive: Mask, scores: Floats) -> tuple[Floats, Floats]:
    """DeLong's structural components, from midranks in n log n (Sun and Xu 2014).

    Args:
        positive: (N,), both sides present.
        scores: (N,).

    Returns:
        V10, for each positive the fraction of negatives below it, and V01, for each negative the fraction of positives
        above it; a tie counts one half. The mean of either is the AUROC.
    """
    ranks = _midranks(scores)
    above, below = scores[positive], scores[~positive]
    v10 = (ranks[positive] - _midranks(above)) / len(below)
    v01 = 1 - (ranks[~positive] - _midranks(below)) / len(above)
    return v10, v01


def _midranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def shares_of(truth: Truth, scores: Floats, clusters: Labels) -> Floats | None:
    """`shares` of a column of `Task.truth`: what is not known of an image has no share.

    Args:
        truth: (N,) of 1, 0 and `UNKNOWN`.
        scores: (N,).
        clusters: (N,).
    """
    known = truth != UNKNOWN
    found = shares(truth[known] == 1, scores[known], clusters[known])
    if found is None:
        return None
    result = np.zeros(len(truth))
    result[known] = found
    return result


def shares(positive: Mask, scores: Floats, clusters: Labels) -> Floats | None:
    """Each image's share in the deviation of the AUROC from its expectation.

    The sum over clusters of the squared sum of shares is the variance of the AUROC: with one image per cluster
    S10/m + S01/n, DeLong's formula; with more, Obuchowski's, the covariance of a cluster's own positives and negatives
    taking the geometric mean of the two small-sample corrections.

    Args:
        positive: (N,).
        scores: (N,).
        clusters: (N,), the number of each image's patient.

    Returns:
        (N,), or None where a side has fewer than two clusters, so that nothing can vary.
    """
    groups = distinct(clusters[positive]), distinct(clusters[~positive])
    if min(groups) < 2:
        return None
    result = np.empty(len(scores))
    for side, values, count in zip((positive, ~positive), placements(positive, scores), groups, strict=True):
        result[side] = (values - values.mean()) / len(values) * np.sqrt(count / (count - 1))
    return result
