"""Affine movements of images: composed as matrices, and carried out by one interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Movement = NDArray[np.float64]
"""(3, 3): from where a pixel is seen to where it comes from, (x, y, 1) in pixels from the image's centre, y downwards.

Of two, one after the other, it is the product in that order.
"""

Draw = Callable[[], Movement]
"""Draws one from PyTorch's global generator."""

STILL: Movement = np.eye(3)

_PIECE = 2**16
"""Pixels that are interpolated by one call: small images many at once, large ones singly while in cache."""


def movement(rows: Sequence[Sequence[float]]) -> Movement:
    """Of the two rows that differ."""
    return np.array([*rows, (0.0, 0.0, 1.0)])


def moved(images: Tensor, movements: Sequence[Movement], *, edge: bool = False, nearest: bool = False) -> Tensor:
    """Images moved each by its own.

    Args:
        images: (N, ..., H, W) uint8; all planes of one move alike.
        movements: N of them.
        edge: What comes in from outside repeats the outermost pixels; else it is 0, and they fade into it.
        nearest: Each pixel is the nearest one, as of masks; else it is interpolated bilinearly.

    Returns:
        As `images`.
    """
    height, width = images.shape[-2:]
    planes = images.reshape(len(images), -1, height, width)
    thetas = _normalised(np.stack(movements), height, width)
    result, step = torch.empty_like(planes), max(1, _PIECE // (height * width))
    for start in range(0, len(planes), step):
        piece, theta = planes[start : start + step], thetas[start : start + step]
        grid = functional.affine_grid(theta, list(piece.shape), align_corners=False)
        found = functional.grid_sample(
            piece.float(),
            grid,
            mode="nearest" if nearest else "bilinear",
            padding_mode="border" if edge else "zeros",
            align_corners=False,
        )
        result[start : start + step] = found.round_()
    return result.reshape(images.shape)


def _normalised(movements: Movement, height: int, width: int) -> Tensor:
    """(N, 2, 3) float32 in PyTorch's units, in which half of a side is 1."""
    half = np.array([width / 2, height / 2, 1])
    return torch.from_numpy((movements * half / half[:, None])[:, :2]).float()
