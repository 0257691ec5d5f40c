"""ConvNeXt-T (Liu 2022) as torchvision builds it: the stem and every block is a unit, 18 blocks in 4 stages.

What halves the resolution between two stages is a unit too and no cut: it only serves the stage above. The last norm
follows any cut. torchvision pools before it; here it norms every position, so that heads which do not pool read normed
features too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torchvision.models.convnext import CNBlock, LayerNorm2d

from ttl_deploy.zoo.backbone import BACKBONES, Unit, mark_block_ends
from ttl_deploy.zoo.torchvision_network import TorchvisionBackbone

_EPSILON = 1e-6
_LAYER_SCALE = 1e-6


class LastNorm(LayerNorm2d):  # type: ignore[misc]
    """(N, C, H, W) to the same, each position normed; in the usual order of memory.

    Otherwise pooling, once exported, would gather from what is permuted.
    """

    def forward(self, features: Tensor) -> Tensor:
        """The normed features."""
        normed: Tensor = super().forward(features)
        return normed.contiguous()


class ConvNeXt(TorchvisionBackbone):
    """One of the family.

    Args:
        name: torchvision's name.
        weights: Its weight enum's member.
        depths: Blocks per stage.
    """

    first_weight = "features.0.0.weight"
    # A number alone is a cut's index.
    container = ""

    def __init__(self, name: str, weights: str, depths: tuple[int, ...]) -> None:
        super().__init__(name, weights)
        units = [Unit("stem", 0, "features.0.")]
        for stage, depth in enumerate(depths, start=1):
            between, within = f"features.{2 * stage - 2}", f"features.{2 * stage - 1}"
            units += [Unit(between, stage, f"{between}.", cut=False)] if stage > 1 else []
            units += [Unit(f"{within}.{i}", stage, f"{within}.{i}.") for i in range(depth)]
        self.units = mark_block_ends(units)
        self.tail = Unit("norm", len(depths), "classifier.0.", cut=False)

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """See `Backbone.build`."""
        network = self.network(channels)
        network.classifier[0].__class__ = LastNorm
        return {unit.name: network.get_submodule(unit.prefix.removesuffix(".")) for unit in self.all_units}

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """See `Backbone.slim`; a 1x1 convolution precedes a block within a stage whose input is wider."""
        layers: Any = original
        if unit == self.tail:
            return LastNorm(channels, eps=_EPSILON), channels
        if not isinstance(original, CNBlock):
            out = layers[1].out_channels // factor
            return _initialised(_to_width(channels, out, stride=2)), out
        out = len(layers.layer_scale) // factor
        block = CNBlock(out, _LAYER_SCALE, layers.stochastic_depth.p)
        if channels == out:
            return _initialised(block), out
        return _initialised(nn.Sequential(OrderedDict(down=_to_width(channels, out), block=block))), out

    def finish(self, top: Unit) -> Unit | None:
        """The last norm."""
        return self.tail


def _to_width(channels: int, out: int, stride: int = 1) -> nn.Module:
    """As between two stages, where the stride is 2."""
    return nn.Sequential(LayerNorm2d(channels, eps=_EPSILON), nn.Conv2d(channels, out, stride, stride=stride))


def _initialised(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return module


BACKBONES.register("convnext_tiny", ConvNeXt("convnext_tiny", "ConvNeXt_Tiny_Weights.IMAGENET1K_V1", (3, 3, 9, 3)))
