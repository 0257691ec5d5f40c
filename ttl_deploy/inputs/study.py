"""A study of slices as one array: NIfTI, the slices of a DICOM series, or what NumPy's `save` wrote; step 1 to 3.

The rule is written in `ttl_deploy.inputs.volume`. nibabel and pydicom are imported where a study needs them.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.errors import TtlDeployError, UndecodedImageError, UnreadableImageError
from ttl_deploy.inputs import dicom, image_kinds, npy
from ttl_deploy.inputs.image import quiet_readers

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

NIFTI_SUFFIXES = (".nii", ".nii.gz")
"""File name endings, in lower case, of NIfTI."""

MOST_VOXELS = 2**28
"""Most voxels that a study may have: 1024 slices of 512 x 512."""

_MOST_SLICE = 2**24
"""Most pixels of a slice."""

_MOST_FILES = 4096
"""Most slices of a series."""

_GZIP, _HEADER, _LARGEST_OFFSET = b"\x1f\x8b", 544, 2**20
_RESTORE = "restore it or leave it out"

_FLIPPED = np.diag([-1.0, -1.0, 1.0, 1.0])
"""NIfTI's axes grow to the right and the front, DICOM's to the left and the back."""

_UNEVEN = 1.5
"""How many usual gaps between slices are one in which a slice is missing."""

_SAME = 1e-3
"""Directions and millimetres that differ by less are the same."""


@dataclass(frozen=True)
class Study:
    """A study's values.

    Attributes:
        values: (D, H, W), or (D, H, W, C) of an array with channels: slices from the feet to the head, rows from front
            to back, columns from the patient's right to left; of arrays, as they are.
        spacing: Millimetres from slice to slice, row to row and column to column; None where it is not known.
        is_shown: Whether the values are 8-bit pixels already.
    """

    values: NDArray[Any]
    spacing: tuple[float, float, float] | None
    is_shown: bool = False


def read_study(source: Path | bytes, where: str) -> Study:
    """Reads a study.

    Args:
        source: A NIfTI or .npy file or the content of one, or a folder with the slices of a DICOM series.
        where: What an error calls it.

    Raises:
        UnreadableImageError: It is no study, damaged, too large, or its slices are not one volume.
        UndecodedImageError: nibabel, pydicom or a decoder is not installed.
    """
    try:
        with quiet_readers():
            return _read(source, where)
    except TtlDeployError:
        raise
    except FileNotFoundError as error:
        raise UnreadableImageError("no such file", where=where, fix="correct the path or leave it out") from error
    except Exception as error:  # nibabel and pydicom raise anything on damaged files
        raise UnreadableImageError(
            f"is damaged: {' '.join(str(error).split()) or type(error).__name__}", where=where, fix=_RESTORE
        ) from error


def _read(source: Path | bytes, where: str) -> Study:
    if isinstance(source, Path) and source.is_dir():
        return _series(source, where)
    head = _head(source)
    if head.startswith(npy.MAGIC):
        values = npy.read_array(_content(source, where), where, "write it with numpy.save")
        return array_study(values, where)
    if _is_nifti(head):
        return _nifti(source, where)
    if dicom.is_dicom(head):
        what = "is one DICOM file, and a study is the folder of its slices"
        raise UnreadableImageError(what, where=where, fix="pass the folder, one file per slice")
    what = "is no volume" if head else "is empty (0 bytes)"
    raise UnreadableImageError(what, where=where, fix="give NIfTI, a folder of DICOM slices, or .npy")


def array_study(values: NDArray[Any], where: str) -> Study:
    """An array as a study.

    Args:
        values: (D, H, W) or (D, H, W, C), integers or real numbers; uint8 are pixels already.
        where: What an error calls it.

    Raises:
        UnreadableImageError: Another shape or type, or too many voxels.
    """
    if values.ndim not in (3, 4) or 0 in values.shape:
        what = f"an array of shape {values.shape} is no volume"
        raise UnreadableImageError(what, where=where, fix="give (D, H, W) or (D, H, W, C)")
    _refuse_type(values.dtype, where)
    _refuse_large(values.shape[:3], where)
    return Study(values, None, is_shown=values.dtype == np.uint8)


def is_study(path: str | Path) -> bool:
    """Whether a file is a study by its name: NIfTI or .npy."""
    return str(path).lower().endswith((*NIFTI_SUFFIXES, ".npy"))


def is_series(folder: Path) -> bool:
    """Whether a folder holds slices of DICOM itself, and not in folders below."""
    return next(_dicom_files(folder), None) is not None


def series_files(folder: Path) -> list[Path]:
    """The DICOM files of a folder, by name."""
    return sorted(_dicom_files(folder))


def _dicom_files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        shown = not path.name.startswith(".") and path.is_file()
        if shown and image_kinds.is_image(path) and image_kinds.is_dicom(path):
            yield path


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[: dicom.HEAD]
    with source.open("rb") as handle:
        return handle.read(dicom.HEAD)


def _content(source: Path | bytes, where: str) -> bytes:
    if isinstance(source, bytes):
        return source
    size, most = source.stat().st_size, 8 * MOST_VOXELS
    if size > most:
        what = f"has {size:,} bytes, more than the limit of {most:,}"
        raise UnreadableImageError(what, where=where, fix="restore it, or save it as a smaller one")
    return source.read_bytes()


def _refuse_large(shape: Sequence[int], where: str) -> None:
    if math.prod(shape) > MOST_VOXELS:
        what = f"{' x '.join(map(str, shape))} voxels are more than the limit of {MOST_VOXELS:,}"
        raise UnreadableImageError(what, where=where, fix="divide it into parts")


def _refuse_type(dtype: np.dtype[Any], where: str) -> None:
    if dtype.kind not in "iuf":
        raise UnreadableImageError(f"voxels of type {dtype}", where=where, fix="give integers or real numbers")


def _is_nifti(head: bytes) -> bool:
    """By the mark of the first or second version; what is compressed is looked at through the compression."""
    if head.startswith(_GZIP):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, _HEADER)
        except zlib.error:
            return False
    return head[344:348] in (b"n+1\0",) or head[4:8] == b"n+2\0"


def _nifti(source: Path | bytes, where: str) -> Study:
    if importlib.util.find_spec("nibabel") is None:
        what = "is NIfTI, and nibabel is not installed"
        raise UndecodedImageError(what, where=where, packages="'ttl-deploy[medical]'")
    import nibabel

    content = _content(source, where)
    packed = content.startswith(_GZIP)
    stream: Any = gzip.GzipFile(fileobj=io.BytesIO(content)) if packed else io.BytesIO(content)
    head = stream.read(_HEADER)
    kind: Any = nibabel.Nifti2Image if head[4:8] == b"n+2\0" else nibabel.Nifti1Image
    header = kind.header_class(head[: kind.header_class.sizeof_hdr], check=False)
    shape = tuple(int(length) for length in header.get_data_shape())
    if len(shape) < 3 or any(length != 1 for length in shape[3:]) or 0 in shape:
        what = f"is NIfTI of shape {' x '.join(map(str, shape))}, which is no single volume"
        raise UnreadableImageError(what, where=where, fix="give one volume per file")
    _refuse_type(header.get_data_dtype(), where)
    _refuse_large(shape[:3], where)
    if not 0 <= float(header["vox_offset"]) <= _LARGEST_OFFSET:
        raise UnreadableImageError("is NIfTI whose voxels begin beyond its header", where=where, fix=_RESTORE)
    stream.seek(0)
    image = kind.from_stream(stream)
    values = np.asanyarray(image.dataobj, dtype=_working(header)).reshape(shape[:3])
    return _oriented(values, _FLIPPED @ image.affine, where)


def _working(header: Any) -> type[np.generic]:
    """Of the values after their scaling: what Hounsfield units are stored in stays as it is."""
    slope, intercept = header.get_slope_inter()
    plain = slope in (None, 1.0) and intercept in (None, 0.0)
    return np.int16 if plain and header.get_data_dtype() == np.int16 else np.float32


def _oriented(values: NDArray[Any], affine: NDArray[np.float64], where: str) -> Study:
    """Axes as near as can be to the patient's (step 3).

    Args:
        values: (I, J, K).
        affine: From its indices to millimetres to the left, the back and the head.
        where: What an error calls it.
    """
    import nibabel

    orientations: Any = nibabel.orientations
    directions = affine[:3, :3]
    if not np.isfinite(directions).all() or abs(np.linalg.det(directions)) < 1e-9:
        raise UnreadableImageError("does not say how its voxels lie", where=where, fix="write its affine")
    turned = orientations.io_orientation(affine)
    lengths = np.linalg.norm(directions, axis=0)
    spacing = [float(lengths[list(turned[:, 0]).index(axis)]) for axis in (2, 1, 0)]
    upright = orientations.apply_orientation(values, turned).transpose(2, 1, 0)
    return Study(upright, (spacing[0], spacing[1], spacing[2]))


_GEOMETRY = (
    *("SeriesInstanceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SliceThickness", "SpacingBetweenSlices"),
)


@dataclass(frozen=True)
class _Slice:
    """A slice's place; `normal` and `at` say where along the series it lies."""

    path: Path
    series: str
    size: tuple[int, int]
    number: float | None
    position: NDArray[np.float64] | None
    directions: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float | None

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.directions[0], self.directions[1])

    @property
    def at(self) -> float:
        if self.position is not None:
            return float(self.position @ self.normal)
        return (self.number or 0.0) * (self.thickness or 1.0)


