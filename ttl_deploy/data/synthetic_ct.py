"""A seeded set of synthetic CT studies to try volumes on: vessels full of contrast, some with a filling defect.

Every study has as many soft blobs of the same size and density at its vessels; only that they lie inside tells
emboli from nodes of tissue. Values are Hounsfield units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import files
from ttl_deploy.data.synthetic import write_table
from ttl_deploy.errors import BadInputError
from ttl_deploy.progress import SILENT, Reporter

CLASSES = ("clear", "embolism")
"""Class names; the second is the positive one."""

SIZE = (16, 48, 48)
"""Slices, rows, columns."""

_FEWEST, _SMALLEST, _LARGEST = 20, 16, 512
_LUNG, _TISSUE, _CONTRAST, _BLOB = -820.0, 40.0, (280.0, 380.0), (40.0, 80.0)
"""Hounsfield units of air-filled lung, of the chest wall, of contrast in vessels and of a clot or node."""
_NOISE = (15.0, 30.0)
_VESSELS = (2, 4)
_BLOBS = 4
_RADIUS = (0.07, 0.1)
"""Of a vessel, as a part of the width."""

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Vessel:
    """A tube along the slices.

    Attributes:
        rows: (D,) its centre in each slice.
        columns: (D,) likewise.
        radius: Voxels.
        contrast: Hounsfield units.
    """

    rows: _Array
    columns: _Array
    radius: float
    contrast: float


def write_synthetic_ct(
    folder: Path, *, studies: int = 160, size: Sequence[int] = SIZE, seed: int = 0, reporter: Reporter = SILENT
) -> Path:
    """Writes a synthetic set: `studies/*.npy`, int16 of the size, and `labels.csv` (path, label, patient_id).

    Args:
        folder: A new or empty folder.
        studies: How many, half of each class, one of each patient.
        size: Slices, rows, columns.
        seed: The same seed gives the same studies.
        reporter: Told of progress.

    Returns:
        The folder.

    Raises:
        BadInputError: The folder holds something, or a number is out of range.
        StorageError: The disk is full, read-only or failing.
    """
    if studies < _FEWEST:
        raise BadInputError(f"{studies} studies are too few to divide", where="studies", fix=f"at least {_FEWEST}")
    if len(size) != 3 or not _SMALLEST <= min(size) <= max(size) <= _LARGEST:
        told = "x".join(map(str, size))
        raise BadInputError(f"size {told} is out of range", where="size", fix=f"three of {_SMALLEST} to {_LARGEST}")
    rows = [("path", "label", "patient_id")]
    with (
        files.atomic_folder(folder, fix="choose another folder") as target,
        reporter.task("drawing studies", studies) as advance,
    ):
        (target / "studies").mkdir()
        for number in range(studies):
            name = f"p{number + 1:04d}"
            label = CLASSES[number % 2]
            generator = np.random.default_rng((seed, number))
            np.save(target / "studies" / f"{name}.npy", draw_study(generator, label == CLASSES[1], size))
            rows.append((f"studies/{name}.npy", label, name))
            advance(1, name)
        write_table(target / "labels.csv", rows)
    return folder


def draw_study(generator: np.random.Generator, embolism: bool, size: Sequence[int] = SIZE) -> NDArray[np.int16]:
    """One study.

    Args:
        generator: Draws all of it.
        embolism: Whether its blobs lie inside vessels.
        size: Slices, rows, columns.

    Returns:
        `size`, Hounsfield units.
    """
    values = _chest(generator, size)
    vessels = [_vessel(generator, size) for _ in range(generator.integers(_VESSELS[0], _VESSELS[1] + 1))]
    for vessel in vessels:
        _fill(values, vessel)
    for _ in range(_BLOBS):
        _add_blob(generator, values, vessels[generator.integers(len(vessels))], inside=embolism)
    values += generator.normal(0, generator.uniform(*_NOISE), values.shape)
    return np.clip(np.rint(values), -1024, 3071).astype(np.int16)


def _chest(generator: np.random.Generator, size: Sequence[int]) -> _Array:
    """Lung within an oval wall."""
    _, height, width = size
    row, column = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    wall = np.hypot(row / generator.uniform(0.85, 0.95), column / generator.uniform(0.9, 1.0)) > 0.92
    plane = np.where(wall, _TISSUE, _LUNG + generator.normal(0, 20))
    return np.repeat(plane[None], size[0], axis=0)


def _vessel(generator: np.random.Generator, size: Sequence[int]) -> _Vessel:
    depth, height, width = size
    along = np.linspace(0, 1, depth)
    angle, reach = generator.uniform(0, 2 * np.pi), generator.uniform(0, 0.32)
    bend, turn = generator.uniform(0.02, 0.1, 2), generator.uniform(0, 2 * np.pi, 2)
    rows = height * (0.5 + reach * np.sin(angle) + bend[0] * np.sin(2 * np.pi * along + turn[0]))
    columns = width * (0.5 + reach * np.cos(angle) + bend[1] * np.sin(2 * np.pi * along + turn[1]))
    return _Vessel(rows, columns, width * generator.uniform(*_RADIUS), generator.uniform(*_CONTRAST))


def _fill(values: _Array, vessel: _Vessel) -> None:
    row, column = np.ogrid[: values.shape[1], : values.shape[2]]
    for plane, r, c in zip(values, vessel.rows, vessel.columns, strict=True):
        plane[np.hypot(row - r, column - c) < vessel.radius] = vessel.contrast


def _add_blob(generator: np.random.Generator, values: _Array, vessel: _Vessel, *, inside: bool) -> None:
    """A ball of soft tissue, in the middle of a vessel or at its side."""
    depth, height, width = values.shape
    middle = int(generator.integers(depth // 4, depth - depth // 4))
    away = 0.0 if inside else 2.3 * vessel.radius
    angle = generator.uniform(0, 2 * np.pi)
    centre = (vessel.rows[middle] + away * np.sin(angle), vessel.columns[middle] + away * np.cos(angle))
    radius = 0.9 * vessel.radius
    slices, row, column = np.ogrid[:depth, :height, :width]
    distance = np.sqrt(
        ((slices - middle) * 2.0 / 3.0) ** 2 + (row - centre[0]) ** 2 + (column - centre[1]) ** 2
    )  # a slice is thinner than a clot is long
    values[distance < radius] = generator.uniform(*_BLOB)
