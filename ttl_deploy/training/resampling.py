"""Resamples of whole patients, as integer counts: how often each was drawn, one resample a column.

Images of one patient are drawn together, so a resample is told by one count for each patient, and what is summed over
images is summed over patients once, before any resample. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.tasks.task import Labels, Truth, rankable

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Times = NDArray[np.int32]
"""(C, B), how often each of C patients is in each of B resamples."""

_CELLS = 1_600_000
"""Of one block: what a processor's cache holds, so that sums in the order of the scores do not wait for memory."""


def numbered(groups: Sequence[str] | None, images: int) -> Labels:
    """The number of each image's patient from 0, in the order of the names; without groups each image is its own.

    Args:
        groups: The patient of each image; None: not known.
        images: How many there are.

    Raises:
        ValueError: There are not as many groups as images.
    """
    if groups is None:
        return np.arange(images)
    if len(groups) != images:
        raise ValueError(f"{len(groups)} groups for {images} images")
    return np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)[1].astype(np.int64)


def distinct(clusters: Labels) -> int:
    """How many patients some images have, without sorting them."""
    return int(np.count_nonzero(np.bincount(clusters)))


def once(clusters: Labels) -> Times:
    """(C, 1), the images as they are: every patient once."""
    return np.ones((int(clusters.max()) + 1, 1), dtype=np.int32)


def totals(values: NDArray[Any], clusters: Labels) -> Floats:
    """(C, M) sums of (N, M) over the images of each patient."""
    return np.stack([np.bincount(clusters, weights=column) for column in values.T], axis=1)


def counting(places: Labels, clusters: Labels, size: tuple[int, int]) -> csr_array:
    """How many images of each patient are in each place; times `Times`, how many of each resample are.

    Args:
        places: (N,), from 0.
        clusters: (N,).
        size: How many places and patients there are.

    Returns:
        A sparse matrix of that size.
    """
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(places), dtype=np.int32), (places, clusters)), shape=size)


def blocks(times: NDArray[np.integer[Any]], images: int) -> Iterator[Times]:
    """Resamples (B, C) a few at a time, each block laid out as `Times` in memory."""
    size = max(1, _CELLS // images)
    for start in range(0, len(times), size):
        yield np.ascontiguousarray(times[start : start + size].T, dtype=np.int32)


class Sides:
    """The patients with a yes and those with a no of each column that has both.

    Args:
        truth: (N, M); see `Task.truth`.
        clusters: (N,).
    """

    def __init__(self, truth: Truth, clusters: Labels) -> None:
        columns = truth[:, rankable(truth)]
        members = totals(np.concatenate([columns == 1, columns == 0], axis=1), clusters) if columns.size else None
        self._members = None if members is None else np.ascontiguousarray((members > 0).T, dtype=np.float32)

    def complete(self, times: Times) -> Times:
        """The resamples in which no side of any column is missing."""
        if self._members is None:
            return times
        drawn = (self._members @ times.astype(np.float32) > 0).all(axis=0)
        return times if drawn.all() else np.ascontiguousarray(times[:, drawn])
