"""Devices and precision, left to Lightning Fabric: what `auto` means on this machine, said in words.

The same code runs on CPU, one GPU, or several under torchrun.
"""

from __future__ import annotations

import logging
import os
from typing import Literal

import torch
from lightning_fabric import Fabric

from ttl_deploy import hardware
from ttl_deploy.aliases import PRECISIONS, device_of, meant
from ttl_deploy.errors import BadInputError, MissingDependencyError, near

Accelerator = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16"]

_FABRIC_PRECISION: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


_ON_THE_PROCESSOR = "train on the processor: `--device cpu`"


def resolve_device(device: str) -> Accelerator:
    """`auto`, `cpu` or `cuda` to what is there.

    Raises:
        BadInputError: Unknown device.
        MissingDependencyError: `cuda` was asked for and there is none.
    """
    device = device_of(device, ("auto", "cpu", "cuda"))
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise MissingDependencyError("no CUDA device is usable here", fix=_ON_THE_PROCESSOR)
    return "cuda"


def resolve_precision(precision: str, accelerator: Accelerator, kind: str = "image") -> tuple[Precision, str]:
    """What `auto` or an asked precision means on an accelerator, and the sentence that says why.

    Args:
        precision: The word.
        accelerator: `cpu` or `cuda`.
        kind: Of the network's inputs, as in `InputSpec`.

    Raises:
        BadInputError: Unknown precision, fp16 on a CPU, or bf16 of volumes on a CPU.
    """
    precision = meant(precision, PRECISIONS, ("auto", *_FABRIC_PRECISION))
    # Seen in PyTorch 2.14.1: at some sizes the weights' gradients are infinite, or far off and finite.
    if accelerator == "cpu" and kind == "volume" and precision in ("auto", "bf16"):
        why = "PyTorch's gradients of 3-D convolutions in bfloat16 are not to be trusted on a CPU"
        if precision == "bf16":
            raise BadInputError(why, where="--precision bf16", fix="pass --precision fp32")
        return "fp32", f"precision fp32: {why}"
    if precision == "auto":
        return _automatic(accelerator)
    for name in _FABRIC_PRECISION:
        if precision == name:
            if name == "fp16" and accelerator == "cpu":
                raise BadInputError("fp16 training needs a GPU", fix="pass --precision bf16 or fp32")
            return name, f"precision {name}, as asked"
    raise BadInputError(f"unknown precision {precision!r}", fix=near(precision, ("auto", *_FABRIC_PRECISION)))


def make_fabric(accelerator: Accelerator, precision: Precision) -> Fabric:
    """The Fabric of this process; under torchrun, one of several that train together."""
    # It repeats on stderr what `resolve_precision` has said in our words.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=max(1, world // local),
        strategy="ddp" if world > 1 else "auto",
        precision=_FABRIC_PRECISION[precision],
    )
    fabric.launch()
    return fabric


def _automatic(accelerator: Accelerator) -> tuple[Precision, str]:
    if accelerator == "cuda":
        if torch.cuda.is_bf16_supported():
            return "bf16", "precision bf16 (AMP) with channels-last: the GPU multiplies bfloat16 in hardware"
        return "fp16", "precision fp16 (AMP) with channels-last: the GPU has no bfloat16"
    if hardware.describe().fast_bf16:
        return "bf16", "precision bf16 with channels-last: this processor multiplies bfloat16 in hardware"
    return "fp32", "precision fp32: this processor has no fast bfloat16"
