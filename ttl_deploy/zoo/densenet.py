"""DenseNet-121/201 (Huang 2017) as torchvision builds them: every dense layer and every transition is a unit.

A dense layer's unit returns its input with the new channels appended, so that a cut after it keeps exactly what
the next layer would have read. The last norm is the tail.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import densenet as torchvision_densenet

from ttl_deploy.zoo.backbone import BACKBONES, Backbone, Unit, mark_block_ends
from ttl_deploy.zoo.fetch import fetch_file

_OLD_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)$")


class DenseUnit(torchvision_densenet._DenseLayer):  # type: ignore[misc]
    """A dense layer together with the concatenation that follows it: (N, C, H, W) to (N, C + growth, H, W)."""

    def forward(self, features: Tensor) -> Tensor:
        """Appends the layer's output to its input."""
        return torch.cat([features, super().forward(features)], 1)


class DenseNet(Backbone):
    """A torchvision DenseNet.

    Args:
        name: torchvision's name (`densenet121`).
        depths: Dense layers per block.
        weights: torchvision's weight enum member.
    """

    first_weight = "features.conv0.weight"
    usual_block = 2

    def __init__(self, name: str, depths: tuple[int, ...], weights: str) -> None:
        self.name = name
        self._weights = weights
        units = [Unit("stem", 0, "features.", cut=False)]
        for block, depth in enumerate(depths, start=1):
            names = [f"denseblock{block}.denselayer{i}" for i in range(1, depth + 1)]
            names += [f"transition{block}"] if block < len(depths) else []
            units += [Unit(name, block, f"features.{name}.") for name in names]
        self.units = mark_block_ends(units)
        self.tail = Unit("norm5", len(depths), "features.", cut=False)

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """See `Backbone.build`."""
        network = models.get_model(self.name, weights=None)
        features = network.features
        if channels != 3:
            features.conv0 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            _initialise(features.conv0)
        modules: dict[str, nn.Module] = {
            "stem": nn.Sequential(OrderedDict((p, getattr(features, p)) for p in ("conv0", "norm0", "relu0", "pool0"))),
            "norm5": _tail(features.norm5),
        }
        for unit in self.units[1:]:
            module = features.get_submodule(unit.name)
            if isinstance(module, torchvision_densenet._DenseLayer):
                module.__class__ = DenseUnit
            modules[unit.name] = module
        return modules

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """See `Backbone.slim`: growth rate and transition outputs divided, the last norm as wide as what it reads."""
        if unit == self.tail:
            return _tail(nn.BatchNorm2d(channels)), channels
        if isinstance(original, DenseUnit):
            growth = original.conv2.out_channels // factor
            bottleneck = original.conv1.out_channels // original.conv2.out_channels
            layer = DenseUnit(channels, growth, bn_size=bottleneck, drop_rate=original.drop_rate)
            return _initialise(layer), channels + growth
        transition: Any = original
        out: int = transition.conv.out_channels // factor
        return _initialise(torchvision_densenet._Transition(channels, out)), out

    def pretrained(self) -> Mapping[str, Tensor]:
        """See `Backbone.pretrained`; torchvision's IMAGENET1K_V1."""
        return fetch_file(self.name, models.get_weight(self._weights).url)

    def upgrade(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Renames `denselayer1.norm.1.weight`, as in torchvision's published files, to `denselayer1.norm1.weight`."""
        return {_OLD_KEY.sub(r"\1\2", key): value for key, value in state.items()}


def _tail(norm: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict([("norm5", norm), ("relu5", nn.ReLU(inplace=True))]))


def _initialise(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return module


for _name, _depths, _enum in (
    ("densenet121", (6, 12, 24, 16), "DenseNet121_Weights"),
    ("densenet201", (6, 12, 48, 32), "DenseNet201_Weights"),
):
    BACKBONES.register(_name, DenseNet(_name, _depths, f"{_enum}.IMAGENET1K_V1"))
