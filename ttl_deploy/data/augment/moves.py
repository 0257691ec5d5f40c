"""Steps that move an image about its centre: rotation, shift, shear, zoom (paper, appendix A.1; RadImageNet's, 4.2).

Where the border is `edge`, what comes in from outside repeats the outermost pixels (Keras' fill mode `nearest`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchvision.transforms import v2

from ttl_deploy.data.augment import AUGMENTS, Border, Step

_BILINEAR = v2.InterpolationMode.BILINEAR


def rotation(numbers: Sequence[float], size: Sequence[int], border: Border) -> v2.Transform:
    """By at most so many degrees to either side."""
    return _within(v2.RandomRotation(numbers[0], interpolation=_BILINEAR), size, border)


def shift(numbers: Sequence[float], size: Sequence[int], border: Border) -> v2.Transform:
    """By at most so large a part of the height and the width."""
    # A part of what the transform sees.
    whole = [(length + 2 * pad) / length for length, pad in zip(size, _pads(size, border), strict=True)]
    translate = (numbers[0] / whole[1], numbers[0] / whole[0])
    return _within(v2.RandomAffine(0, translate=translate, interpolation=_BILINEAR), size, border)


def shear(numbers: Sequence[float], size: Sequence[int], border: Border) -> v2.Transform:
    """Along the rows, by at most so many degrees to either side."""
    return _within(v2.RandomAffine(0, shear=numbers[0], interpolation=_BILINEAR), size, border)


def zoom(numbers: Sequence[float], size: Sequence[int], border: Border) -> v2.Transform:
    """To 1 less to 1 more so much of its size, both ways alike (Keras draws one number for each way)."""
    scale = (1 - numbers[0], 1 + numbers[0])
    return _within(v2.RandomAffine(0, scale=scale, interpolation=_BILINEAR), size, border)


def _pads(size: Sequence[int], border: Border) -> list[int]:
    return [math.ceil(length / 2) if border == "edge" else 0 for length in size]


def _within(moved: v2.Transform, size: Sequence[int], border: Border) -> v2.Transform:
    if border != "edge":
        return moved
    high, wide = _pads(size, border)
    return v2.Compose([v2.Pad([wide, high], padding_mode="edge"), moved, v2.CenterCrop(list(size))])


AUGMENTS.register("rotation", Step(rotation, ((0, 180),)))
AUGMENTS.register("shift", Step(shift, ((0, 0.5),)))
AUGMENTS.register("shear", Step(shear, ((0, 60),)))
AUGMENTS.register("zoom", Step(zoom, ((0, 0.9),)))
