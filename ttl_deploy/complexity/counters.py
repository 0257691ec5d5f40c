"""Two counters of multiply-adds, ptflops and PyTorch's own, layer by layer, and why they part where they do.

ptflops is the paper's tool. `torch.utils.flop_counter` counts convolutions and matrix products only, two FLOP for
each multiply-add, so its MACs here are its FLOP divided by two.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ptflops import get_model_complexity_info
from ptflops.pytorch_ops import MODULES_MAPPING
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ttl_deploy.complexity.meta import MetaMode, told_in_one_line

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
        biased: Whether it is a layer with a bias.
        ptflops: MACs by ptflops.
        flop_counter: MACs by PyTorch's counter.
        replay: Runs the module once more on what it was given.
    """

    name: str
    kind: str
    parent: int | None
    shape: tuple[int, ...]
    inputs: int
    biased: bool
    ptflops: int
    flop_counter: int
    replay: nn.Module


def ptflops_macs(model: nn.Module, shape: Sequence[int], *, functions: bool = True) -> int:
    """Counts a model with ptflops, and the layers that ptflops overlooks as the class that they are a subclass of.

    Args:
        model: On the meta device; ptflops adds its hooks and takes them away again.
        shape: Shape of one input without the batch.
        functions: Count `torch.nn.functional` calls and tensor operators too, as ptflops does unless told otherwise.
            Without, only layers count, as in the ptflops of 2022.

    Raises:
        BadInputError: The forward pass fails.
    """
    guarded = _Guarded(model)
    with told_in_one_line(shape), _overlooked(model) as overlooked:
        macs = _by_ptflops(guarded, tuple(shape), functions=functions)
        if macs is None:
            raise guarded.error or RuntimeError("ptflops gave no count")
        return macs + sum(int(module.__flops__) for module in overlooked)


class _Guarded(nn.Module):
    """Runs a model and keeps the error of its forward pass, which ptflops prints and then loses."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.error: Exception | None = None

    def forward(self, image: Tensor) -> Any:
        try:
            return self.model(image)
        except Exception as error:
            self.error = error
            raise


def _by_ptflops(model: nn.Module, shape: tuple[int, ...], *, functions: bool) -> int | None:
    silent = io.StringIO()
    with warnings.catch_warnings(), torch.no_grad(), MetaMode(), contextlib.redirect_stdout(silent):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(silent):
            macs, _parameters = get_model_complexity_info(
                model,
                shape,
                as_strings=False,
                print_per_layer_stat=False,
                backend="pytorch",
                verbose=False,
                backend_specific_config={"count_functional": functions},
            )
    return None if macs is None else int(macs)


@contextlib.contextmanager
def _overlooked(model: nn.Module) -> Iterator[list[Any]]:
    """Counts, in `__flops__`, the modules that ptflops takes for nothing because they are subclasses of its layers.

    ptflops looks a layer up by its exact class, so that timm's BatchNormAct2d, a BatchNorm2d, is none.
    """
    found: list[Any] = []
    handles = []
    for module in model.modules():
        known = next((kind for kind in type(module).__mro__[1:] if kind in MODULES_MAPPING), None)
        if type(module) not in MODULES_MAPPING and known is not None:
            module.__flops__ = 0  # type: ignore[assignment]
            handles.append(module.register_forward_hook(MODULES_MAPPING[known]))
            found.append(module)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for module in found:
            del module.__flops__


def count_calls(model: nn.Module, shape: Sequence[int]) -> list[Call]:
    """Runs a model once and counts each of its modules, with ptflops by running it again on what it was given.

    Args:
        model: On the meta device, in evaluation mode.
        shape: Shape of one input without the batch.

    Returns:
        The calls in the order in which they began; the whole model is the first.

    Raises:
        BadInputError: The forward pass fails.
    """
    with told_in_one_line(shape), torch.no_grad(), MetaMode(), FlopCounterMode(display=False) as counter:
        recorded = _record(model, torch.empty((1, *shape), device="meta"), counter)
    return [_count(call) for call in recorded]


def check_counters(calls: Sequence[Call]) -> CounterCheck:
    """Compares the two counters.

    Args:
        calls: What `count_calls` gave.
    """
    inside: dict[int | None, list[Call]] = {}
    for call in calls:
        inside.setdefault(call.parent, []).append(call)
    kinds: dict[str, list[_Own]] = {}
    for position, call in enumerate(calls):
        own = _Own(call, tuple(inside.get(position, ())))
        if own.ptflops != own.flop_counter:
            kinds.setdefault(call.kind, []).append(own)
    gaps = [_gap(kind, group) for kind, group in kinds.items()]
    gaps.sort(key=lambda gap: (-abs(gap.ptflops - gap.flop_counter), gap.kind))
    return CounterCheck(calls[0].ptflops, calls[0].flop_counter, tuple(gaps))


@dataclass
class _Recorded:
    """A call as it happened; `flops` is the counter's total when it began, and when it is over what it added."""

    name: str
    module: nn.Module
    parent: int | None
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    flops: int
    shape: tuple[int, ...] = ()


