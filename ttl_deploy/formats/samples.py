"""Inputs that travel with an engine, and what the typed graph and PyTorch make of them on this CPU.

Whoever loads the engine on a card runs them and compares, which no file's hash can stand for.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ttl_deploy.formats.exporter import OUTPUT, ExportJob
from ttl_deploy.formats.options import INPUT, GraphOptions
from ttl_deploy.inputs.image import normalise
from ttl_deploy.runtime.stored_samples import SAMPLES_FILE

__all__ = ["SAMPLES_FILE", "made_up", "samples"]

MADE_UP = 8
"""Made-up inputs, where no image shall leave this machine."""


def samples(job: ExportJob, proto: onnx.ModelProto, count: int) -> bytes:
    """An `.npz` with pixels, what normalises them, and the outputs to expect.

    Args:
        job: Its model gives PyTorch's outputs, its images the pixels.
        proto: The typed graph, whose outputs are to be expected of the engine.
        count: Images of the validation split; 0: made-up pixels.
    """
    import torch

    options = job.options if isinstance(job.options, GraphOptions) else GraphOptions()
    pixels = _pixels(job, count)
    batch = normalise(pixels, job.preprocess)
    with torch.inference_mode():
        reference = job.model(torch.from_numpy(batch)).float().numpy()
    inputs = pixels if options.embed_preprocessing else batch
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        pixels=pixels,
        mean=np.array(job.preprocess.mean),
        std=np.array(job.preprocess.std),
        embedded=np.array(options.embed_preprocessing),
        expected=_computed(proto, inputs, job.precision),
        pytorch=reference,
        activation=np.array(options.activation),
        sigmoid=np.array(job.task.ACTIVATION == "sigmoid"),
    )
    return buffer.getvalue()


def made_up(count: int, shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    """Pixels of no image: patches of noise, coarse and fine, dark and bright, flat and full of contrast.

    Even noise would look alike to a network, and outputs that are alike tell little of an engine.

    Args:
        count: How many.
        shape: (height, width, channels), or (depth, height, width, channels).
        seed: Of the draw.

    Returns:
        (count, *shape).
    """
    generator = np.random.default_rng(seed)
    *sides, channels = shape
    made = np.empty((count, *shape), np.uint8)
    for i in range(count):
        patch = 2 ** (i % 5)
        patches = generator.uniform(size=(*(-(-side // patch) for side in sides), channels))
        noise = np.kron(patches, np.ones((*(patch,) * len(sides), 1)))[*map(slice, sides)]
        level, contrast = generator.uniform(0.15, 0.85), generator.uniform(0.2, 1.0)
        made[i] = np.clip(255 * (level + contrast * (noise - 0.5)), 0, 255)
    return made


def _pixels(job: ExportJob, count: int) -> NDArray[np.uint8]:
    """(N, H, W, C); spread evenly over the validation split, which is in no order of classes."""
    if count == 0 or job.images is None:
        return made_up(MADE_UP, job.model.spec.input.array_shape)
    indices = job.images.validation().indices
    chosen = np.unique(np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(np.int64))
    return job.images.prepared.pixels(indices[chosen])


def _computed(proto: onnx.ModelProto, inputs: NDArray[Any], precision: str) -> NDArray[np.float32]:
    """What the graph gives, image by image; in OpenVINO where ONNX Runtime has no kernels for the CPU."""
    content = proto.SerializeToString()
    if precision == "bf16":
        from ttl_deploy.runtime.ov_core import core

        compiled = core().compile_model(core().read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        parts = [np.array(compiled([one])[OUTPUT]) for one in _one_by_one(inputs)]
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        parts = [session.run([OUTPUT], {INPUT: one})[0] for one in _one_by_one(inputs)]
    return np.concatenate(parts)


def _one_by_one(inputs: NDArray[Any]) -> list[NDArray[Any]]:
    return [inputs[i : i + 1] for i in range(len(inputs))]
