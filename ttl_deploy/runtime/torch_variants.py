"""The ways PyTorch can run a network: eager, compiled, bfloat16 channels-last, and as a replayed CUDA graph.

A variant turns a module into a function from images on the device to logits there. Nothing is imported until one is
asked for, and what speaks CUDA takes `torch.cuda` as an argument, so that its calls can be checked without a GPU.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ttl_deploy.errors import BadInputError, MissingDependencyError, near
from ttl_deploy.runtime.base import Stages

if TYPE_CHECKING:
    from torch import Tensor, nn

    Forward = Callable[[Tensor], Tensor]

VARIANTS = ("eager", "compile", "cuda-graph", "bf16")
"""What `--torch` calls them."""

_CAPTURE_WARMUP = 3
"""Runs before a capture: cuDNN chooses its algorithms and the allocator takes its memory, neither of which may happen
inside one (PyTorch's notes on CUDA graphs ask for a few on a side stream)."""


def runtime_name(variant: str) -> str:
    """What a measurement calls the engine: `pytorch`, or `pytorch-` and the variant.

    Raises:
        BadInputError: There is no such variant.
    """
    if variant not in VARIANTS:
        raise BadInputError(f"unknown PyTorch variant {variant!r}", fix=near(variant, VARIANTS))
    return "pytorch" if variant == "eager" else f"pytorch-{variant}"


def precision_of(variant: str) -> str:
    """The precision a variant computes in."""
    return "bf16" if variant == "bf16" else "fp32"


def check(variant: str, device: str) -> None:
    """Whether a variant can run on a device here, told without importing torch.

    Raises:
        BadInputError: There is no such variant, or the device has none.
        MissingDependencyError: The compiler it needs is not here.
    """
    runtime_name(variant)
    if variant == "cuda-graph" and device != "cuda":
        raise BadInputError(
            f"a CUDA graph needs an NVIDIA GPU, not device {device}", fix="pass --device cuda, or drop cuda-graph"
        )
    if variant == "compile" and device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        raise MissingDependencyError(
            "torch.compile needs a C++ compiler for a CPU and finds none", fix="install g++, or drop compile"
        )
    if variant == "compile" and device == "cuda" and importlib.util.find_spec("triton") is None:
        raise MissingDependencyError("torch.compile needs triton for a GPU", fix="install triton, or drop compile")


def prepare(variant: str, model: nn.Module, device: str) -> Forward:
    """Puts a module on a device in the form the variant runs.

    Args:
        variant: One of `VARIANTS`.
        model: In evaluation mode; it is moved, and for bf16 converted.
        device: `cpu` or `cuda`.

    Raises:
        BadInputError: The device has no such variant.
        MissingDependencyError: The variant or the device cannot be used here.
    """
    import torch

    check(variant, device)
    if device == "cuda":
        if not torch.cuda.is_available():
            raise MissingDependencyError("PyTorch finds no CUDA device here", fix="pass --device cpu")
        # cuDNN would otherwise multiply fp32 convolutions in TF32, with ten bits of mantissa, and call it fp32.
        torch.backends.cudnn.allow_tf32 = False
    model = model.to(device)
    if variant == "compile":
        return torch.compile(model)
    if variant == "bf16":
        return in_bf16(model)
    if variant == "cuda-graph":
        return Graphed(torch.cuda, model)
    return model


def in_bf16(model: nn.Module) -> Forward:
    """The module in bfloat16 with channels last, and its input converted on the way in."""
    import torch

    volumes = any(parameter.dim() == 5 for parameter in model.parameters())
    layout = torch.channels_last_3d if volumes else torch.channels_last
    converted: Any = model.to(torch.bfloat16).to(memory_format=layout)

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = converted(images.to(torch.bfloat16, memory_format=layout))
        return logits

    return forward


class Graphed:
    """A module whose run is captured once per batch shape as a CUDA graph and then replayed.

    Args:
        cuda: `torch.cuda`.
        model: On the GPU.
    """

    def __init__(self, cuda: Any, model: Callable[[Tensor], Tensor]) -> None:
        self._cuda, self._model = cuda, model
        self._graph: Any = None
        self._input: Any = None
        self._output: Any = None

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of a batch; they are overwritten by the next call."""
        if self._input is None or self._input.shape != images.shape:
            self._capture(images)
        self._input.copy_(images)
        self._graph.replay()
        output: Tensor = self._output
        return output

    def _capture(self, images: Tensor) -> None:
        self._input = images.clone()
        side = self._cuda.Stream()
        side.wait_stream(self._cuda.current_stream())
        with self._cuda.stream(side):
            for _ in range(_CAPTURE_WARMUP):
                self._model(self._input)
        self._cuda.current_stream().wait_stream(side)
        self._graph = self._cuda.CUDAGraph()
        with self._cuda.graph(self._graph):
            self._output = self._model(self._input)


class StageClock:
    """Four CUDA events around the three stages of a run: the batch's copy, the network, the logits' copy.

    Args:
        cuda: `torch.cuda`.
    """

    _MARKS = 4

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._events = [cuda.Event(enable_timing=True) for _ in range(self._MARKS)]
        self._next = 0

    def mark(self) -> None:
        """Records the next of the four events on the current stream."""
        self._events[self._next].record(self._cuda.current_stream())
        self._next = (self._next + 1) % self._MARKS

    def read(self) -> Stages:
        """The stages of the last run; waits for the stream, because an event that has not happened has no time."""
        self._cuda.current_stream().synchronize()
        spans = [a.elapsed_time(b) for a, b in zip(self._events[:-1], self._events[1:], strict=True)]
        return Stages(*spans)