class _Replay(nn.Module):
    """Runs a module on the arguments of an earlier call, whatever input the counter makes up."""

    def __init__(self, call: _Recorded) -> None:
        super().__init__()
        self.module = call.module
        self._call = call

    def forward(self, _made_up: Tensor) -> Any:
        return self.module(*self._call.arguments, **self._call.keywords)


@dataclass(frozen=True)
class _Own:
    """What a call does besides running the modules inside it."""

    call: Call
    inside: tuple[Call, ...]

    @property
    def ptflops(self) -> int:
        return self.call.ptflops - sum(child.ptflops for child in self.inside)

    @property
    def flop_counter(self) -> int:
        return self.call.flop_counter - sum(child.flop_counter for child in self.inside)

    def as_layer(self) -> int:
        """MACs that ptflops takes from its table of layers rather than from its table of functions."""
        whole, *parts = (ptflops_macs(call.replay, (1,), functions=False) for call in (self.call, *self.inside))
        return whole - sum(parts)


def _record(model: nn.Module, image: Tensor, counter: FlopCounterMode) -> list[_Recorded]:
    """Runs a model and keeps every call of a module; the hooks are gone afterwards."""
    names = {module: name for name, module in model.named_modules()}
    calls: list[_Recorded] = []
    running: list[int] = []

    def begin(module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        parent = running[-1] if running else None
        calls.append(_Recorded(names[module], module, parent, arguments, keywords, counter.get_total_flops()))
        running.append(len(calls) - 1)

    def end(_module: nn.Module, _arguments: Any, result: Any) -> None:
        call = calls[running.pop()]
        call.shape = tuple(result.shape[1:]) if isinstance(result, Tensor) else ()
        call.flops = counter.get_total_flops() - call.flops

    handles = []
    try:
        for module in names:
            handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
            handles.append(module.register_forward_hook(end))
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _count(call: _Recorded) -> Call:
    replay = _Replay(call)
    tensors = [value for value in (*call.arguments, *call.keywords.values()) if isinstance(value, Tensor)]
    return Call(
        name=call.name,
        kind=type(call.module).__name__,
        parent=call.parent,
        shape=call.shape,
        inputs=sum(tensor.numel() for tensor in tensors),
        biased=getattr(call.module, "bias", None) is not None,
        ptflops=ptflops_macs(replay, (1,)),
        flop_counter=call.flops // 2,
        replay=replay,
    )


def _gap(kind: str, owns: Sequence[_Own]) -> KindGap:
    ptflops, other = sum(own.ptflops for own in owns), sum(own.flop_counter for own in owns)
    return KindGap(kind, tuple(own.call.name for own in owns), ptflops, other, _why(owns, ptflops, other))


def _why(owns: Sequence[_Own], ptflops: int, other: int) -> str:
    if ptflops < other:
        return "PyTorch's counter has a rule for an operator that is run here, ptflops has none or counts less"
    if other:
        outputs = sum(math.prod(own.call.shape) for own in owns)
        if all(own.call.biased for own in owns) and ptflops - other == outputs:
            return "ptflops adds the bias, 1 per output element"
        return f"ptflops adds {(ptflops - other) / outputs:.2g} per output element"
    inputs = sum(own.call.inputs for own in owns)
    layer = sum(own.as_layer() for own in owns)
    parts = [
        f"{count / inputs:.2g} {where}"
        for count, where in ((layer, "as a layer"), (ptflops - layer, "as the function it calls"))
        if count
    ]
    return f"only ptflops counts it, per input element {' and '.join(parts)}"