def _series(folder: Path, where: str) -> Study:
    files = series_files(folder)
    if not files:
        raise UnreadableImageError("holds no DICOM", where=where, fix="give NIfTI, a folder of DICOM slices, or .npy")
    for package in ("pydicom", "nibabel"):
        if importlib.util.find_spec(package) is None:
            what = f"is a DICOM series, and {package} is not installed"
            raise UndecodedImageError(what, where=where, packages="'ttl-deploy[medical]'")
    if len(files) > _MOST_FILES:
        what = f"holds {len(files):,} DICOM files, more than the limit of {_MOST_FILES:,}"
        raise UnreadableImageError(what, where=where, fix="put each series in a folder of its own")
    slices = _in_order([found for path in files if (found := _slice(path)) is not None], where)
    first, gap = slices[0], _gap(slices)
    _refuse_large((len(slices), *first.size), where)
    values = np.empty((len(slices), *first.size), np.float32)
    for row, one in enumerate(slices):
        values[row] = dicom.read_measured(one.path, str(one.path), _MOST_SLICE)
    right, down = first.directions
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([gap * first.normal, first.spacing[0] * down, first.spacing[1] * right])
    return _oriented(values, affine, where)


def _slice(path: Path) -> _Slice | None:
    """The place of a file's slice; None where it has no pixels, such as a report beside the images."""
    header = dicom.read_header(path, str(path), _GEOMETRY)
    size = tuple(int(header.get(name) or 0) for name in ("Rows", "Columns"))
    if 0 in size:
        return None
    place = str(path)
    directions = _numbers(header, "ImageOrientationPatient", 6)
    spacing = _numbers(header, "PixelSpacing", 2)
    if spacing is None or min(spacing) <= 0:
        raise UnreadableImageError("is a slice without PixelSpacing", where=place, fix="give images of a scanner")
    turned = np.array([[1.0, 0, 0], [0, 1.0, 0]] if directions is None else directions).reshape(2, 3)
    number, position = _numbers(header, "InstanceNumber", 1), _numbers(header, "ImagePositionPatient", 3)
    if position is None and number is None:
        what = "has neither ImagePositionPatient nor InstanceNumber, so that its place is not known"
        raise UnreadableImageError(what, where=place, fix="give images of a scanner")
    thick = _numbers(header, "SpacingBetweenSlices", 1) or _numbers(header, "SliceThickness", 1)
    return _Slice(
        path,
        str(header.get("SeriesInstanceUID") or ""),
        (size[0], size[1]),
        None if number is None else number[0],
        None if position is None else np.array(position),
        turned,
        (spacing[0], spacing[1]),
        abs(thick[0]) if thick and thick[0] else None,
    )


