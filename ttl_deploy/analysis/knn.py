"""Nearest neighbours by cosine: what a bank of images with known labels says of others (Matsoukas 2022, Figure 6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.tasks import UNKNOWN, Labels, Task

NEIGHBOURS = 200
TEMPERATURE = 0.1
"""A neighbour of cosine s has a vote of exp(s / this)."""

_AT_ONCE = 512
"""Queries that are compared with the whole bank together."""

_TINY = 1e-12


def vote(
    bank: NDArray[np.floating], labels: Labels, queries: NDArray[np.floating], task: Task, k: int = NEIGHBOURS
) -> NDArray[np.float64]:
    """Shares of the votes of each query's nearest neighbours.

    Args:
        bank: (N, channels).
        labels: Of the bank, (N,) or (N, K) as the task has them; a neighbour of which a label is unknown has no vote.
        queries: (M, channels).
        task: What the labels mean.
        k: Neighbours; all where the bank has fewer.

    Returns:
        (M, K); one half, or 1 / K of exclusive classes, where no neighbour has a vote.
    """
    has, known = task.members(labels).astype(np.float64), _known(labels, len(task.classes))
    own, asked = _unit(bank), _unit(queries)
    parts = [_shares(asked[i : i + _AT_ONCE] @ own.T, has, known, k) for i in range(0, len(asked), _AT_ONCE)]
    nobody = 0.5 if task.SEVERAL else 1 / len(task.classes)
    return np.nan_to_num(np.concatenate(parts), nan=nobody)


def _known(labels: Labels, classes: int) -> NDArray[np.float64]:
    told = (labels != UNKNOWN).reshape(len(labels), -1)
    return np.broadcast_to(told, (len(labels), classes)).astype(np.float64)


def _unit(features: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = features.astype(np.float64)
    return np.asarray(exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), _TINY))


def _shares(
    cosines: NDArray[np.float64], has: NDArray[np.float64], known: NDArray[np.float64], k: int
) -> NDArray[np.float64]:
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    votes = np.exp(np.take_along_axis(cosines, nearest, axis=1) / TEMPERATURE)
    with np.errstate(invalid="ignore"):
        shares = np.einsum("mk,mkc->mc", votes, has[nearest]) / np.einsum("mk,mkc->mc", votes, known[nearest])
    return np.asarray(shares)
