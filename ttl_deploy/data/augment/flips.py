"""Mirrored images: left and right, and top and bottom. Mirrored anatomy may be another anatomy."""

from __future__ import annotations

from torchvision.transforms import v2

from ttl_deploy.data.augment import AUGMENTS, Step

AUGMENTS.register("hflip", Step(lambda numbers, size, border: v2.RandomHorizontalFlip(numbers[0]), ((0, 1),)))
AUGMENTS.register("vflip", Step(lambda numbers, size, border: v2.RandomVerticalFlip(numbers[0]), ((0, 1),)))
