"""Affine movements of images and volumes: composed as matrices, and carried out by one interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Movement = NDArray[np.float64]
"""(3, 3): from where a pixel is seen to where it comes from, (x, y, 1) in pixels from the image's centre, y downwards.

Or (4, 4) of a volume, (x, y, z, 1), z from the middle of its slices to later ones. Of two, one after the other, it is
the product in that order.
"""

Draw = Callable[[], Movement]
"""Draws one from PyTorch's global generator."""

STILL: Movement = np.eye(3)

_IN_SPACE = 4
_OF_A_SLICE = (0, 1, 3)
_BACKWARDS = (2, 1, 0, 3)

_PIECE = 2**16
"""Pixels that are interpolated by one call: small images many at once, large ones singly while in cache."""


def movement(rows: Sequence[Sequence[float]]) -> Movement:
    """Of the two rows that differ."""
    return np.array([*rows, (0.0, 0.0, 1.0)])


def composed(movements: Sequence[Movement]) -> Movement:
    """One after the other; in space as soon as one of them is, where each slice moves as an image would."""
    if any(len(one) == _IN_SPACE for one in movements):
        movements = [one if len(one) == _IN_SPACE else _in_space(one) for one in movements]
    return reduce(np.matmul, movements)


def _in_space(movement: Movement) -> Movement:
    whole = np.eye(_IN_SPACE)
    whole[np.ix_(_OF_A_SLICE, _OF_A_SLICE)] = movement
    return whole


def moved(images: Tensor, movements: Sequence[Movement], *, edge: bool = False, nearest: bool = False) -> Tensor:
    """Images moved each by its own.

    Args:
        images: (N, ..., H, W) uint8; all planes of one move alike. Or volumes (N, D, C, H, W) uint8.
        movements: N of them, in space only of volumes.
        edge: What comes in from outside repeats the outermost pixels; else it is 0, and they fade into it.
        nearest: Each pixel is the nearest one, as of masks; else it is interpolated bilinearly.

    Returns:
        As `images`.
    """
    if len(movements[0]) == _IN_SPACE:
        pairs = zip(images, movements, strict=True)
        return torch.stack([_moved_volume(volume, one, edge=edge, nearest=nearest) for volume, one in pairs])
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


def _moved_volume(volume: Tensor, movement: Movement, *, edge: bool, nearest: bool) -> Tensor:
    """A volume (D, C, H, W) moved by MONAI, whose axes are the slices, the rows and the columns."""
    from monai.transforms.spatial.array import Affine

    backwards = np.ix_(_BACKWARDS, _BACKWARDS)
    move = Affine(
        affine=movement[backwards],
        mode="nearest" if nearest else "bilinear",
        padding_mode="border" if edge else "zeros",
        image_only=True,
    )
    found: Tensor = move(volume.movedim(1, 0).float()).as_tensor()  # type: ignore[union-attr]
    return found.round().to(volume.dtype).movedim(0, 1)


def _normalised(movements: Movement, height: int, width: int) -> Tensor:
    """(N, 2, 3) float32 in PyTorch's units, in which half of a side is 1."""
    half = np.array([width / 2, height / 2, 1])
    return torch.from_numpy((movements * half / half[:, None])[:, :2]).float()
