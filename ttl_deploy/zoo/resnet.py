"""ResNet-18/34/50/101 (He 2016) as torchvision builds them: the stem and every residual block is a unit.

ResNet-50 has the 17 candidates of the paper's Figure 3: the stem and 16 bottlenecks.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from ttl_deploy.zoo.backbone import BACKBONES, Unit, residual_units
from ttl_deploy.zoo.kaiming import kaiming
from ttl_deploy.zoo.torchvision_network import TorchvisionBackbone

_NUMBERED = re.compile(r"((?:[a-z_]+\.)*)(?:([01])|([4-7])\.(\d+\.\w+(?:\.\d)?))\.(\w+)")
"""Names of a Sequential of the network's children: 0 and 1 the stem's, 4 to 7 the stages, as RadImageNet's files have
them (`backbone.0.weight`, `backbone.4.0.conv1.weight`)."""


class ResNet(TorchvisionBackbone):
    """A torchvision ResNet.

    Args:
        name: torchvision's name (`resnet50`).
        depths: Residual blocks per stage.
        weights: torchvision's weight enum member; of the zoo IMAGENET1K_V1, the weights of the paper's time.
    """

    first_weight = "conv1.weight"
    usual_block = 3

    def __init__(self, name: str, depths: tuple[int, ...], weights: str) -> None:
        super().__init__(name, weights)
        self.units = residual_units(depths)

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """See `Backbone.build`."""
        network = self.network(channels)
        stem = OrderedDict((part, getattr(network, part)) for part in ("conv1", "bn1", "relu", "maxpool"))
        return {"stem": nn.Sequential(stem), **{unit.name: network.get_submodule(unit.name) for unit in self.units[1:]}}

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """See `Backbone.slim`; a projection is added to the skip where the width changes."""
        assert isinstance(original, BasicBlock | Bottleneck)
        last = original.conv3 if isinstance(original, Bottleneck) else original.conv2
        out = last.out_channels // factor
        projection = None
        if original.stride != 1 or channels != out:
            projection = nn.Sequential(
                nn.Conv2d(channels, out, kernel_size=1, stride=original.stride, bias=False), nn.BatchNorm2d(out)
            )
        block = type(original)(channels, out // original.expansion, original.stride, projection)
        return kaiming(block), out

    def upgrade(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `Backbone.upgrade`; numbered children get torchvision's names."""
        return {_named(name): tensor for name, tensor in state.items()}


def _named(name: str) -> str:
    found = _NUMBERED.fullmatch(name)
    if found is None:
        return name
    wrapper, stem, stage, within, tensor = found.groups()
    part = f"layer{int(stage) - 3}.{within}" if stage else ("conv1", "bn1")[int(stem)]
    return f"{wrapper}{part}.{tensor}"


for _name, _depths, _enum in (
    ("resnet18", (2, 2, 2, 2), "ResNet18_Weights"),
    ("resnet34", (3, 4, 6, 3), "ResNet34_Weights"),
    ("resnet50", (3, 4, 6, 3), "ResNet50_Weights"),
    ("resnet101", (3, 4, 23, 3), "ResNet101_Weights"),
):
    BACKBONES.register(_name, ResNet(_name, _depths, f"{_enum}.IMAGENET1K_V1"))
