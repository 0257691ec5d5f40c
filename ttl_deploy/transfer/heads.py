"""Heads: features to logits. `gap` pools to one value per channel, `flatten` keeps every position.

The paper compares the two in appendix B.2. A head that reads more than the last features is a `TapHead`, one that reads
tokens a `TokenHead`: `cls` takes the class token (Dosovitskiy 2021), `mean` the mean of the image's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ttl_deploy.errors import BadInputError
from ttl_deploy.registry import Registry
from ttl_deploy.transfer.taps import Place
from ttl_deploy.zoo import Backbone

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


@dataclass(frozen=True)
class TokenHead:
    """A head that reads tokens (N, T, C): a linear layer on what is taken of them.

    Attributes:
        take: The number of tokens before those of the image -> a module (N, T, C) to (N, C).
        of_class: Whether it wants a class token.
    """

    take: Callable[[int], nn.Module]
    of_class: bool = False

    def build(self, shape: Sequence[int], outputs: int, prefix_tokens: int) -> nn.Module:
        """The head.

        Args:
            shape: Of the features without the batch, (T, C).
            outputs: Logits to give.
            prefix_tokens: Tokens before those of the image.
        """
        return nn.Sequential(OrderedDict(take=self.take(prefix_tokens), fc=nn.Linear(shape[-1], outputs)))


HEADS: Registry[HeadBuilder | TapHead | TokenHead] = Registry("head", "ttl_deploy.transfer", "ttl_deploy.heads")

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


class FirstToken(nn.Module):
    """(N, T, C) to (N, C): the first token."""

    def forward(self, tokens: Tensor) -> Tensor:
        """The first token of each."""
        return tokens[:, 0]


class MeanOfTokens(nn.Module):
    """(N, T, C) to (N, C): the mean over the tokens of the image.

    Args:
        prefix_tokens: How many stand before them.
    """

    def __init__(self, prefix_tokens: int) -> None:
        super().__init__()
        self._prefix = prefix_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """The mean of each."""
        return tokens[:, self._prefix :].mean(dim=1)


HEADS.register("cls", TokenHead(lambda _prefix: FirstToken(), of_class=True))
HEADS.register("mean", TokenHead(MeanOfTokens))


def fits(head: HeadBuilder | TapHead | TokenHead, backbone: Backbone) -> bool:
    """Whether a head reads what a network's units give."""
    if isinstance(head, TokenHead):
        return backbone.layout == "tokens" and (backbone.class_token or not head.of_class)
    return backbone.layout == "channels_first" if isinstance(head, TapHead) else backbone.layout != "tokens"


def usual_head(backbone: Backbone) -> str:
    """The head of a network of whose head nothing is said, for a task of whole images."""
    return next(name for name in ("gap", "cls", "mean") if fits(HEADS.get(name), backbone))


def refuse_misfit(name: str, backbone: Backbone) -> None:
    """Raises `BadInputError` where a head cannot read what the network's units give."""
    if not fits(HEADS.get(name), backbone):
        others = [other for other in HEADS.names() if fits(HEADS.get(other), backbone)]
        raise BadInputError(
            f"head {name} cannot read the features of {backbone.name}, which are {_GIVEN[backbone.layout]}",
            fix=f"choose head {' or '.join(others)}, or another backbone",
        )


_GIVEN = {
    "channels_first": "maps",
    "channels_last": "maps with their channels last",
    "tokens": "a sequence of tokens",
}
