"""Inception-v3 (Szegedy 2015) as torchvision builds it, without auxiliary classifier: 5 convolutions, 11 mixed units.

Blocks are the seven groups of Matsoukas 2022 (Conv2d_1a | 2a, 2b | 3b | 4a | Mixed_5 | Mixed_6
| Mixed_7). The published weights come from TensorFlow and saw images of mean and deviation 0.5.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from torch import nn
from torchvision.models.inception import BasicConv2d

from ttl_deploy.zoo.backbone import BACKBONES, Unit, mark_block_ends, trace_shapes
from ttl_deploy.zoo.torchvision_network import TorchvisionBackbone

_CONVOLUTIONS = {"Conv2d_1a_3x3": 1, "Conv2d_2a_3x3": 2, "Conv2d_2b_3x3": 2, "Conv2d_3b_1x1": 3, "Conv2d_4a_3x3": 4}
_POOLED = {"Conv2d_2b_3x3": "maxpool1", "Conv2d_4a_3x3": "maxpool2"}
_MIXED = {5: "bcd", 6: "abcde", 7: "abc"}

_SIDE = 32
"""Pixels of the features by which a slim unit's channels are found; any that its poolings take."""


class Inception(TorchvisionBackbone):
    """torchvision's `inception_v3`."""

    first_weight = "Conv2d_1a_3x3.conv.weight"
    input_size = 299
    normalisation = (0.5, 0.5)
    units = mark_block_ends(
        [
            *(Unit(name, block, "" if name in _POOLED else f"{name}.") for name, block in _CONVOLUTIONS.items()),
            *(Unit(f"Mixed_{n}{i}", n, f"Mixed_{n}{i}.") for n, letters in _MIXED.items() for i in letters),
        ]
    )

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """See `Backbone.build`."""
        network = self.network(channels)
        modules = {unit.name: network.get_submodule(unit.name) for unit in self.units}
        pooled = {
            name: nn.Sequential(OrderedDict((part, network.get_submodule(part)) for part in (name, pool)))
            for name, pool in _POOLED.items()
        }
        return modules | pooled

    def stride(self, given: int, left: int) -> int:
        """See `Backbone.stride`."""
        return 1 << (given // left).bit_length() - 1

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """See `Backbone.slim`; a branch that only pools keeps the channels of its input."""
        slim = _narrow(original, channels, factor)
        return slim, trace_shapes([slim], (channels, _SIDE, _SIDE))[-1][0]


def _narrow(original: nn.Module, channels: int, factor: int) -> nn.Module:
    if isinstance(original, BasicConv2d):
        return _convolution(original.conv, channels, factor)
    convolutions = {name: layer.conv for name, layer in original.named_modules() if isinstance(layer, BasicConv2d)}
    slim, own = copy.deepcopy(original), max(layer.in_channels for layer in convolutions.values())
    for name, layer in convolutions.items():
        # No branch is as wide inside as what the unit reads.
        before = channels if layer.in_channels == own else layer.in_channels // factor
        slim.set_submodule(name, _convolution(layer, before, factor))
    return slim


def _convolution(original: Any, channels: int, factor: int) -> nn.Module:
    sizes = {name: getattr(original, name) for name in ("kernel_size", "stride", "padding")}
    layer: nn.Module = BasicConv2d(channels, original.out_channels // factor, **sizes)
    nn.init.trunc_normal_(layer.conv.weight, std=0.1, a=-2, b=2)  # type: ignore[union-attr, arg-type]
    return layer


BACKBONES.register(
    "inception_v3",
    Inception(
        "inception_v3",
        "Inception_V3_Weights.IMAGENET1K_V1",
        aux_logits=False,
        transform_input=False,
        init_weights=True,
    ),
)
