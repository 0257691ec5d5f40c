"""Everything a report says of a network before it runs: its cost, unit by unit, and whether two counters agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ttl_deploy.complexity.cost import Complexity, count
from ttl_deploy.complexity.counters import Call, CounterCheck, check_counters, count_calls
from ttl_deploy.transfer.model import HEAD, TransferModel, unit_key
from ttl_deploy.zoo.backbone import ghost


@dataclass(frozen=True)
class UnitCost:
    """One unit of a network.

    Attributes:
        name: The network's own name of it; `head` for the head.
        block: Number of its block, 0 for the stem; None where the network has no blocks, and for the head.
        shape: Shape of its output without the batch.
        parameters: Learnable numbers in it.
        macs: Multiply-adds in it, by ptflops.
    """

    name: str
    block: int | None
    shape: tuple[int, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class ModelCost:
    """What one forward pass of a network costs.

    Attributes:
        total: The whole network.
        units: Its parts in the order in which they run.
        counters: ptflops beside PyTorch's own counter.
    """

    total: Complexity
    units: tuple[UnitCost, ...]
    counters: CounterCheck


def describe_model(model: nn.Module, shape: Sequence[int]) -> ModelCost:
    """Counts a model and its parts with both counters.

    The parts of a `TransferModel` are its units and its head, those of another module the modules that its own
    forward calls. Operators between the parts are in the total only.

    Args:
        model: Left as it is.
        shape: Shape of one input without the batch, for example (3, 224, 224).
    """
    calls = count_calls(ghost(model), shape)
    units = tuple(_unit(model, call) for call in calls if call.parent == 0)
    return ModelCost(count(model, shape), units, check_counters(calls))


def _unit(model: nn.Module, call: Call) -> UnitCost:
    chain = {f"units.{unit_key(unit)}": unit for unit in model.chain} if isinstance(model, TransferModel) else {}
    parameters = sum(p.numel() for p in model.get_submodule(call.name).parameters())
    unit = chain.get(call.name)
    name = unit.name if unit else call.name
    return UnitCost(name, unit.block if unit else None, call.shape, parameters, call.ptflops)


def features_only(cost: ModelCost) -> int:
    """Parameters without the head."""
    return sum(unit.parameters for unit in cost.units if unit.name != HEAD)
