"""PENet's classifier (Huang 2020), the baseline of the paper's pulmonary embolism rows: a stem and 16 residual blocks.

A 3-D ResNeXt-50 with group norms of 16 channels a group, leaky ReLUs, squeeze-and-excitation and, in training,
stochastic depth. Parameters are named as in marshuang80/penet. There a volume of one channel is repeated three times;
here the first convolution is summed over its channels, which computes the same.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ttl_deploy.zoo.backbone import BACKBONES, Backbone, Unit, mark_block_ends
from ttl_deploy.zoo.fetch import refuse_fetching

STEM = 64
GROUPS = 32
EXPANSION = 2
WIDTHS = (128, 256, 512, 1024)
DEPTHS = (3, 4, 6, 3)
NORM_CHANNELS = 16
"""Channels of one group of a norm."""

REDUCTION = 16
"""Of squeeze-and-excitation."""

LAST_SURVIVAL = 0.5
"""How often the last block's convolutions run in training; the first one's always do."""


class SqueezeExcite(nn.Module):
    """Scales every channel by what the channels' means say (Hu 2018); the linear layers have biases.

    Args:
        channels: Of its input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = channels // REDUCTION
        self.squeeze = nn.AdaptiveAvgPool3d(1)
        self.excite = nn.Sequential(
            nn.Linear(channels, squeezed), nn.LeakyReLU(inplace=True), nn.Linear(squeezed, channels), nn.Sigmoid()
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape."""
        gate: Tensor = self.excite(self.squeeze(features).flatten(1))
        return features * gate[:, :, None, None, None]


class Block(nn.Module):
    """1x1x1, grouped 3x3x3 and 1x1x1 convolutions, squeeze-and-excitation, and a skip.

    (N, C, D, H, W) to (N, 2 width, D/s, H/s, W/s). In training a block is left out, skip and all but its projection,
    with probability 1 - survival for a whole batch (Huang 2016, without rescaling, as PENet's authors do).

    Args:
        channels: Of its input.
        width: Between the outer convolutions.
        stride: Of the middle one and of the skip, s.
        survival: Probability that the convolutions run in training.
    """

    def __init__(self, channels: int, width: int, stride: int, survival: float) -> None:
        super().__init__()
        out = width * EXPANSION
        self.stride = stride
        self.survival = survival
        self.down_sample = None
        if stride != 1 or channels != out:
            self.down_sample = nn.Sequential(nn.Conv3d(channels, out, 1, stride, bias=False), _norm(out))
        self.conv1 = nn.Conv3d(channels, width, 1, bias=False)
        self.norm1 = _norm(width)
        self.relu1 = nn.LeakyReLU(inplace=True)
        self.conv2 = nn.Conv3d(width, width, 3, stride, padding=1, groups=GROUPS, bias=False)
        self.norm2 = _norm(width)
        self.relu2 = nn.LeakyReLU(inplace=True)
        self.conv3 = nn.Conv3d(width, out, 1, bias=False)
        self.norm3 = _norm(out)
        self.relu3 = nn.LeakyReLU(inplace=True)
        self.se_block = SqueezeExcite(out)
        _initialise(self)
        # A block begins as its skip.
        nn.init.zeros_(self.norm3.weight)

    def forward(self, features: Tensor) -> Tensor:
        """The block's output."""
        skip: Tensor = features if self.down_sample is None else self.down_sample(features)
        if self.training and torch.rand(()).item() > self.survival:
            return skip
        features = self.relu1(self.norm1(self.conv1(features)))
        features = self.relu2(self.norm2(self.conv2(features)))
        result: Tensor = self.relu3(self.se_block(self.norm3(self.conv3(features))) + skip)
        return result


class PENet(Backbone):
    """The classifier of `penet`'s repository, model depth 50."""

    name = "penet"
    first_weight = "in_conv.0.weight"
    dims = 3
    input_size = (32, 208, 208)

    def __init__(self) -> None:
        names = [
            (stage, f"encoders.{stage}.penet_blocks.{i}") for stage, depth in enumerate(DEPTHS) for i in range(depth)
        ]
        blocks = [Unit(name, stage + 1, f"{name}.") for stage, name in names]
        self.units = mark_block_ends([Unit("stem", 0, ""), *blocks])

    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """See `Backbone.build`."""
        modules: dict[str, nn.Module] = {"stem": _stem(channels)}
        width_below, blocks = STEM, self.units[1:]
        for index, unit in enumerate(blocks):
            width = WIDTHS[unit.block - 1]
            stride = 2 if unit.block > 1 and unit.name.endswith(".0") else 1
            survival = 1 - index / len(blocks) * (1 - LAST_SURVIVAL)
            modules[unit.name] = Block(width_below, width, stride, survival)
            width_below = width * EXPANSION
        return modules

    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """See `Backbone.slim`; the number of convolutions' groups stays."""
        assert isinstance(original, Block)
        width = original.conv1.out_channels // factor
        return Block(channels, width, original.stride, original.survival), width * EXPANSION

    def pretrained(self) -> Mapping[str, Tensor]:
        """See `Backbone.pretrained`.

        Raises:
            WeightsError: Always; its authors' file lies where no program can fetch it.
        """
        return refuse_fetching(self.name, "github.com/marshuang80/penet")

    def upgrade(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Renames `xnet_blocks`, as in the authors' Kinetics file."""
        return {re.sub(r"\bxnet_blocks\b", "penet_blocks", key): value for key, value in state.items()}


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // NORM_CHANNELS, channels)


def _stem(channels: int) -> nn.Module:
    convolution = nn.Conv3d(channels, STEM, 7, stride=(1, 2, 2), padding=3, bias=False)
    in_conv = nn.Sequential(_initialise(convolution), _norm(STEM), nn.LeakyReLU(inplace=True))
    return nn.Sequential(OrderedDict(in_conv=in_conv, max_pool=nn.MaxPool3d(3, stride=2, padding=1)))


def _initialise(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    return module


BACKBONES.register("penet", PENet())
