"""Steps of volumes that move them through their slices, the movements MONAI's: tilt, slide, and mirrored slices.

The window of slices that Huang 2020's published code shifts by up to half its depth is `slide=0.5`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from ttl_deploy.data.augment import AUGMENTS, Step
from ttl_deploy.data.movement import Draw, Movement


def tilt(numbers: Sequence[float], size: Sequence[int]) -> Draw:
    """By at most so many degrees to either side about the rows' and about the columns' direction, in voxels."""
    return partial(_tilted, math.radians(numbers[0]))


def slide(numbers: Sequence[float], size: Sequence[int]) -> Draw:
    """Along the slices by at most so large a part of them, in whole slices."""
    return partial(_slid, int(numbers[0] * size[0]))


def mirrored(numbers: Sequence[float], size: Sequence[int]) -> Draw:
    """The first slice last, with such a probability."""
    return lambda: _scaled(-1.0 if torch.rand(1).item() < numbers[0] else 1.0)


def _tilted(most: float) -> Movement:
    from monai.transforms.utils import create_rotate

    about_x, about_y = ((torch.rand(2) * 2 - 1) * most).tolist()
    return np.asarray(create_rotate(3, (about_x, about_y)))


def _slid(most: int) -> Movement:
    from monai.transforms.utils import create_translate

    return np.asarray(create_translate(3, (0, 0, int(torch.randint(-most, most + 1, ())))))


def _scaled(along: float) -> Movement:
    from monai.transforms.utils import create_scale

    return np.asarray(create_scale(3, (1, 1, along)))


AUGMENTS.register("tilt", Step(((0, 180),), volumes=True, move=tilt))
AUGMENTS.register("slide", Step(((0, 0.5),), volumes=True, move=slide))
AUGMENTS.register("dflip", Step(((0, 1),), volumes=True, move=mirrored))
