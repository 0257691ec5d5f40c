"""A random part of the image at the image's size (paper, appendix A.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torchvision.transforms import v2

from ttl_deploy.data.augment import AUGMENTS, Border, Step


def crop(numbers: Sequence[float], size: Sequence[int], border: Border) -> v2.Transform:
    """Of at least and at most such a fraction of the area, and of proportions such a factor from the image's.

    Fractions above 1 are drawn and then fit nowhere: torchvision tries ten times and takes the whole image.
    """
    least, most, narrowest, widest = numbers
    own = size[1] / size[0]
    ratio = (own * narrowest, own * widest)
    return v2.RandomResizedCrop(list(size), scale=(least, max(least, most)), ratio=ratio, antialias=True)


AUGMENTS.register("crop", Step(crop, ((1e-9, 1), (1e-9, 2), (0.1, 1), (1, 10)), (1.0, 1.0, 1.0)))
