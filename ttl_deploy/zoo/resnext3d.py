"""3-D ResNeXt-50/101 (Hara 2018): the stem and every residual block is a unit, with the names of its authors' files.

ResNeXt-101 is the network of the paper's pulmonary embolism rows (Table 2). Parameters are named as in
kenshohara/3D-ResNets-PyTorch (`layer3.18.conv2.weight`), whose Kinetics files load with `--weights FILE`; the paper's
counts need the stem of 64 channels of its first release.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from ttl_deploy.zoo.backbone import BACKBONES, Backbone, Unit, residual_units
from ttl_deploy.zoo.fetch import refuse_fetching
from ttl_deploy.zoo.kaiming import kaiming

STEM = 64
GROUPS = 32
EXPANSION = 2
WIDTHS = (128, 256, 512, 1024)
"""Channels between the outer convolutions of a block, by stage."""


class Bottleneck(nn.Module):
    """1x1x1, grouped 3x3x3 and 1x1x1 convolutions around a skip: (N, C, D, H, W) to (N, 2 width, D/s, H/s, W/s).

    Args:
        channels: Of its input.
        width: Between the outer convolutions.
        stride: Of the middle one and of the skip, s.
    """

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out = width * EXPANSION
        self.stride = stride
        self.conv1 = nn.Conv3d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, padding=1, groups=GROUPS, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv3d(channels, out, 1, stride, bias=False), nn.BatchNorm3d(out))

    def forward(self, features: Tensor) -> Tensor:
        """The block's output."""
        skip = features if self.downsample is None else self.downsample(features)
        features = self.relu(self.bn1(self.conv1(features)))
        features = self.relu(self.bn2(self.conv2(features)))
        result: Tensor = self.relu(self.bn3(self.conv3(features)) + skip)
        return result


class ResNeXt3d(Backbone):
    """A 3-D ResNeXt of 32 groups.

    Args:
        name: Name in the zoo.
        depths: Residual blocks per stage.
    """

    first_weight = "conv1.weight"
    usual_block = 3
    dims = 3
    input_size = (32, 208, 208)

    def __init__(self, name: str, depths: tuple[int, ...]) -> None:
        self.name = name
        self.units = residual_units(depths)

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """See `Backbone.build`."""
        modules: dict[str, nn.Module] = {"stem": kaiming(_stem(channels))}
        width_below = STEM
        for unit in self.units[1:]:
            width = WIDTHS[unit.block - 1]
            stride = 2 if unit.block > 1 and unit.name.endswith(".0") else 1
            modules[unit.name] = kaiming(Bottleneck(width_below, width, stride))
            width_below = width * EXPANSION
        return modules

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """See `Backbone.slim`; the number of groups stays."""
        assert isinstance(original, Bottleneck)
        width = original.conv1.out_channels // factor
        return kaiming(Bottleneck(channels, width, original.stride)), width * EXPANSION

    def pretrained(self) -> Mapping[str, Tensor]:
        """See `Backbone.pretrained`.

        Raises:
            WeightsError: Always; its authors' files lie where no program can fetch them.
        """
        return refuse_fetching(self.name, "github.com/kenshohara/3D-ResNets-PyTorch")


def _stem(channels: int) -> nn.Module:
    """7x7x7 that halves height and width, then pooling that halves all three."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv3d(channels, STEM, 7, stride=(1, 2, 2), padding=3, bias=False),
            bn1=nn.BatchNorm3d(STEM),
            relu=nn.ReLU(inplace=True),
            maxpool=nn.MaxPool3d(3, stride=2, padding=1),
        )
    )


BACKBONES.register("resnext3d50", ResNeXt3d("resnext3d50", (3, 4, 6, 3)))
BACKBONES.register("resnext3d101", ResNeXt3d("resnext3d101", (3, 4, 23, 3)))