def _numbers(header: Dataset, name: str, count: int) -> list[float] | None:
    """The numbers of a tag; None where they are not so many, or not finite."""
    value = header.get(name)
    many: Iterable[Any] = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        found = [float(number) for number in many]
    except (TypeError, ValueError):
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def _in_order(slices: Sequence[_Slice], where: str) -> list[_Slice]:
    """The slices of one series from end to end.

    Raises:
        UnreadableImageError: They are not one volume: of several series, sizes or directions, doubled, or one missing.
    """
    if len(slices) < 2:
        what = f"holds {len(slices) or 'no'} slice{'' if slices else 's'} with pixels, which is no volume"
        raise UnreadableImageError(what, where=where, fix="give a folder with the slices of a series")
    first = slices[0]
    series = {one.series for one in slices}
    if len(series) > 1:
        what = f"holds slices of {len(series)} series"
        raise UnreadableImageError(what, where=where, fix="put each series in a folder of its own")
    for one in slices[1:]:
        differs = _difference(first, one)
        if differs:
            what = f"{first.path.name} and {one.path.name} differ in {differs}"
            raise UnreadableImageError(what, where=where, fix="put slices that are no part of the volume elsewhere")
    ordered = sorted(slices, key=lambda one: one.at)
    usual = _gap(ordered)
    for before, after in pairwise(ordered):
        names = f"{before.path.name} and {after.path.name}"
        gap = after.at - before.at
        if gap < _SAME:
            raise UnreadableImageError(f"{names} lie at the same place", where=where, fix="leave one of them out")
        if gap > _UNEVEN * usual:
            what = f"a slice is missing between {names}: {gap:.4g} mm, where {usual:.4g} are usual"
            raise UnreadableImageError(what, where=where, fix="restore it or leave the study out")
    return ordered


def _difference(first: _Slice, other: _Slice) -> str | None:
    if other.size != first.size:
        return "size"
    if not np.allclose(other.directions, first.directions, atol=_SAME):
        return "direction"
    if not np.allclose(other.spacing, first.spacing, atol=_SAME):
        return "PixelSpacing"
    return "having a position" if (other.position is None) != (first.position is None) else None


def _gap(ordered: Sequence[_Slice]) -> float:
    """The usual distance between neighbouring slices, millimetres."""
    return median(after.at - before.at for before, after in pairwise(ordered))
