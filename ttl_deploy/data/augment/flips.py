"""Mirrored images: left and right, and top and bottom. Mirrored anatomy may be another anatomy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ttl_deploy.data.augment import AUGMENTS, Step
from ttl_deploy.data.movement import STILL, Draw, Movement, movement


def _flip(mirrored: Movement) -> Callable[[Sequence[float], Sequence[int]], Draw]:
    """With such a probability."""
    return lambda numbers, size: lambda: mirrored if torch.rand(1).item() < numbers[0] else STILL


AUGMENTS.register("hflip", Step(((0, 1),), move=_flip(movement([(-1, 0, 0), (0, 1, 0)]))))
AUGMENTS.register("vflip", Step(((0, 1),), move=_flip(movement([(1, 0, 0), (0, -1, 0)]))))
