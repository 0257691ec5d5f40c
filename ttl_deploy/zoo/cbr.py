"""The CBR family (Raghu 2019, TransFusion, section 3.1 and Table 1): convolution, batch norm, ReLU and max pooling.

Every such unit is a block. Table 1's counts are hit to the last digit with one input channel, a first convolution of
5x5 (LargeT: 7x7) and batch norms without scale; these networks have the scale, and three channels as others do.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ttl_deploy.errors import WeightsError
from ttl_deploy.zoo.backbone import BACKBONES, Backbone, Unit, mark_block_ends
from ttl_deploy.zoo.kaiming import kaiming


class Cbr(Backbone):
    """One of the family.

    Args:
        name: Name in the zoo.
        widths: Output channels of each unit.
        kernel: Side of the convolutions' kernels.
        first_kernel: That of the first one.
    """

    first_weight = "cbr1.conv.weight"

    def __init__(self, name: str, widths: tuple[int, ...], kernel: int, first_kernel: int) -> None:
        self.name = name
        self._widths = widths
        self._kernels = (first_kernel, *(kernel,) * (len(widths) - 1))
        self.units = mark_block_ends([Unit(f"cbr{i}", i, f"cbr{i}.") for i in range(1, len(widths) + 1)])

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """See `Backbone.build`."""
        layers = zip(itertools.pairwise((channels, *self._widths)), self._kernels, strict=True)
        return {
            unit.name: _cbr(before, after, kernel)
            for unit, ((before, after), kernel) in zip(self.units, layers, strict=True)
        }

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """See `Backbone.slim`."""
        layers: Any = original
        out: int = layers.conv.out_channels // factor
        return _cbr(channels, out, layers.conv.kernel_size[0]), out

    def pretrained(self) -> Mapping[str, Tensor]:
        """Raises `WeightsError`: nobody has published any."""
        raise WeightsError(
            f"ImageNet weights of {self.name} were never published",
            fix="pass --weights FILE, --weights RUN to start from an earlier run, or --weights random",
        )


def _cbr(before: int, after: int, kernel: int) -> nn.Module:
    parts = OrderedDict(
        conv=nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False),
        bn=nn.BatchNorm2d(after),
        relu=nn.ReLU(inplace=True),
        pool=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )
    return kaiming(nn.Sequential(parts))


for _name, _widths, _kernel, _first in (
    ("cbr_large_t", (32, 64, 128, 256, 512), 7, 7),
    ("cbr_large_w", (64, 128, 256, 512), 7, 5),
    ("cbr_small", (32, 64, 128, 256), 7, 5),
    ("cbr_tiny", (32, 64, 128, 256), 5, 5),
):
    BACKBONES.register(_name, Cbr(_name, _widths, _kernel, _first))
