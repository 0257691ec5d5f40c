"""A random part of the image at the image's size (paper, appendix A.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.transforms import v2

from ttl_deploy.data.augment import AUGMENTS, Step
from ttl_deploy.data.movement import Draw, Movement, movement


def crop(numbers: Sequence[float], size: Sequence[int]) -> Draw:
    """Of at least and at most such a fraction of the area, and of proportions such a factor from the image's.

    Fractions above 1 are drawn and then fit nowhere: torchvision tries ten times and takes the whole image.
    """
    least, most, narrowest, widest = numbers
    height, width = size
    own, blank = width / height, torch.empty(1, *size)
    ratio = (own * narrowest, own * widest)
    drawn = v2.RandomResizedCrop(list(size), scale=(least, max(least, most)), ratio=ratio)

    def draw() -> Movement:
        part = drawn.make_params([blank])
        across = part["left"] + (part["width"] - width) / 2
        down = part["top"] + (part["height"] - height) / 2
        return movement([(part["width"] / width, 0, across), (0, part["height"] / height, down)])

    return draw


AUGMENTS.register("crop", Step(((1e-9, 1), (1e-9, 2), (0.1, 1), (1, 10)), (1.0, 1.0, 1.0), move=crop))
