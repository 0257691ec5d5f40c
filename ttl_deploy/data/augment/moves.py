"""Steps that move an image about its centre: rotation, shift, shear, zoom (paper, appendix A.1; RadImageNet's, 4.2).

Where the border is `edge`, what comes in from outside repeats the outermost pixels (Keras' fill mode `nearest`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torchvision.transforms import v2

from ttl_deploy.data.augment import AUGMENTS, Step
from ttl_deploy.data.movement import Draw, Movement, movement


def rotation(numbers: Sequence[float], size: Sequence[int]) -> Draw:
    """By at most so many degrees to either side."""
    return _affine(v2.RandomAffine(numbers[0]), size)


def shift(numbers: Sequence[float], size: Sequence[int]) -> Draw:
    """By at most so large a part of the height and the width, in whole pixels."""
    return _affine(v2.RandomAffine(0, translate=(numbers[0], numbers[0])), size)


def shear(numbers: Sequence[float], size: Sequence[int]) -> Draw:
    """Along the rows, by at most so many degrees to either side."""
    return _affine(v2.RandomAffine(0, shear=numbers[0]), size)


def zoom(numbers: Sequence[float], size: Sequence[int]) -> Draw:
    """To 1 less to 1 more so much of its size, both ways alike (Keras draws one number for each way)."""
    return _affine(v2.RandomAffine(0, scale=(1 - numbers[0], 1 + numbers[0])), size)


def _affine(drawn: v2.RandomAffine, size: Sequence[int]) -> Draw:
    """The movement for what torchvision draws, as its own `affine` carries it out."""
    blank = torch.empty(1, *size)

    def draw() -> Movement:
        found = drawn.make_params([blank])
        turn, slant = math.radians(found["angle"]), math.tan(math.radians(found["shear"][0]))
        sine, cosine = math.sin(turn) / found["scale"], math.cos(turn) / found["scale"]
        across, down = found["translate"]
        back = movement([(cosine - slant * sine, sine + slant * cosine, 0), (-sine, cosine, 0)])
        return back @ movement([(1, 0, -across), (0, 1, -down)])

    return draw


AUGMENTS.register("rotation", Step(((0, 180),), move=rotation))
AUGMENTS.register("shift", Step(((0, 0.5),), move=shift))
AUGMENTS.register("shear", Step(((0, 60),), move=shear))
AUGMENTS.register("zoom", Step(((0, 0.9),), move=zoom))
