"""Two counters of multiply-adds, ptflops and PyTorch's own, layer by layer, and why they part where they do.

ptflops is the paper's tool. `torch.utils.flop_counter` counts convolutions and matrix products only, two FLOP for
each multiply-add, so its MACs here are its FLOP divided by two.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from ptflops import get_model_complexity_info
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ttl_deploy.complexity.meta import MetaMode

LIMIT = 0.02
"""Relative difference of the two counters above which a report names the layers."""


@dataclass(frozen=True)
class KindGap:
    """The layers of one class whose counts differ.

    Attributes:
        kind: The layers' class. For a class with layers inside: what it does besides running them.
        layers: The layers' names.
        ptflops: MACs of all of them by ptflops.
        flop_counter: MACs of all of them by PyTorch's counter.
        why: What makes the difference, in words and numbers.
    """

    kind: str
    layers: tuple[str, ...]
    ptflops: int
    flop_counter: int
    why: str


@dataclass(frozen=True)
class CounterCheck:
    """Both counts of one forward pass.

    Attributes:
        ptflops: MACs by ptflops.
        flop_counter: MACs by PyTorch's counter.
        gaps: Where they differ, the largest difference first; they add up to the whole difference.
    """

    ptflops: int
    flop_counter: int
    gaps: tuple[KindGap, ...]

    @property
    def difference(self) -> float:
        """How much more ptflops counts, relative to PyTorch's counter."""
        return self.ptflops / self.flop_counter - 1 if self.flop_counter else float(self.ptflops > 0)

    @property
    def agrees(self) -> bool:
        """Whether the difference is within `LIMIT`."""
        return abs(self.difference) <= LIMIT


@dataclass(frozen=True)
class Call:
    """One module's run within a forward pass, with its counts.

    Attributes:
        name: The module's name, empty for the whole model.
        kind: The module's class.
        parent: Position of the call within which it ran; None for the whole model.
        shape: Shape of its output without the batch.
        inputs: Elements of its input tensors.
        ptflops: MACs by ptflops.
        as_layer: Those of them that ptflops takes from its table of layers rather than from its table of functions.
        flop_counter: MACs by PyTorch's counter.
    """

    name: str
    kind: str
    parent: int | None
    shape: tuple[int, ...]
    inputs: int
    ptflops: int
    as_layer: int
    flop_counter: int


def ptflops_macs(model: nn.Module, shape: Sequence[int], *, functions: bool = True) -> int:
    """Counts a model with ptflops.

    Args:
        model: On the meta device; ptflops adds its hooks and takes them away again.
        shape: Shape of one input without the batch.
        functions: Count `torch.nn.functional` calls and tensor operators too, as ptflops does unless told otherwise.
    """
    with warnings.catch_warnings(), torch.no_grad(), MetaMode():
        warnings.simplefilter("ignore")
        macs, _parameters = get_model_complexity_info(
            model,
            tuple(shape),
            as_strings=False,
            print_per_layer_stat=False,
            backend="pytorch",
            verbose=False,
            backend_specific_config={"count_functional": functions},
        )
    return int(macs)


def count_calls(model: nn.Module, shape: Sequence[int]) -> list[Call]:
    """Runs a model once and counts each of its modules by running it again on what it was given.

    Args:
        model: On the meta device, in evaluation mode.
        shape: Shape of one input without the batch.

    Returns:
        The calls in the order in which they began; the whole model is the first.
    """
    recorded: list[_Recorded] = []
    with _recording(model, recorded), torch.no_grad(), MetaMode():
        model(torch.empty((1, *shape), device="meta"))
    return [_count(call) for call in recorded]


def check_counters(calls: Sequence[Call]) -> CounterCheck:
    """Compares the two counters.

    Args:
        calls: What `count_calls` gave.
    """
    kinds: dict[str, list[Call]] = {}
    for call in _without_children(calls):
        kinds.setdefault(call.kind, []).append(call)
    gaps = [gap for gap in (_gap(kind, group) for kind, group in kinds.items()) if gap.layers]
    gaps.sort(key=lambda gap: (-abs(gap.ptflops - gap.flop_counter), gap.kind))
    return CounterCheck(calls[0].ptflops, calls[0].flop_counter, tuple(gaps))


@dataclass
class _Recorded:
    name: str
    module: nn.Module
    parent: int | None
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    shape: tuple[int, ...] = ()


class _Replay(nn.Module):
    """Runs a module on the arguments of an earlier call, whatever input the counter makes up."""

    def __init__(self, call: _Recorded) -> None:
        super().__init__()
        self.module = call.module
        self._call = call

    def forward(self, _made_up: Tensor) -> Any:
        return self.module(*self._call.arguments, **self._call.keywords)


@contextlib.contextmanager
def _recording(model: nn.Module, calls: list[_Recorded]) -> Iterator[None]:
    """Fills `calls` while the block runs the model; the hooks are gone afterwards."""
    names = {module: name for name, module in model.named_modules()}
    running: list[int] = []

    def begin(module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        calls.append(_Recorded(names[module], module, running[-1] if running else None, arguments, keywords))
        running.append(len(calls) - 1)

    def end(_module: nn.Module, _arguments: Any, result: Any) -> None:
        shape = tuple(result.shape[1:]) if isinstance(result, Tensor) else ()
        calls[running.pop()].shape = shape

    handles = []
    try:
        for module in names:
            handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
            handles.append(module.register_forward_hook(end))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _count(call: _Recorded) -> Call:
    replay = _Replay(call)
    with torch.no_grad(), MetaMode(), FlopCounterMode(display=False) as counter:
        replay(torch.empty((1, 1), device="meta"))
    tensors = [value for value in (*call.arguments, *call.keywords.values()) if isinstance(value, Tensor)]
    return Call(
        name=call.name,
        kind=type(call.module).__name__,
        parent=call.parent,
        shape=call.shape,
        inputs=sum(tensor.numel() for tensor in tensors),
        ptflops=ptflops_macs(replay, (1,)),
        as_layer=ptflops_macs(replay, (1,), functions=False),
        flop_counter=counter.get_total_flops() // 2,
    )


def _without_children(calls: Sequence[Call]) -> list[Call]:
    """The calls, each with only what it counts besides the modules inside it."""
    own = list(calls)
    for call in calls:
        if call.parent is not None:
            around = own[call.parent]
            own[call.parent] = replace(
                around,
                ptflops=around.ptflops - call.ptflops,
                as_layer=around.as_layer - call.as_layer,
                flop_counter=around.flop_counter - call.flop_counter,
            )
    return own


def _gap(kind: str, calls: Sequence[Call]) -> KindGap:
    differing = [call for call in calls if call.ptflops != call.flop_counter]
    ptflops, other = sum(call.ptflops for call in differing), sum(call.flop_counter for call in differing)
    return KindGap(kind, tuple(call.name for call in differing), ptflops, other, _why(differing, ptflops, other))


def _why(calls: Sequence[Call], ptflops: int, other: int) -> str:
    if ptflops < other:
        return "PyTorch's counter has a rule for an operator that is run here, ptflops has none"
    if other:
        each = (ptflops - other) / sum(math.prod(call.shape) for call in calls)
        return f"ptflops adds the bias, {each:.2g} per output element"
    inputs = sum(call.inputs for call in calls)
    layer = sum(call.as_layer for call in calls)
    parts = [
        f"{count / inputs:.2g} {where}"
        for count, where in ((layer, "as a layer"), (ptflops - layer, "as the function it calls"))
        if count
    ]
    return f"only ptflops counts it, per input element {' and '.join(parts)}"
