"""MobileNetV3, small and large (Howard 2019), as torchvision builds it: every inverted residual is a unit.

Blocks are runs of units of one width. The expanding 1x1 convolution on top is the tail.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig
from torchvision.ops.misc import Conv2dNormActivation, SqueezeExcitation

from ttl_deploy.zoo.backbone import BACKBONES, Unit, mark_block_ends
from ttl_deploy.zoo.kaiming import kaiming
from ttl_deploy.zoo.torchvision_network import TorchvisionBackbone

_NORM = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)


class MobileNetV3(TorchvisionBackbone):
    """One of the two.

    Args:
        name: torchvision's name.
        weights: Its weight enum's member.
        depths: Inverted residuals per block.
    """

    first_weight = "features.0.0.weight"
    # A number alone is a cut's index.
    container = ""

    def __init__(self, name: str, weights: str, depths: tuple[int, ...]) -> None:
        super().__init__(name, weights)
        blocks = [0, *(block for block, depth in enumerate(depths, start=1) for _ in range(depth))]
        named = [(f"features.{index}", block) for index, block in enumerate([*blocks, len(depths)])]
        *units, (tail, block) = named
        self.units = mark_block_ends([Unit(name, block, f"{name}.") for name, block in units])
        self.tail = Unit(tail, block, f"{tail}.", cut=False)

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """See `Backbone.build`."""
        network = self.network(channels)
        return {unit.name: network.get_submodule(unit.name) for unit in self.all_units}

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """See `Backbone.slim`; widths are divided as they are, not rounded to multiples of 8."""
        layers: Any = original
        if isinstance(original, InvertedResidual):
            return _slim_residual(layers, channels, factor)
        out = layers[0].out_channels // factor
        top = Conv2dNormActivation(channels, out, kernel_size=1, norm_layer=_NORM, activation_layer=nn.Hardswish)
        return kaiming(top), out


def _slim_residual(original: Any, channels: int, factor: int) -> tuple[nn.Module, int]:
    convolutions = [layer for layer in original.block if isinstance(layer, Conv2dNormActivation)]
    *_expand, depthwise, project = convolutions
    out = project[0].out_channels // factor
    excite = next((layer for layer in original.block if isinstance(layer, SqueezeExcitation)), None)
    shape = InvertedResidualConfig(
        channels,
        depthwise[0].kernel_size[0],
        depthwise[0].out_channels,
        out,
        excite is not None,
        "HS" if isinstance(depthwise[2], nn.Hardswish) else "RE",
        depthwise[0].stride[0],
        depthwise[0].dilation[0],
        1,
    )
    # The library rounds what it is given.
    shape.input_channels, shape.out_channels = channels, out
    shape.expanded_channels = depthwise[0].out_channels // factor
    squeezed = 0 if excite is None else max(1, excite.fc1.out_channels // factor)
    return kaiming(InvertedResidual(shape, _NORM, partial(_excite, squeezed))), out


def _excite(squeezed: int, expanded: int, _rounded: int) -> nn.Module:
    module: nn.Module = SqueezeExcitation(expanded, squeezed, scale_activation=nn.Hardsigmoid)
    return module


for _name, _enum, _depths in (
    ("mobilenet_v3_small", "MobileNet_V3_Small_Weights", (1, 2, 3, 2, 3)),
    ("mobilenet_v3_large", "MobileNet_V3_Large_Weights", (1, 2, 3, 4, 2, 3)),
):
    BACKBONES.register(_name, MobileNetV3(_name, f"{_enum}.IMAGENET1K_V1", _depths))
