"""An int8 module for Torch-TensorRT: ModelOpt finds the ranges, and its quantise operator stands before every layer.

Torch-TensorRT reads int8 from `tensorrt::quantize_op`, which ModelOpt registers. On a GPU ModelOpt's own quantisers
compile a CUDA extension to compute what the engine will compute; here ranges are found on the CPU and the operator is
only traced, so that no compiler is needed. ModelOpt alone brings no ONNX Runtime; its extra `onnx` pins one that
cannot drive TensorRT 11, and is not asked for.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ttl_deploy.errors import MissingDependencyError
from ttl_deploy.formats.pt2 import quiet

_BITS, _EXPONENT_BITS = 8, 0


class Rounding(nn.Module):
    """Stands for rounding to int8 in a graph that Torch-TensorRT compiles; cannot be run without it.

    Args:
        largest: What +127 stands for: a scalar, or one value per output channel, shaped to broadcast.
    """

    def __init__(self, largest: Tensor) -> None:
        super().__init__()
        self.register_buffer("largest", largest.detach().clone())

    def forward(self, tensor: Tensor) -> Tensor:
        """The tensor, rounded once an engine runs it."""
        rounded: Tensor = torch.ops.tensorrt.quantize_op(tensor, self.largest, _BITS, _EXPONENT_BITS, False, False)
        return rounded


def calibrated(model: nn.Module, batches: Iterable[NDArray[np.float32]]) -> Any:
    """A copy of a model that rounds as int8 will: what its layers and poolings read, and weights per output channel.

    Batch norms that follow a convolution are folded into it first: its weights are then rounded as they will be used.

    Args:
        model: On the CPU, in evaluation mode; left as it is.
        batches: (N, C, H, W) float32 each, consumed once; an input's range is the largest magnitude seen.

    Raises:
        MissingDependencyError: ModelOpt is not installed.
    """
    quantization = _modelopt("modelopt.torch.quantization")
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    remaining = iter(batches)
    first = next(remaining)
    with _silent(), torch.no_grad():
        _fold_batch_norms(copied, torch.from_numpy(first))
        return quantization.quantize(
            copied,
            quantization.INT8_DEFAULT_CFG,
            forward_loop=lambda module: _run(module, itertools.chain([first], remaining)),
        )


def with_operators(module: Any) -> int:
    """Puts the operator in the place of every quantiser of a calibrated module.

    Returns:
        How many operators it holds: two per layer, one per pooling.
    """
    placed = 0
    for layer in list(module.modules()):
        for name in ("input_quantizer", "weight_quantizer"):
            quantiser = getattr(layer, name, None)
            if quantiser is not None and quantiser.is_enabled and quantiser.amax is not None:
                setattr(layer, name, Rounding(quantiser.amax))
                placed += 1
    return placed


def _fold_batch_norms(model: nn.Module, images: Tensor) -> None:
    """Folds every batch norm that reads a convolution's output into it.

    Which do is seen by running the model: FX cannot trace torchvision's DenseNet, and knows no subclass of batch norm.
    """
    made: dict[int, tuple[str, Tensor]] = {}
    folded: list[tuple[str, str]] = []

    def note(name: str, output: Tensor) -> None:
        # The tensor is kept, so that its identity is not given to another one.
        made[id(output)] = name, output

    def match(name: str, read: Tensor) -> None:
        # Here and not at the end: what a batch norm read may be gone by then, and its identity another tensor's.
        if id(read) in made:
            folded.append((made[id(read)][0], name))

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(lambda _m, _i, output, name=name: note(name, output)))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(lambda _m, inputs, name=name: match(name, inputs[0])))
    model(images)
    for hook in hooks:
        hook.remove()
    for conv_name, norm_name in folded:
        conv: Any = model.get_submodule(conv_name)
        norm: Any = model.get_submodule(norm_name)
        model.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        # timm's batch norms have the activation inside.
        rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
        model.set_submodule(norm_name, nn.Sequential(*rest))


def _run(model: nn.Module, batches: Iterable[NDArray[np.float32]]) -> None:
    for batch in batches:
        model(torch.from_numpy(batch))


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """What an int8 module must be traced in."""
    with _modelopt("modelopt.torch.quantization.utils").export_torch_mode():
        yield


def _modelopt(name: str) -> Any:
    try:
        with _silent():
            return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"int8 is quantised by ModelOpt, which cannot be imported ({error})", fix="pip install nvidia-modelopt"
        ) from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """It prints how many quantisers it placed, and warns of what PyTorch deprecated."""
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        yield
