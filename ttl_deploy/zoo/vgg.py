"""VGG-11 and -16 with batch norm and VGG-19 (Simonyan 2015) as torchvision builds them: every convolution is a unit.

A unit has the convolution's name in the network and goes to the activation, with the pooling that ends a block. The
three linear layers of 4096 are the classifier's, and left out: a head stands in their place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import nn
from torchvision.models import vgg as torchvision_vgg

from ttl_deploy.zoo.backbone import BACKBONES, Unit, mark_block_ends
from ttl_deploy.zoo.kaiming import kaiming
from ttl_deploy.zoo.torchvision_network import TorchvisionBackbone, widen_input


class Vgg(TorchvisionBackbone):
    """One of the family.

    Args:
        name: torchvision's name.
        weights: Its weight enum's member.
        layers: Key of torchvision's table of layers.
        norm: Whether batch norms follow the convolutions.
    """

    first_weight = "features.0.weight"
    # A number alone is a cut's index.
    container = ""

    def __init__(self, name: str, weights: str, layers: str, *, norm: bool) -> None:
        super().__init__(name, weights)
        self._table = torchvision_vgg.cfgs[layers]
        self._norm = norm
        self._parts = list(_parts(self._table, 3 if norm else 2))
        self.units = mark_block_ends(
            [Unit(f"features.{first}", block, "features.") for block, first, _after in self._parts]
        )

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """See `Backbone.build`."""
        features = torchvision_vgg.make_layers(self._table, batch_norm=self._norm)
        if channels != 3:
            widen_input(features, "0", channels)
        kaiming(features)
        return {
            f"features.{first}": nn.Sequential(OrderedDict((str(i), features[i]) for i in range(first, after)))
            for _block, first, after in self._parts
        }

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """See `Backbone.slim`."""
        out = next(layer.out_channels for layer in original.children() if isinstance(layer, nn.Conv2d)) // factor
        slim = OrderedDict((name, _narrow(layer, channels, out)) for name, layer in original.named_children())
        return kaiming(nn.Sequential(slim)), out


def _parts(table: list[Any], layers: int) -> Iterator[tuple[int, int, int]]:
    """(block, index of the convolution, index after the unit's last layer) of each unit.

    Args:
        table: Widths of the convolutions, and `M` for a pooling.
        layers: Of a convolution with what follows it.
    """
    block, first = 1, 0
    for width, following in zip(table, [*table[1:], None], strict=True):
        if width == "M":
            block, first = block + 1, first + 1
        else:
            yield block, first, first + layers + (following == "M")
            first += layers


def _narrow(layer: nn.Module, channels: int, out: int) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(channels, out, kernel_size=3, padding=1)
    return nn.BatchNorm2d(out) if isinstance(layer, nn.BatchNorm2d) else layer


for _name, _enum, _layers, _batch_norm in (
    ("vgg11_bn", "VGG11_BN_Weights", "A", True),
    ("vgg16_bn", "VGG16_BN_Weights", "D", True),
    ("vgg19", "VGG19_Weights", "E", False),
):
    BACKBONES.register(_name, Vgg(_name, f"{_enum}.IMAGENET1K_V1", _layers, norm=_batch_norm))
