"""Quantisation-aware finetuning: a few epochs in which weights and activations are rounded as int8 will round them.

What is learned from is the validated model's own probabilities, not the labels (distillation: Polino 2018, "Model
compression via distillation and quantization"): on labels a run that was not trained to its end goes on learning, and
becomes another model than the validated one. Measured on chest x-rays, two epochs on labels changed the answer of 29 %
of the test images.

Written on PyTorch's own fake-quantise operators: `torch.ao.quantization` is on its way out, and NNCF's training mode
compiles a C++ extension on the user's machine. Batch norms keep their statistics. Rounding a convolution's weights per
channel before its batch norm is folded is the same as rounding the folded ones: the scale of a channel cancels out.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ttl_deploy.data.torch_data import ImageBatches, mix_seeds, training_loader
from ttl_deploy.formats.exporter import ExportJob
from ttl_deploy.formats.images import Sample
from ttl_deploy.formats.quantise_auto import divergence
from ttl_deploy.kept_memory import freed_memory_kept
from ttl_deploy.spec import AugmentSpec
from ttl_deploy.training.losses import distillation
from ttl_deploy.transfer import TransferModel

LEARNING_RATE = 1e-5
"""A tenth of the paper's base rate: only the rounding is learned."""

BATCH = 32
_SEED = 7


class _RoundWeight(nn.Module):
    """Rounds a weight to signed 8 bits per output channel, symmetric; gradients pass straight through."""

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim))).clamp_min(1e-8) / 127
        zeros = torch.zeros(len(scale), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -127, 127)


def finetuned(job: ExportJob, epochs: int, calibration: Iterable[NDArray[np.float32]]) -> TransferModel:
    """A copy of the job's model, finetuned so that int8 rounding hurts less.

    Args:
        job: Its model is left as it is and is the teacher; training images are learned from, validation images choose
            the epoch.
        epochs: How many.
        calibration: Batches that give the activations' ranges.
    """
    images = job.run_images()
    model = copy.deepcopy(job.model).eval()
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [
        _round_input(layer, *bounds) for layer, bounds in zip(layers, _ranges(model, layers, calibration), strict=True)
    ]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _RoundWeight())
    with freed_memory_kept():
        _train(model, job, epochs, images.validation())
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    for hook in hooks:
        hook.remove()
    return model


def _train(model: TransferModel, job: ExportJob, epochs: int, validation: Sample) -> None:
    """Keeps the epoch that diverges least from the job's model on validation images, the start included."""
    prepared = job.run_images().prepared
    training = ImageBatches(prepared, prepared.inputs(prepared.indices("train")), job.preprocess, AugmentSpec(), _SEED)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], LEARNING_RATE)
    # Near its optimum every step is mostly noise, which a rate that goes to zero lets settle.
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * math.ceil(len(training) / BATCH))
    wanted = _logits(job.model, validation)
    start = least = divergence(wanted, _logits(model, validation), job.task)
    state = copy.deepcopy(model.state_dict())
    with job.reporter.task("finetuning with int8 rounding", epochs) as advance:
        for epoch in range(1, epochs + 1):
            for batch, _labels in training_loader(
                training, BATCH, epoch=epoch, seed=mix_seeds(_SEED, epoch), workers=0
            ):
                with torch.no_grad():
                    taught = job.model(batch)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(distillation(model(batch), taught, job.task))
                optimizer.step()
                decay.step()
            reached = divergence(wanted, _logits(model, validation), job.task)
            if reached < least:
                least, state = reached, copy.deepcopy(model.state_dict())
            advance(1, f"divergence {reached:.2e}")
            job.reporter.info(
                f"finetuning epoch {epoch}: divergence from the float model {reached:.2e} nats, {start:.2e} before"
            )
    model.load_state_dict(state)


def _logits(model: TransferModel, sample: Sample) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.concatenate([model(torch.from_numpy(batch)).numpy() for batch in sample])


def _ranges(
    model: TransferModel, layers: list[nn.Conv2d | nn.Linear], batches: Iterable[NDArray[np.float32]]
) -> list[tuple[float, float]]:
    """Smallest and largest input of each layer, zero included."""
    found = [(0.0, 0.0)] * len(layers)

    def note(position: int, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        low, high = found[position]
        found[position] = (min(low, float(inputs[0].min())), max(high, float(inputs[0].max())))

    hooks = [layer.register_forward_pre_hook(functools.partial(note, i)) for i, layer in enumerate(layers)]
    with torch.inference_mode():
        for batch in batches:
            model(torch.from_numpy(batch))
    for hook in hooks:
        hook.remove()
    return found


def _round_input(layer: nn.Module, low: float, high: float) -> torch.utils.hooks.RemovableHandle:
    """Rounds a layer's input to unsigned 8 bits in a fixed range."""
    scale = max(high - low, 1e-8) / 255
    zero = min(255, max(0, round(-low / scale)))

    def rounded(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.fake_quantize_per_tensor_affine(inputs[0], scale, zero, 0, 255), *inputs[1:])

    return layer.register_forward_pre_hook(rounded)
