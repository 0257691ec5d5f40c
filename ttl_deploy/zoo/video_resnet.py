"""3-D ResNet-18 (Tran 2018) as torchvision builds it: the stem and every residual block is a unit.

The one network of three dimensions whose weights can be fetched: those of Kinetics-400 stand where an image network
has ImageNet's, and saw frames of their own mean and deviation.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models import get_weight
from torchvision.models.video import r3d_18
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple

from ttl_deploy.zoo.backbone import BACKBONES, Backbone, Unit, residual_units
from ttl_deploy.zoo.fetch import fetch_file
from ttl_deploy.zoo.kaiming import kaiming

_DEPTHS = (2, 2, 2, 2)


class VideoResNet(Backbone):
    """torchvision's `r3d_18`."""

    name = "r3d_18"
    first_weight = "stem.0.weight"
    usual_block = 3
    dims = 3
    normalisation = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
    input_size = (16, 112, 112)

    def __init__(self) -> None:
        self.units = residual_units(_DEPTHS, "stem.")

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """See `Backbone.build`."""
        network = r3d_18(weights=None)
        if channels != 3:
            convolution = nn.Conv3d(channels, 64, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
            network.stem = BasicStem()
            network.stem[0] = kaiming(convolution)
        return {unit.name: network.get_submodule(unit.name) for unit in self.units}

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """See `Backbone.slim`; a projection is added to the skip where the width changes."""
        assert isinstance(original, BasicBlock)
        out = original.conv2[0].out_channels // factor
        projection = None
        if original.stride != 1 or channels != out:
            shortcut = nn.Conv3d(channels, out, 1, stride=original.stride, bias=False)
            projection = nn.Sequential(shortcut, nn.BatchNorm3d(out))
        return kaiming(BasicBlock(channels, out, Conv3DSimple, original.stride, projection)), out

    def pretrained(self) -> Mapping[str, Tensor]:
        """See `Backbone.pretrained`; torchvision's KINETICS400_V1."""
        return fetch_file(self.name, get_weight("R3D_18_Weights.KINETICS400_V1").url)


BACKBONES.register("r3d_18", VideoResNet())
