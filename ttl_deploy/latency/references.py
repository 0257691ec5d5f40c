"""Fixed work that a workload's time is divided by, so that the quotient says little of the machine and its mood.

Each reference does the kinds of work that its workloads do, in the libraries that they use and on one thread, and
never changes: a change makes every baseline void. `revision` is raised with it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

Work = Callable[[], object]


@dataclass(frozen=True)
class Reference:
    """One kind of fixed work.

    Attributes:
        name: What a baseline calls it.
        revision: Raised whenever the work changes.
        make: Prepares the work; the result does one helping of it per call.
    """

    name: str
    revision: int
    make: Callable[[], Work]


def network_work() -> Work:
    """Convolutions as in a residual network, batch norm, ReLU and sums: matrix products and memory traffic.

    Three layers, from maps that fill the cache to weights that do (2.4 MB), about 0.09 GMAC.
    """
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(0)
    layers = []
    for channels, size in ((64, 28), (128, 14), (256, 7)):
        image = torch.randn(1, channels, size, size, generator=generator)
        weight = torch.randn(channels, channels, 3, 3, generator=generator) / (3 * channels**0.5)
        layers.append((image, weight, torch.zeros(channels), torch.ones(channels)))

    def work() -> object:
        with torch.inference_mode():
            for image, weight, mean, variance in layers:
                product = functional.conv2d(image, weight, padding=1)
                features = functional.relu(functional.batch_norm(product, mean, variance)) + image
        return features

    return work


def image_work() -> Work:
    """Decoding a PNG, resizing it and scaling its values in NumPy, with Pillow called directly."""
    rows, columns = np.mgrid[0:320, 0:320]
    noise = np.random.default_rng(0).normal(0, 4, (320, 320))
    picture = 128 + 60 * np.sin(rows / 23) * np.cos(columns / 31) + noise
    buffer = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(buffer, "PNG")
    content = buffer.getvalue()

    def work() -> object:
        with Image.open(io.BytesIO(content)) as image:
            small = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        values = np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1)).astype(np.float32)
        return (values / 255 - 0.5) / 0.25

    return work


def program_work() -> Work:
    """What a program does around its arithmetic: parsing, hashing, many small objects and many small array calls."""
    record = {f"layer{i}": {"shape": [i, 2 * i, 3], "name": f"unit.{i}", "scale": i / 7} for i in range(120)}
    text = json.dumps(record)
    block = np.random.default_rng(0).integers(0, 256, 2**18, dtype=np.uint8).tobytes()
    small = np.arange(64.0)

    def work() -> object:
        read = json.loads(text)
        total = sum(len(entry["name"]) * entry["scale"] for entry in read.values())
        for _ in range(150):
            total += float((small * 0.5 + 1).sum())
        return total, hashlib.sha256(block).digest()

    return work


def training_work() -> Work:
    """A few steps of a small network forth and back, and the small calls around them."""
    import torch
    from torch import nn

    from_seed = torch.Generator().manual_seed(0)
    images = torch.randn(8, 32, 16, 16, generator=from_seed)
    weights = [(torch.randn(32, 32, 3, 3, generator=from_seed) / 17).requires_grad_() for _ in range(3)]
    around = program_work()

    def work() -> object:
        with torch.inference_mode(False), torch.enable_grad():
            features = images
            for weight in weights:
                features = nn.functional.relu(nn.functional.conv2d(features, weight, padding=1))
            gradients = torch.autograd.grad(features.square().mean(), weights)
        return gradients, around()

    return work


def prediction_work() -> Work:
    """One image's decoding and a program's work around it."""
    image, around = image_work(), program_work()

    def work() -> object:
        return image(), around()

    return work


def chain_work() -> Work:
    """Steps that wait for each other: SHA-256 of a small block, which leaves most of a core's units idle.

    A neighbour on the same core (its other hardware thread) takes units that the other kinds of work need, and slows
    them by up to four fifths and this by a sixth; a lower clock slows all of them alike.
    """
    block = np.random.default_rng(0).integers(0, 256, 2**12, dtype=np.uint8).tobytes()

    def work() -> object:
        for _ in range(100):
            digest = hashlib.sha256(block).digest()
        return digest

    return work


NETWORK = Reference("network", 1, network_work)
IMAGE = Reference("image", 1, image_work)
TRAINING = Reference("training", 1, training_work)
PREDICTION = Reference("prediction", 1, prediction_work)
CHAIN = Reference("chain", 1, chain_work)
