"""RegNetY of 0.4 and 1.6 GF (Radosavovic 2020) as torchvision builds it: stem and every residual block are units."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models.regnet import ResBottleneckBlock

from ttl_deploy.zoo.backbone import BACKBONES, Unit, mark_block_ends
from ttl_deploy.zoo.kaiming import kaiming
from ttl_deploy.zoo.torchvision_network import TorchvisionBackbone


class RegNet(TorchvisionBackbone):
    """One of the family.

    Args:
        name: torchvision's name.
        weights: Its weight enum's member.
        depths: Residual blocks per stage.
    """

    first_weight = "stem.0.weight"
    container = "trunk_output."

    def __init__(self, name: str, weights: str, depths: tuple[int, ...]) -> None:
        super().__init__(name, weights)
        named = [(b, f"block{b}.block{b}-{i}") for b, depth in enumerate(depths, start=1) for i in range(depth)]
        blocks = [Unit(name, block, f"{self.container}{name}.") for block, name in named]
        self.units = mark_block_ends([Unit("stem", 0, "stem."), *blocks])

    def network(self, channels: int) -> Any:
        """See `TorchvisionBackbone.network`."""
        # torchvision works the widths out in tensors, and on the meta device those have no values.
        with torch.device("cpu"):
            network = super().network(channels)
        return network.to(torch.get_default_device())

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """See `Backbone.build`."""
        network = self.network(channels)
        return {unit.name: network.get_submodule(unit.prefix.removesuffix(".")) for unit in self.units}

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """See `Backbone.slim`; the number of convolutions' groups stays, and their channels are divided."""
        inner: Any = original.f
        convolution = inner.b[0]
        groups: int = convolution.groups
        group_width = max(1, convolution.out_channels // groups // factor)
        out = groups * group_width
        block = ResBottleneckBlock(
            channels,
            out,
            convolution.stride[0],
            nn.BatchNorm2d,
            nn.ReLU,
            group_width,
            # The library gives what is squeezed as a share of the input's channels.
            se_ratio=max(1, inner.se.fc1.out_channels // factor) / channels,
        )
        return kaiming(block), out


for _name, _enum, _depths in (
    ("regnet_y_400mf", "RegNet_Y_400MF_Weights", (1, 3, 6, 6)),
    ("regnet_y_1_6gf", "RegNet_Y_1_6GF_Weights", (2, 6, 17, 2)),
):
    BACKBONES.register(_name, RegNet(_name, f"{_enum}.IMAGENET1K_V1", _depths))
