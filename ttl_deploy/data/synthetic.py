"""A seeded set of synthetic images to try everything on: grey, texture lesions on a textured background.

Both classes have the same number of soft-edged patches of the same size, mean and variance; only the scale of the
texture inside them tells a lesion (fine, oriented) from healthy tissue (coarse, smooth).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ttl_deploy import files
from ttl_deploy.errors import BadInputError
from ttl_deploy.progress import SILENT, Reporter

CLASSES = ("healthy", "lesion")
"""Class names; the second is the positive one."""

_FEWEST, _SMALLEST, _LARGEST = 20, 32, 1024
_PATCHES = (2, 5)
_IMAGES_PER_PATIENT = (1, 3)
_CONTRAST = (6.0, 18.0)
"""Standard deviation of the texture inside a patch, grey levels, and of the sensor's noise below."""
_NOISE = (3.0, 8.0)

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Patient:
    """What the images of one patient share.

    Attributes:
        name: Patient id.
        label: Class name.
        images: How many images there are.
        slope: Exponent of the background's 1/f spectrum.
        noise: Standard deviation of the sensor's noise, grey levels.
        brightness: Grey level of the body.
    """

    name: str
    label: str
    images: int
    slope: float
    noise: float
    brightness: float


def write_synthetic(
    folder: Path, *, images: int = 600, size: int = 96, seed: int = 0, reporter: Reporter = SILENT
) -> Path:
    """Writes a synthetic set: `lesion/*.png`, `healthy/*.png` and `labels.csv` (path, label, patient_id).

    Args:
        folder: A new or empty folder.
        images: How many, half of each class, one to three per patient.
        size: Height and width, pixels.
        seed: The same seed gives the same images.
        reporter: Told of progress.

    Returns:
        The folder.

    Raises:
        BadInputError: The folder holds something, or a number is out of range.
        StorageError: The disk is full, read-only or failing.
    """
    if images < _FEWEST:
        raise BadInputError(f"{images} images are too few to divide", where="images", fix=f"at least {_FEWEST}")
    if not _SMALLEST <= size <= _LARGEST:
        raise BadInputError(f"size {size} is out of range", where="size", fix=f"{_SMALLEST} to {_LARGEST} pixels")
    generator = np.random.default_rng(seed)
    with (
        files.atomic_folder(folder, fix="choose another folder") as target,
        reporter.task("drawing images", images) as advance,
    ):
        rows = [("path", "label", "patient_id")]
        for name in CLASSES:
            (target / name).mkdir()
        for patient in _patients(generator, images):
            for number in range(patient.images):
                path = f"{patient.label}/{patient.name}_{number + 1}.png"
                Image.fromarray(_draw(generator, patient, size)).save(target / path)
                rows.append((path, patient.label, patient.name))
                advance(1, patient.name)
        write_table(target / "labels.csv", rows)
    return folder


def _patients(generator: np.random.Generator, images: int) -> Iterator[_Patient]:
    """Patients, alternately of each class, until each class has its half of the images."""
    left = {"lesion": images // 2, "healthy": images - images // 2}
    low, high = _IMAGES_PER_PATIENT
    number = 0
    while any(left.values()):
        for label in CLASSES:
            count = min(left[label], int(generator.integers(low, high + 1)))
            if not count:
                continue
            number, left[label] = number + 1, left[label] - count
            yield _Patient(
                name=f"p{number:04d}",
                label=label,
                images=count,
                slope=generator.uniform(1.0, 1.5),
                noise=generator.uniform(*_NOISE),
                brightness=generator.uniform(95, 145),
            )


def _draw(generator: np.random.Generator, patient: _Patient, size: int) -> NDArray[np.uint8]:
    image = _body(generator, patient, size)
    for row, column in _centres(generator, size):
        window = _window(generator, size, row, column)
        texture = _fine(generator, size) if patient.label == "lesion" else _coarse(generator, size)
        image += generator.uniform(*_CONTRAST) * window * _standardised(texture, window)
    image += generator.normal(0, patient.noise, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _body(generator: np.random.Generator, patient: _Patient, size: int) -> _Array:
    """A bright soft-edged ellipse with a gradient across it, and 1/f tissue."""
    row, column = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    shift_row, shift_column = generator.uniform(-0.15, 0.15, 2)
    height, width = generator.uniform(0.8, 1.1, 2)
    radius = np.hypot((row - shift_row) / height, (column - shift_column) / width)
    shape = 1 / (1 + np.exp((radius - 0.95) / 0.06))
    tilt = generator.uniform(-15, 15) * row + generator.uniform(-15, 15) * column
    tissue = _filtered(generator, size, lambda f, _: np.where(f > 0, np.maximum(f, 1 / size) ** -patient.slope, 0.0))
    brightness = patient.brightness + generator.normal(0, 6)
    return np.asarray(30 + shape * (brightness - 30 + tilt) + 9 * tissue / tissue.std())


def _centres(generator: np.random.Generator, size: int) -> list[tuple[float, float]]:
    """Two to five places inside the body that do not touch."""
    low, high = _PATCHES
    wanted = int(generator.integers(low, high + 1))
    centres: list[tuple[float, float]] = []
    while len(centres) < wanted:
        radius, angle = 0.33 * np.sqrt(generator.uniform()), generator.uniform(0, 2 * np.pi)
        place = (size * (0.5 + radius * np.sin(angle)), size * (0.5 + radius * np.cos(angle)))
        if all(np.hypot(place[0] - r, place[1] - c) > 0.22 * size for r, c in centres):
            centres.append(place)
        elif generator.uniform() < 0.02:  # the places so far may leave no room
            centres.clear()
    return centres


def _window(generator: np.random.Generator, size: int, row: float, column: float) -> _Array:
    """A soft-edged disc, 0 to 1."""
    radius = size * generator.uniform(0.08, 0.12)
    rows, columns = np.ogrid[:size, :size]
    distance: _Array = np.hypot(rows - row, columns - column)
    return 1 / (1 + np.exp((distance - radius) / (0.02 * size)))


def _fine(generator: np.random.Generator, size: int) -> _Array:
    """Stripes of a random direction with a wavelength of about a twentieth of the image."""
    angle = generator.uniform(0, np.pi)
    centre = 20 / size
    spread = centre / 5

    def gain(frequency: _Array, direction: _Array) -> _Array:
        away = np.abs(np.sin(direction - angle)) * frequency
        return np.exp(-((frequency - centre) ** 2 + away**2) / (2 * spread**2))

    return _filtered(generator, size, gain)


def _coarse(generator: np.random.Generator, size: int) -> _Array:
    """Smooth blobs with a wavelength of about a fifth of the image, in no direction."""
    centre = 5 / size
    return _filtered(generator, size, lambda f, _: np.exp(-((f - centre) ** 2) / (2 * (centre / 4) ** 2)))


def _standardised(texture: _Array, window: _Array) -> _Array:
    """The texture with mean 0 and variance 1 once the window is laid over it."""
    centred = texture - np.average(texture, weights=window)
    return np.asarray(centred / np.sqrt(np.average(centred**2, weights=window)))


def _filtered(generator: np.random.Generator, size: int, gain: Callable[[_Array, _Array], _Array]) -> _Array:
    """White noise through a filter given by its gain at a frequency (cycles per pixel) and direction (radians)."""
    down, across = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    spectrum = np.fft.rfft2(generator.normal(size=(size, size)))
    return np.fft.irfft2(spectrum * gain(np.hypot(down, across), np.arctan2(down, across)), s=(size, size))


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Writes a table, its header first."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    files.write_text(path, buffer.getvalue())
