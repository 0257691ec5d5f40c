"""A transfer model as a `torch.export` program: any batch, float32 in and out, computed in the asked precision.

The formats `pt2` and `torch-trt` start from it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ttl_deploy.formats.options import INPUT
from ttl_deploy.transfer import TransferModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")
"""Notes of a node that hold source paths of the exporting machine, and change nothing."""


class Converted(nn.Module):
    """A copy of a model in another precision between float32 input and output; the model itself is left alone."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = copy.deepcopy(model).to(dtype)
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        """Logits in float32."""
        logits: Tensor = self.network(images.to(self.dtype)).to(torch.float32)
        return logits


def in_precision(model: TransferModel, precision: str) -> nn.Module:
    """A copy of a model that computes in a precision, in evaluation mode and without gradients.

    Args:
        model: On the CPU.
        precision: One of `DTYPES`.
    """
    dtype = DTYPES[precision]
    copied = copy.deepcopy(model) if dtype == torch.float32 else Converted(model, dtype)
    return copied.eval().requires_grad_(False)


def extra_file(metadata: Mapping[str, str]) -> str:
    """The metadata of a model file as the extra file of an archive, the same text for the same facts."""
    return json.dumps(dict(metadata), sort_keys=True)


def example(model: TransferModel, device: str = "cpu") -> Tensor:
    """Two black images: with one, the batch would be taken for a constant."""
    return torch.zeros((2, *model.spec.input_shape), device=device)


def export_program(module: nn.Module, images: Tensor) -> ExportedProgram:
    """Traces a module for any batch, and drops what tells of the exporting machine.

    Args:
        module: Takes `images`.
        images: Two or more; shape and device of the program's input.
    """
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(module, (images,), dynamic_shapes={INPUT: {0: Dim.DYNAMIC}})
    for node in program.graph.nodes:
        for note in _NOTES:
            node.meta.pop(note, None)
    return program
