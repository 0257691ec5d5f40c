"""EfficientNet-B0 (Tan 2019) and -Lite0 as timm builds them: every MBConv is a unit, 16 in 7 blocks.

The expanding 1x1 convolution on top is the tail; the paper's Table 3 counts the network without it. Lite0 has neither
squeeze-and-excitation nor SiLU, for processors that are slow at them; its weights saw images of mean and deviation 0.5.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

import timm
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models._efficientnet_builder import efficientnet_init_weights
from torch import Tensor, nn

from ttl_deploy.zoo.backbone import BACKBONES, Backbone, Unit, mark_block_ends
from ttl_deploy.zoo.fetch import fetch_file

_DEPTHS = (1, 2, 2, 3, 3, 4, 1)


class EfficientNet(Backbone):
    """timm's `efficientnet_b0` or `tf_efficientnet_lite0`.

    Args:
        name: timm's name.
        depths: MBConv units per block.
        normalisation: See `Backbone`.
    """

    first_weight = "conv_stem.weight"
    usual_block = 5

    def __init__(self, name: str, depths: tuple[int, ...], normalisation: tuple[float, float] | None = None) -> None:
        self.name = name
        self.normalisation = normalisation
        units = [
            Unit(f"blocks.{block}.{i}", block + 1, f"blocks.{block}.{i}.")
            for block, depth in enumerate(depths)
            for i in range(depth)
        ]
        self.units = mark_block_ends([Unit("stem", 0, "", cut=False), *units])
        self.tail = Unit("conv_head", len(depths), "", cut=False)

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """See `Backbone.build`."""
        network: Any = timm.create_model(self.name, pretrained=False, in_chans=channels)
        return {
            "stem": nn.Sequential(OrderedDict(conv_stem=network.conv_stem, bn1=network.bn1)),
            **{unit.name: network.get_submodule(unit.name) for unit in self.units[1:]},
            "conv_head": nn.Sequential(OrderedDict(conv_head=network.conv_head, bn2=network.bn2)),
        }

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """See `Backbone.slim`; the expanded width is divided too and rounded to a multiple of 8, as the family does."""
        if unit == self.tail:
            return self._slim_tail(original, channels, factor)
        layers: Any = original
        out: int = layers.conv_pwl.out_channels // factor
        depthwise = layers.conv_dw
        squeezed = isinstance(layers.se, SqueezeExcite)
        rd_channels = max(1, layers.se.conv_reduce.out_channels // factor) if squeezed else None
        excite: Any = partial(SqueezeExcite, rd_channels=rd_channels) if squeezed else None
        block = InvertedResidual(
            channels,
            out,
            dw_kernel_size=depthwise.kernel_size[0],
            stride=depthwise.stride[0],
            exp_ratio=depthwise.out_channels / factor / channels,
            pad_type=_padding(depthwise),
            act_layer=type(layers.bn1.act),
            norm_layer=partial(nn.BatchNorm2d, eps=layers.bn1.eps, momentum=layers.bn1.momentum),
            se_layer=excite,
        )
        efficientnet_init_weights(block)
        return block, out

    @staticmethod
    def _slim_tail(original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        layers: Any = original
        out: int = layers.conv_head.out_channels // factor
        expand = nn.Conv2d(channels, out, kernel_size=1, bias=False)
        tail = nn.Sequential(OrderedDict(conv_head=expand, bn2=BatchNormAct2d(out, act_layer=type(layers.bn2.act))))
        efficientnet_init_weights(tail)
        return tail, out

    def pretrained(self) -> Mapping[str, Tensor]:
        """See `Backbone.pretrained`; timm's default ImageNet weights."""
        published: Any = timm.get_pretrained_cfg(self.name)
        return fetch_file(self.name, published.url)


def _padding(layer: nn.Module) -> str:
    """TensorFlow's padding where a layer has it."""
    return "same" if isinstance(layer, Conv2dSame) else ""


BACKBONES.register("efficientnet_b0", EfficientNet("efficientnet_b0", _DEPTHS))
BACKBONES.register("tf_efficientnet_lite0", EfficientNet("tf_efficientnet_lite0", _DEPTHS, (0.5, 0.5)))
