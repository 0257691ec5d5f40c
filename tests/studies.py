"""Small CT studies as archives keep them, for the tests of volumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def hounsfield(*shape: int, seed: int = 0) -> NDArray[np.int16]:
    """Values of which no two axes look alike."""
    ramp = np.add.reduce(
        np.meshgrid(*(np.arange(n) * k for n, k in zip(shape, (40, 9, 2), strict=True)), indexing="ij")
    )
    noise = np.random.default_rng(seed).integers(-300, 300, shape)
    return np.asarray(ramp + noise, np.int16)


def write_series(
    folder: Path,
    values: NDArray[Any],
    *,
    spacing: Sequence[float] = (2.5, 1.0, 1.0),
    directions: Sequence[float] = AXIAL,
    positions: bool = True,
    **tags: Any,
) -> list[Path]:
    """Writes slices (D, H, W) as a scanner's archive does: one file each, named in no order.

    Args:
        folder: A new folder.
        values: Hounsfield units.
        spacing: Between slices, rows and columns, mm.
        directions: ImageOrientationPatient.
        positions: Whether files say where they lie.
        tags: More tags of all files; None removes one.
    """
    folder.mkdir(parents=True)
    series, normal = generate_uid(), np.cross(directions[:3], directions[3:])
    names = np.random.default_rng(1).permutation(len(values))
    for k, name in enumerate(names):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.SeriesInstanceUID, dataset.InstanceNumber, dataset.Modality = series, k + 1, "CT"
        dataset.ImageOrientationPatient = list(directions)
        if positions:
            dataset.ImagePositionPatient = list(k * spacing[0] * normal)
        dataset.PixelSpacing, dataset.SliceThickness = list(spacing[1:]), spacing[0]
        dataset.Rows, dataset.Columns = values.shape[1:]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = (values[k].astype(np.int32) + 1024).astype("<u2").tobytes()
        for tag, value in tags.items():
            if value is None:
                delattr(dataset, tag)
            else:
                setattr(dataset, tag, value)
        dataset.save_as(folder / f"IM{name:04d}", enforce_file_format=True)
    return [folder / f"IM{name:04d}" for name in names]
