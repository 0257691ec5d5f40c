"""Heads: features to logits. `gap` pools to one value per channel, `flatten` keeps every position.

The paper compares the two in appendix B.2. A head that reads more than the last features is a `TapHead`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from ttl_deploy.registry import Registry
from ttl_deploy.transfer.taps import Place

HeadBuilder = Callable[[Sequence[int], int], nn.Module]
"""(shape of the features without the batch, number of classes) -> module."""


class TapHead(ABC):
    """A head that reads several places of the chain, and gives maps."""

    @abstractmethod
    def taps(self, places: Sequence[Place], size: Sequence[int]) -> tuple[Place, ...]:
        """The places that it reads, in the order in which its module takes them.

        Args:
            places: All that there are, bottom first.
            size: Of the input, pixels.

        Raises:
            BadInputError: They are none for it.
        """

    @abstractmethod
    def build(self, shapes: Sequence[Sequence[int]], outputs: int, size: Sequence[int]) -> nn.Module:
        """The head.

        Args:
            shapes: Of the features that it reads, without the batch.
            outputs: Maps to give.
            size: Of the input, pixels.
        """


HEADS: Registry[HeadBuilder | TapHead] = Registry("head", "ttl_deploy.transfer", "ttl_deploy.heads")

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
