"""Images whose best cut is known by construction: two classes that differ only across a known distance.

An image is noise with pairs of soft dots, `distance` pixels apart. A dot is dark or bright with equal chance. In one
class the two dots of a pair have the same sign, in the other opposite signs. A window that holds at most one dot of
each pair sees the same distribution in both classes, so features with a smaller receptive field than a pair, averaged
over the image, say nothing; the lowest cut that sees a whole pair is the best one.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ttl_deploy import files
from ttl_deploy.zoo import BACKBONES

CLASSES = ("alike", "opposite")

_DOT = 1.5
"""Standard deviation of a dot, pixels."""

_CONTRAST, _NOISE = 70.0, 8.0
"""Grey levels of a dot's peak, and of the noise."""


def write_known_cut(
    path: Path,
    *,
    distance: int = 16,
    images: int = 800,
    size: int = 64,
    pairs: int = 6,
    mislabelled: float = 0.05,
    seed: int = 0,
) -> Path:
    """Writes the set as .npz in MedMNIST's layout, divided 60/20/20.

    Args:
        path: File.
        distance: Between the dots of a pair, pixels, along the rows.
        images: How many, half of each class.
        size: Height and width, pixels.
        pairs: Per image.
        mislabelled: Fraction of labels that are wrong, on every side, so that no model is perfect and a standard error
            exists.
        seed: The same seed gives the same images.
    """
    generator = np.random.default_rng(seed)
    truth = np.arange(images) % 2
    pixels = np.stack([_draw(generator, bool(label), distance, size, pairs) for label in truth])
    labels = np.where(generator.random(images) < mislabelled, 1 - truth, truth).astype(np.uint8)[:, None]
    first, second = round(0.6 * images), round(0.8 * images)
    sides = {"train": slice(0, first), "val": slice(first, second), "test": slice(second, images)}
    arrays = {f"{side}_images": pixels[rows] for side, rows in sides.items()}
    arrays |= {f"{side}_labels": labels[rows] for side, rows in sides.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    files.write_bytes(path, buffer.getvalue())
    return path


def best_cut(backbone: str, distance: int) -> str:
    """The lowest cut whose receptive field holds both dots of a pair, 3 standard deviations of each included.

    Raises:
        ValueError: No cut sees that far.
    """
    for cut, field in receptive_fields(backbone).items():
        if field >= distance + 1 + 2 * round(3 * _DOT):
            return cut
    raise ValueError(f"no cut of {backbone} sees {distance} pixels")


def receptive_fields(backbone: str) -> dict[str, int]:
    """Pixels that a feature at each cut depends on: r = 1 + sum of (kernel - 1) times the strides before.

    For networks whose units are chains of convolutions and poolings, shortcuts of kernel 1 aside.
    """
    network = BACKBONES.get(backbone)
    modules = network.build()
    fields, field, jump = {}, 1, 1
    for unit in network.units:
        for layer in modules[unit.name].modules():
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                kernel, stride = (v[0] if isinstance(v, tuple) else v for v in (layer.kernel_size, layer.stride))
                if kernel > 1:
                    field, jump = field + (kernel - 1) * jump, jump * stride
        fields[unit.name] = field
    return fields


def _draw(generator: np.random.Generator, opposite: bool, distance: int, size: int, pairs: int) -> NDArray[np.uint8]:
    image = generator.normal(128, _NOISE, (size, size))
    margin = round(3 * _DOT)
    rows, columns = np.mgrid[:size, :size]
    for row in generator.choice(np.arange(margin, size - margin, 2 * margin), pairs, replace=False):
        column = generator.integers(margin, size - margin - distance)
        sign = generator.choice([-1.0, 1.0])
        for place, value in ((column, sign), (column + distance, -sign if opposite else sign)):
            image += value * _CONTRAST * np.exp(-((rows - row) ** 2 + (columns - place) ** 2) / (2 * _DOT**2))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
