"""The receiver operating characteristic of scores, and the areas under it and under precision over recall.

To the last bit what scikit-learn gives for two classes, in its order of operations: a command that ranks some images
need not wait for that library, SciPy's statistics and pandas. NumPy alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def roc_curve(positive: Mask, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Every way to divide the images by a threshold, the highest first; the first says yes of none.

    Args:
        positive: (N,), both sides present.
        scores: (N,), finite.

    Returns:
        1 - specificity, sensitivity and the threshold from which on an image is positive, infinite for the first.
    """
    false, true, thresholds = _counts(positive, scores)
    edges = [np.append(0.0, false), np.append(0.0, true)]
    return edges[0] / false[-1], edges[1] / true[-1], np.append(np.inf, thresholds)


def auroc(positive: Mask, scores: Floats) -> float:
    """Area under `roc_curve`, by trapezoids between its corners."""
    false, true, _ = _counts(positive, scores)
    if len(false) > 2:
        corners = np.concatenate([[True], (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0), [True]])
        false, true = false[corners], true[corners]
    return float(np.trapezoid(np.append(0.0, true) / true[-1], np.append(0.0, false) / false[-1]))


def average_precision(positive: Mask, scores: Floats) -> float:
    """Precision at each threshold, weighted by the recall that it adds; nothing is interpolated."""
    false, true, _ = _counts(positive, scores)
    precision, recall = np.flip(true / (true + false)), np.append(np.flip(true / true[-1]), 0.0)
    return float(max(0.0, -np.sum(np.diff(recall) * precision)))


def _counts(positive: Mask, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """How many negatives and positives score at least each distinct score, and that score, the highest first."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    true = np.cumsum(positive[order], dtype=np.float64)[last]
    return 1.0 + last - true, true, ranked[last]
