"""Iterative stratification: divides groups so that each side has its share of many strata that overlap.

After Sechidis, Tsoumakas and Vlahavas (2011), "On the stratification of multi-label data", ECML PKDD, LNCS 6913, pages
145 to 158, with groups of images in place of images. Added to theirs: the last groups of a stratum go to sides that
have none of it, so that it is on every side where it has enough groups; and larger groups go first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_EQUAL = 1e-9
"""Wishes that differ by less are the same, whatever the rounding."""


def stratify(
    counts: NDArray[np.int64], sizes: NDArray[np.int64], shares: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """The side of each group.

    The rarest stratum is divided first, each of its groups to the side that still wants the most of it, of equal ones
    the side that wants the most images, then at random; then the rarest of those that are left, until none is.

    Args:
        counts: (G, M) how many images of each stratum a group has.
        sizes: (G,) how many images a group has.
        shares: The share of each side, adding up to 1.
        seed: Of the order of equally large groups, and of ties.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    # All images are a last stratum, for groups that are in no other.
    counts = np.column_stack([counts, sizes])[order]
    wanted = np.outer(shares, counts.sum(axis=0))
    inside = counts > 0
    reached = np.zeros(wanted.shape, dtype=bool)
    left = inside.sum(axis=0)
    sides = np.full(len(sizes), -1, dtype=np.int64)
    while left.any():
        stratum = int(np.where(left > 0, left, len(sizes) + 1).argmin())
        for group in np.flatnonzero(inside[:, stratum] & (sides < 0)).tolist():
            lacking = ~reached[:, stratum]
            open_sides = lacking if left[stratum] <= lacking.sum() else np.ones(len(shares), dtype=bool)
            side = _hungriest(wanted[:, [stratum, -1]], open_sides, generator)
            sides[group] = side
            wanted[side] -= counts[group]
            reached[side] |= inside[group]
            left -= inside[group]
    found = np.empty_like(sides)
    found[order] = sides
    return found


def _hungriest(wanted: NDArray[np.float64], allowed: NDArray[np.bool_], generator: np.random.Generator) -> int:
    """The allowed side that wants the most by the first column, of equal ones by the next, then any."""
    best = np.flatnonzero(allowed)
    for column in wanted.T:
        best = best[column[best] >= column[best].max() - _EQUAL]
    return int(best[0] if len(best) == 1 else generator.choice(best))
