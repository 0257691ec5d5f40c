"""What the families that timm builds have in common: a stem, a list of blocks, what follows them, and timm's weights.

The stem is timm's network itself without the rest, so that class token and position embedding are where timm has them;
every name of a state dict is timm's.
"""

from __future__ import annotations

import copy
import functools
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from ttl_deploy.errors import BadInputError
from ttl_deploy.zoo.backbone import Backbone, Unit
from ttl_deploy.zoo.cut_point import CutPoint
from ttl_deploy.zoo.fetch import fetch_file, fetch_from_hub

MAPS = "channels_first"
"""Name of the layer that turns the last features to channels first."""


class ChannelsFirst(nn.Module):
    """(N, H, W, C) to (N, C, H, W)."""

    def forward(self, features: Tensor) -> Tensor:
        """The same features."""
        return features.permute(0, 3, 1, 2).contiguous()


class TimmBackbone(Backbone):
    """A network of timm whose units are cut out of lists of blocks.

    Args:
        name: Name in the zoo.
        source: timm's name, with a tag or without.
        units: The stem and the blocks, by their names in the network.
        lists: Children of the network that hold the blocks.
        top: Layers that follow the last block, by their names in the network.
    """

    container = ""

    def __init__(
        self, name: str, source: str, units: Sequence[Unit], lists: Sequence[str], top: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.units = tuple(units)
        self._source = source
        self._lists = tuple(lists)
        self._top = tuple(top)
        self._size: tuple[int, ...] | None = None
        self._native = self
        self._sized: dict[tuple[int, ...], Self] = {}
        published: Any = timm.get_pretrained_cfg(source)
        self._published = published
        self.input_size = published.input_size[-1]
        self.normalisation = _normalisation(tuple(published.mean), tuple(published.std))

    def at(self, size: Sequence[int]) -> Self:
        """See `Backbone.at`."""
        if not self._published.fixed_input_size:
            return self
        key = tuple(size)
        if key not in self._sized:
            self._sized[key] = copy.copy(self)
            self._sized[key]._size = key
        return self._sized[key]

    @functools.cached_property
    def cut_points(self) -> tuple[CutPoint, ...]:
        """See `Backbone.cut_points`; those of the size of its pretraining."""
        return super().cut_points if self._native is self else self._native.cut_points

    def network(self, channels: int = 3) -> Any:
        """Timm's network with random weights and without classifier."""
        sized: dict[str, Any] = {} if self._size is None else {"img_size": self._size}
        return timm.create_model(self._source, pretrained=False, in_chans=channels, num_classes=0, **sized)

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """See `Backbone.build`."""
        network = self.network(channels)
        modules = {unit.name: network.get_submodule(unit.name) for unit in self.units[1:]}
        if self.tail is not None:
            modules[self.tail.name] = self._build_top(network)
        return {self.units[0].name: stem_of(network, self._lists), **modules}

    def _build_top(self, network: nn.Module) -> nn.Module:
        layers = OrderedDict((name.rpartition(".")[2], network.get_submodule(name)) for name in self._top)
        if self.layout == "channels_last":
            layers[MAPS] = ChannelsFirst()
        return nn.Sequential(layers)

    def finish(self, top: Unit) -> Unit | None:
        """See `Backbone.finish`: the last norm, where nothing but it follows the blocks."""
        return self.tail

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """See `Backbone.slim`; only the last norm can be as wide as what it reads.

        Raises:
            BadInputError: Another unit is asked for.
        """
        if unit != self.tail:
            raise BadInputError(f"{unit.name} of {self.name} has no slim form: {self.unslimmed}")
        layers = OrderedDict((name, _as_wide(layer, channels)) for name, layer in original.named_children())
        return nn.Sequential(layers), channels

    def pretrained(self) -> Mapping[str, Tensor]:
        """See `Backbone.pretrained`: the weights of the name's tag, or those that timm takes without one."""
        published = self._published
        if published.url and published.url.endswith((".pth", ".pt")) and not published.custom_load:
            return _unwrapped(fetch_file(self.name, published.url))
        return fetch_from_hub(self.name, published.hf_hub_id or self._source, self._fetched)

    def _fetched(self) -> Mapping[str, Tensor]:
        state: Mapping[str, Tensor] = timm.create_model(self._source, pretrained=True, num_classes=0).state_dict()
        return state

    def fit(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `Backbone.fit`: timm's own renaming of older files, and resampling to another image size."""
        with torch.device("meta"):
            network = self.network()
        adapt: Callable[..., Mapping[str, Tensor]] | None = getattr(
            sys.modules[type(network).__module__], "checkpoint_filter_fn", None
        )
        if adapt is None:
            return state
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return adapt(dict(state), network)
        # The one boundary: what timm's code does with a file that is none of the network's is not told apart.
        except Exception:
            return state


def stem_of(network: nn.Module, lists: Sequence[str]) -> nn.Module:
    """Timm's network without its blocks and what follows them; gives the features that the first block reads.

    Args:
        network: Changed in place.
        lists: Children that hold the blocks.
    """
    children = dict(network.named_children())
    names = list(children)
    for name in (*lists, *names[names.index(lists[-1]) + 1 :]):
        # Some networks go through their lists themselves.
        is_list = name in lists or isinstance(children[name], nn.ModuleList)
        setattr(network, name, nn.Sequential() if is_list else nn.Identity())
    kind: Any = type(network)
    network.__class__ = type(kind.__name__, (kind,), {"forward": kind.forward_features, "__module__": kind.__module__})
    return network


def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[float, float] | tuple[tuple[float, ...], tuple[float, ...]] | None:
    """As `Backbone.normalisation`."""
    if (mean, std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD):
        return None
    return (mean[0], std[0]) if len({*mean}) == len({*std}) == 1 else (mean, std)


def _as_wide(layer: nn.Module, channels: int) -> nn.Module:
    if isinstance(layer, nn.LayerNorm):
        return type(layer)(channels, eps=layer.eps)
    return layer


def _unwrapped(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    for wrapper in ("model", "state_dict"):
        if isinstance(state.get(wrapper), Mapping):
            return _unwrapped(state[wrapper])
    return state
