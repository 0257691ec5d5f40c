"""Counting parameters and MACs of a model, and of a backbone cut at each of its cut points.

Counting runs on PyTorch's meta device: no weight is touched and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from ttl_deploy.complexity.counters import ptflops_macs
from ttl_deploy.complexity.cut_table import CutCost
from ttl_deploy.complexity.meta import told_in_one_line
from ttl_deploy.complexity.trace import trace
from ttl_deploy.spec import InputSpec
from ttl_deploy.zoo import Backbone
from ttl_deploy.zoo.backbone import ghost, layout, trace_shapes


@dataclass(frozen=True)
class Complexity:
    """Cost of one forward pass.

    Attributes:
        parameters: Learnable numbers held (buffers such as batch-norm statistics not counted).
        trainable: Those of them that training changes.
        macs: Multiply-adds for one image, those of functions and operators included.
        layer_macs: Those of layers alone, as the papers counted: with the ptflops of 2022, which knew no functions.
        dead: Those of the parameters that are held but that no operator of a forward pass reads.
        activation_peak: Bytes of the tensors alive at once in one inference (rule: `ttl_deploy.complexity.trace`).
        weight_bytes: Size of the weights by precision: fp32, fp16, bf16 and int8 (rule: `weight_bytes`).
    """

    parameters: int
    trainable: int
    macs: int
    layer_macs: int
    dead: int
    activation_peak: int
    weight_bytes: Mapping[str, int] = field(hash=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def count(model: nn.Module, shape: Sequence[int]) -> Complexity:
    """Counts a model.

    Args:
        model: Left as it is.
        shape: Shape of one input without the batch, for example (3, 224, 224).

    Raises:
        BadInputError: A forward pass on such an input fails.
    """
    parameters = list(model.parameters())
    counted = ghost(model)
    with told_in_one_line(shape):
        seen = trace(counted, shape)
    return Complexity(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        macs=ptflops_macs(counted, shape),
        layer_macs=ptflops_macs(counted, shape, functions=False),
        dead=sum(p.numel() for p in _unread(model, seen.read)),
        activation_peak=seen.activation_peak,
        weight_bytes=weight_bytes(model),
    )


def weight_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of a model's parameters and floating-point buffers (batch-norm statistics) in each precision.

    fp32, fp16 and bf16: everything in that precision. int8: convolution kernels and matrices with one byte a
    number and one 4-byte scale per output channel, everything else in fp32. Integer buffers are not counted.
    """
    tensors = [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]
    numbers = sum(tensor.numel() for tensor in tensors)
    quantised = [tensor for tensor in model.parameters() if tensor.dim() >= 2]
    rest = numbers - sum(tensor.numel() for tensor in quantised)
    int8 = sum(tensor.numel() + 4 * tensor.shape[0] for tensor in quantised) + 4 * rest
    return {"fp32": 4 * numbers, "fp16": 2 * numbers, "bf16": 2 * numbers, "int8": int8}


def cut_costs(backbone: Backbone, given: InputSpec) -> list[CutCost]:
    """Costs of every cut of a backbone, bottom first.

    Args:
        backbone: The network.
        given: What it takes.

    Raises:
        BadInputError: The image or volume is too small for the network.
    """
    modules = layout(backbone.at(given.size), given.channels)
    chain = [modules[unit.name] for unit in backbone.units]
    shapes = trace_shapes(chain, given.shape)
    inputs = [given.shape, *shapes[:-1]]
    parameters = _running([sum(p.numel() for p in module.parameters()) for module in chain])
    macs = _running([ptflops_macs(ghost(module), shape) for module, shape in zip(chain, inputs, strict=True)])
    return [
        CutCost(point, backbone.channels_first(shapes[point.index]), parameters[point.index], macs[point.index])
        for point in backbone.cut_points
    ]


def _unread(model: nn.Module, read: frozenset[str]) -> list[Tensor]:
    """Parameters that were not read under any of their names: a tied one has several."""
    names: dict[Tensor, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, set()).add(name)
    return [parameter for parameter, own in names.items() if not own & read]


def _running(values: Sequence[int]) -> list[int]:
    total, sums = 0, []
    for value in values:
        total += value
        sums.append(total)
    return sums
