"""Other colours: jitter of brightness, contrast, saturation and hue, and grey images (Matsoukas 2022's code)."""

from __future__ import annotations

from collections.abc import Sequence

from torchvision.transforms import v2

from ttl_deploy.data.augment import AUGMENTS, Border, Step


def jitter(numbers: Sequence[float], size: Sequence[int], border: Border) -> v2.Transform:
    """By factors of 1 less to 1 more each, hue by such a part of the circle; the fifth number is how often."""
    *amounts, often = numbers
    return v2.RandomApply([v2.ColorJitter(*amounts)], p=often)


def grey(numbers: Sequence[float], size: Sequence[int], border: Border) -> v2.Transform:
    """With such a probability."""
    return v2.RandomGrayscale(numbers[0])


AUGMENTS.register("jitter", Step(jitter, ((0, 1), (0, 1), (0, 1), (0, 0.5), (0, 1)), (0.0, 0.0, 0.0, 1.0), (1, 3)))
AUGMENTS.register("grey", Step(grey, ((0, 1),), (), (1, 3)))
