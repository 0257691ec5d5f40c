"""Heads: features to logits. `gap` pools to one value per channel, `flatten` keeps every position.

The paper compares the two in appendix B.2.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from ttl_deploy.registry import Registry

HeadBuilder = Callable[[Sequence[int], int], nn.Module]
"""(shape of the features without the batch, number of classes) -> module."""

HEADS: Registry[HeadBuilder] = Registry("head", "ttl_deploy.transfer", "ttl_deploy.heads")

_POOLS: dict[int, type[nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d]] = {
    1: nn.AdaptiveAvgPool1d,
    2: nn.AdaptiveAvgPool2d,
    3: nn.AdaptiveAvgPool3d,
}


@HEADS.add("gap")
def gap(shape: Sequence[int], classes: int) -> nn.Module:
    """Adaptive average pooling and a linear layer, for features of any number of spatial dimensions."""
    pool = _POOLS[len(shape) - 1](1)
    return nn.Sequential(OrderedDict(pool=pool, flatten=nn.Flatten(), fc=nn.Linear(shape[0], classes)))


@HEADS.add("flatten")
def flatten(shape: Sequence[int], classes: int) -> nn.Module:
    """A linear layer over every position; ties the model to its image size."""
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(math.prod(shape), classes)))
