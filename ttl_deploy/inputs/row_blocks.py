"""Arithmetic on large images some rows at a time, so that its intermediate values take megabytes and not gigabytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_VALUES = 2**20
"""Values that are computed with at a time, unless a single row has more."""


def blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views of some rows each, in order.

    Args:
        values: (H, ...), not empty.
    """
    step = max(1, _VALUES // values[0].size)
    for start in range(0, len(values), step):
        yield values[start : start + step]


def in_blocks(values: NDArray[Any], change: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """What `change` makes of an array.

    Args:
        values: (H, ...), not empty.
        change: Makes as many rows of some rows, each on its own.
    """
    result, done = np.empty(0), 0
    for block in blocks(values):
        changed = change(block)
        if not done:
            result = np.empty((len(values), *changed.shape[1:]), changed.dtype)
        result[done : done + len(block)] = changed
        done += len(block)
    return result
