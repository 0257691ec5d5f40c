"""Folds in which every class has its share, of single images or of groups that stay together.

Fold for fold scikit-learn's `StratifiedKFold` and `StratifiedGroupKFold` (1.9, shuffled), to which the tests hold them:
importing it, with SciPy and pandas, costs a second before the first image is read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stratified_folds(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Divides images one by one.

    Args:
        labels: (N,) class of each image.
        count: How many folds, at most as many as the largest class has images.
        seed: Of the shuffle.

    Returns:
        (N,) fold of each image, below `count`.
    """
    random = np.random.RandomState(seed)
    _, first, encoded = np.unique(labels, return_index=True, return_inverse=True)
    # By first appearance, so that the folds do not depend on what the classes are called.
    appeared = np.argsort(np.argsort(first))[encoded]
    in_turn = np.sort(appeared)
    shares = np.array([np.bincount(in_turn[start::count], minlength=len(first)) for start in range(count)])
    folds = np.empty(len(labels), dtype=np.int64)
    for label in range(len(first)):
        own = np.arange(count).repeat(shares[:, label])
        random.shuffle(own)
        folds[appeared == label] = own
    return folds


def grouped_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64] | NDArray[np.str_], count: int, seed: int
) -> NDArray[np.int64]:
    """Divides groups, the most uneven first, each into the fold that leaves the classes spread most evenly.

    Args:
        labels: (N,) class of each image.
        groups: (N,) what each image stays together with.
        count: How many folds, at most as many as there are groups.
        seed: Of the shuffle that orders groups which are equally uneven.

    Returns:
        (N,) fold of each image, below `count`.
    """
    _, encoded, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    _, members = np.unique(groups, return_inverse=True)
    held = np.zeros((members.max() + 1, len(sizes)))
    np.add.at(held, (members, encoded), 1)
    order = np.arange(len(held))
    np.random.RandomState(seed).shuffle(order)
    order = order[np.argsort(-np.std(held[order], axis=1), kind="stable")]
    filled, chosen = np.zeros((count, len(sizes))), np.empty(len(held), dtype=np.int64)
    for group in order:
        chosen[group] = _most_even(filled, held[group], sizes)
        filled[chosen[group]] += held[group]
    return chosen[members]


def _most_even(filled: NDArray[np.float64], held: NDArray[np.float64], sizes: NDArray[np.int64]) -> int:
    """The fold with which a group leaves the smallest deviation between folds, of equal ones the emptiest."""
    best, least, fewest = 0, np.inf, np.inf
    for fold, inside in enumerate(filled.sum(axis=1)):
        spread = filled.copy()
        spread[fold] += held
        deviation = float(np.mean(np.std(spread / sizes, axis=0)))
        if deviation < least or (np.isclose(deviation, least) and inside < fewest):
            best, least, fewest = fold, deviation, inside
    return best
