"""One forward pass, operator by operator: which parameters it read, and how much memory its tensors need at once.

The pass runs on PyTorch's meta device, so shapes and memory are real and nothing is computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ttl_deploy.complexity.meta import MetaMode


@dataclass(frozen=True)
class Trace:
    """What one forward pass did.

    Attributes:
        read: Names of the parameters that some operator read.
        activation_peak: Bytes of the tensors that are alive at once, at the worst moment.
    """

    read: frozenset[str]
    activation_peak: int


def trace(model: nn.Module, shape: Sequence[int]) -> Trace:
    """Runs a model once and watches its operators.

    The rule of `activation_peak`: operators run in the model's own order, none fused with another. A tensor lives
    from the operator that writes it to the last one that reads it, the input image from the start, the result to
    the end; an operator's inputs and outputs are alive together. Views and in-place results share the memory of
    what they are made from. Tensors that nobody reads (max pooling's positions) and an operator's own workspace are
    not counted, nor are parameters and buffers. Every tensor has the precision the model has.

    Args:
        model: On the meta device, in evaluation mode.
        shape: Shape of one input without the batch, for example (3, 224, 224).
    """
    image = torch.empty((1, *shape), device="meta")
    recorder = _Recorder()
    with torch.no_grad(), recorder:
        result = model(image)
    weights = {_memory(tensor) for tensor in itertools.chain(model.parameters(), model.buffers())}
    touched = {memory for step in recorder.steps for memory in step.read}
    read = {name for name, tensor in model.named_parameters(remove_duplicate=False) if _memory(tensor) in touched}
    ends = [_memory(tensor) for tensor in _tensors(result)]
    return Trace(frozenset(read), _peak(recorder, _memory(image), ends, weights))


@dataclass(frozen=True)
class _Step:
    """One operator: the memories of its inputs and of its outputs."""

    read: tuple[int, ...]
    written: tuple[int, ...]


class _Recorder(MetaMode):  # type: ignore[no-untyped-call]
    """Keeps every operator's memories; holds its tensors, so that no memory's identity is given out twice."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[_Step] = []
        self.sizes: dict[int, int] = {}
        self._held: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        inputs, outputs = list(_tensors((args, kwargs or {}))), list(_tensors(result))
        self._held += [*inputs, *outputs]
        self.sizes.update({_memory(t): t.untyped_storage().nbytes() for t in (*inputs, *outputs)})
        self.steps.append(_Step(tuple(map(_memory, inputs)), tuple(map(_memory, outputs))))
        return result


def _peak(recorder: _Recorder, image: int, results: Iterable[int], weights: set[int]) -> int:
    born, last = {image: 0}, {}
    for position, step in enumerate(recorder.steps):
        for memory in step.written:
            born.setdefault(memory, position)
        last.update(dict.fromkeys(step.read, position))
    last.update(dict.fromkeys(results, len(recorder.steps) - 1))
    change = [0] * (len(recorder.steps) + 1)
    for memory in (born.keys() & last.keys()) - weights:
        change[born[memory]] += recorder.sizes[memory]
        change[last[memory] + 1] -= recorder.sizes[memory]
    return max(itertools.accumulate(change), default=0)


def _memory(tensor: Tensor) -> int:
    identity: int = tensor.untyped_storage()._cdata
    return identity


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
