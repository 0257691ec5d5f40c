"""EfficientNet-B0 (Tan 2019) as timm builds it: every inverted residual (MBConv) is a unit, 16 in 7 blocks.

The expanding 1x1 convolution on top is the tail; the paper's Table 3 counts the network without it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

import timm
from timm.layers.norm_act import BatchNormAct2d
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models._efficientnet_builder import efficientnet_init_weights
from torch import Tensor, nn

from ttl_deploy.zoo.backbone import BACKBONES, Backbone, Unit, mark_block_ends
from ttl_deploy.zoo.fetch import fetch_file

_DEPTHS = (1, 2, 2, 3, 3, 4, 1)


class EfficientNet(Backbone):
    """timm's `efficientnet_b0`.

    Args:
        name: timm's name.
        depths: MBConv units per block.
    """

    first_weight = "conv_stem.weight"
    usual_block = 5

    def __init__(self, name: str, depths: tuple[int, ...]) -> None:
        self.name = name
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
        excite: Any = partial(SqueezeExcite, rd_channels=max(1, layers.se.conv_reduce.out_channels // factor))
        block = InvertedResidual(
            channels,
            out,
            dw_kernel_size=depthwise.kernel_size[0],
            stride=depthwise.stride[0],
            exp_ratio=depthwise.out_channels / factor / channels,
            act_layer=nn.SiLU,
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
        tail = nn.Sequential(OrderedDict(conv_head=expand, bn2=BatchNormAct2d(out, act_layer=nn.SiLU)))
        efficientnet_init_weights(tail)
        return tail, out

    def pretrained(self) -> Mapping[str, Tensor]:
        """See `Backbone.pretrained`; timm's default ImageNet weights."""
        published: Any = timm.get_pretrained_cfg(self.name)
        return fetch_file(self.name, published.url)


BACKBONES.register("efficientnet_b0", EfficientNet("efficientnet_b0", _DEPTHS))
