"""Other colours: jitter of brightness, contrast, saturation and hue, and grey images (Matsoukas 2022's code)."""

from __future__ import annotations

from collections.abc import Sequence

from torchvision.transforms import v2

from ttl_deploy.data.augment import AUGMENTS, Step


def jitter(numbers: Sequence[float]) -> v2.Transform:
    """By factors of 1 less to 1 more each, hue by such a part of the circle; the fifth number is how often."""
    *amounts, often = numbers
    return v2.RandomApply([v2.ColorJitter(*amounts)], p=often)


def grey(numbers: Sequence[float]) -> v2.Transform:
    """With such a probability."""
    return v2.RandomGrayscale(numbers[0])


AUGMENTS.register(
    "jitter", Step(((0, 1), (0, 1), (0, 1), (0, 0.5), (0, 1)), (0.0, 0.0, 0.0, 1.0), (1, 3), change=jitter)
)
AUGMENTS.register("grey", Step(((0, 1),), (), (1, 3), change=grey))
