"""Counting parameters and MACs of a model, and of a backbone cut at each of its cut points.

Counting runs on PyTorch's meta device: no weight is touched and nothing is computed.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ptflops import get_model_complexity_info
from torch import nn

from ttl_deploy.zoo import Backbone, CutPoint
from ttl_deploy.zoo.backbone import trace_shapes


@dataclass(frozen=True)
class Complexity:
    """Cost of one forward pass.

    Attributes:
        parameters: Learnable numbers held (buffers such as batch-norm statistics not counted).
        trainable: Those of them that training changes.
        macs: Multiply-adds for one image.
    """

    parameters: int
    trainable: int
    macs: int


@dataclass(frozen=True)
class CutCost:
    """What is kept when a backbone is cut, head not counted.

    Attributes:
        point: The cut.
        shape: Shape of the features there (channels, height, width).
        parameters: Parameters up to the cut.
        macs: Multiply-adds up to the cut, for one image.
    """

    point: CutPoint
    shape: tuple[int, ...]
    parameters: int
    macs: int


def count(model: nn.Module, shape: Sequence[int]) -> Complexity:
    """Counts a model.

    Args:
        model: Left as it is.
        shape: Shape of one input without the batch, for example (3, 224, 224).
    """
    parameters = list(model.parameters())
    return Complexity(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        macs=_macs(copy.deepcopy(model).to("meta").eval(), shape),
    )


def cut_costs(backbone: Backbone, image_size: int, channels: int = 3) -> list[CutCost]:
    """Costs of every cut of a backbone, bottom first.

    Raises:
        BadInputError: The image is too small for the network.
    """
    with torch.device("meta"):
        modules = backbone.build(channels)
    chain = [modules[unit.name] for unit in backbone.units]
    shapes = trace_shapes(chain, (channels, image_size, image_size))
    inputs = [(channels, image_size, image_size), *shapes[:-1]]
    parameters = _running([sum(p.numel() for p in module.parameters()) for module in chain])
    macs = _running([_macs(module.eval(), shape) for module, shape in zip(chain, inputs, strict=True)])
    return [
        CutCost(point, shapes[point.index], parameters[point.index], macs[point.index]) for point in backbone.cut_points
    ]


def _macs(model: nn.Module, shape: Sequence[int]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        macs, _parameters = get_model_complexity_info(
            model, tuple(shape), as_strings=False, print_per_layer_stat=False, backend="pytorch", verbose=False
        )
    return int(macs)


def _running(values: Sequence[int]) -> list[int]:
    total, sums = 0, []
    for value in values:
        total += value
        sums.append(total)
    return sums
