"""DICOM images as arrays of grey or colour values, by one written rule; `ttl_deploy.preprocess` does the rest.

The rule, in order:

1. Refused: a file without pixels, with several frames, with floating-point pixels, or of more pixels than allowed.
2. Grey: the Modality LUT or rescale slope and intercept (PS3.3 C.11.1), then the first VOI LUT, or else the first
   window (PS3.3 C.11.2). Without either, the whole range that the stored bits can hold is shown, not the image's own.
3. That range becomes 0..255 for images of up to 8 stored bits, 0..65535 for deeper ones, rounded half up.
4. MONOCHROME1 is inverted, so that bright is always the larger value (PS3.3 C.7.6.3.1.2).
5. Colour: palettes are expanded, YBR becomes RGB. Overlays and embedded annotations are not drawn.

pydicom is imported when a DICOM file is read.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.errors import MissingDependencyError, TtlDeployError, UnreadableImageError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SUFFIXES = frozenset({".dcm", ".dicom"})
"""File name endings, in lower case, that mean DICOM even where the content does not."""

_PREAMBLE, _MAGIC = 128, b"DICM"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_HEADER = 4096
"""Bytes that hold the file meta group, which names the transfer syntax."""
_RESTORE = "restore it or leave it out"


def is_dicom(source: Path | bytes) -> bool:
    """Whether a file or the content of one is DICOM: by its magic word, or by its ending.

    Raises:
        OSError: The file cannot be read.
    """
    if isinstance(source, bytes):
        return source[_PREAMBLE : _PREAMBLE + 4] == _MAGIC
    if source.suffix.lower() in SUFFIXES:
        return True
    with source.open("rb") as handle:
        return handle.read(_PREAMBLE + 4)[_PREAMBLE:] == _MAGIC


def read_dicom(source: Path | bytes, where: str, max_pixels: int) -> NDArray[Any]:
    """Reads a single-frame image.

    Args:
        source: A file, or the content of one.
        where: What an error calls the image.
        max_pixels: Most pixels (columns x rows) it may have; more are refused before decoding.

    Returns:
        (H, W) grey, uint8 or uint16, or (H, W, 3) RGB.

    Raises:
        UnreadableImageError: It is damaged, holds no pixels, or pixels that the rule refuses.
        MissingDependencyError: pydicom, or a decoder for its compression, is not installed.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise MissingDependencyError(
            "is DICOM, and pydicom is not installed", where=where, fix="pip install 'ttl-deploy[medical]'"
        )
    try:
        dataset = _open(source, where)
        _refuse(dataset, where, max_pixels)
        values = _decode(dataset, where)
        return _colour(values, dataset) if dataset.SamplesPerPixel > 1 or _palette(dataset) else _grey(values, dataset)
    except TtlDeployError:
        raise
    except Exception as error:  # pydicom raises anything from KeyError to struct.error on damaged files
        raise UnreadableImageError(
            f"is damaged DICOM: {error or type(error).__name__}", where=where, fix=_RESTORE
        ) from error


def _open(source: Path | bytes, where: str) -> Dataset:
    import pydicom
    from pydicom.errors import InvalidDicomError

    stream = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with stream:
        if _DEFLATED.encode() in stream.read(_HEADER):
            # Inflating happens before anything can be checked, and a few bytes may become gigabytes.
            raise UnreadableImageError(
                "is DICOM in the deflated transfer syntax", where=where, fix="convert it to explicit little endian"
            )
        stream.seek(0)
        try:
            return pydicom.dcmread(stream)
        except InvalidDicomError as error:
            raise UnreadableImageError("is not DICOM (no DICM mark)", where=where, fix=_RESTORE) from error


def _refuse(dataset: Dataset, where: str, max_pixels: int) -> None:
    """Step 1."""
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise UnreadableImageError("holds floating-point pixels", where=where, fix="convert it to integers first")
    if "PixelData" not in dataset:
        kind = getattr(dataset.get("SOPClassUID"), "name", "") or "no image"
        raise UnreadableImageError(f"is DICOM without pixels ({kind})", where=where, fix="leave it out")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise UnreadableImageError(f"holds {frames} frames", where=where, fix="give one file per frame")
    width, height = int(dataset.Columns), int(dataset.Rows)
    if width * height > max_pixels:
        raise UnreadableImageError(
            f"{width} x {height} pixels are more than the limit of {max_pixels:,}",
            where=where,
            fix="shrink the image first",
        )


def _decode(dataset: Dataset, where: str) -> NDArray[Any]:
    from pydicom.pixels.utils import pixel_array

    try:
        return pixel_array(dataset)
    except (NotImplementedError, RuntimeError) as error:
        if "missing dependencies" not in str(error) and not isinstance(error, NotImplementedError):
            raise
        syntax = dataset.file_meta.TransferSyntaxUID
        raise MissingDependencyError(
            f"is DICOM compressed as {syntax.name}, which nothing here decodes",
            where=where,
            fix="pip install 'pylibjpeg[all]', or decompress the file",
        ) from error


def _palette(dataset: Dataset) -> bool:
    return str(dataset.PhotometricInterpretation) == "PALETTE COLOR"


def _colour(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Step 5; `pixel_array` has turned YBR into RGB already."""
    from pydicom.pixels.processing import apply_color_lut

    return apply_color_lut(values, dataset) if _palette(dataset) else values


def _grey(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Steps 2 to 4."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    shown = apply_voi_lut(apply_modality_lut(values, dataset), dataset).astype(np.float64)
    low, high = _range(dataset)
    top = 255 if dataset.BitsStored <= 8 else 65535
    scaled = (np.clip(shown, low, high) - low) * (top / (high - low)) + 0.5
    result = scaled.astype(np.uint8 if top == 255 else np.uint16)
    inverted: NDArray[Any] = top - result
    return inverted if str(dataset.PhotometricInterpretation) == "MONOCHROME1" else result


def _range(dataset: Dataset) -> tuple[float, float]:
    """The values that step 2 can give, darkest and brightest."""
    from pydicom.pixels.processing import apply_voi_lut

    if dataset.get("VOILUTSequence"):
        return 0.0, 2.0 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if "WindowWidth" in dataset:
        # pydicom scales a window to a range of its own; values far outside tell where that begins and ends.
        ends = apply_voi_lut(np.array([-1e15, 1e15]), dataset)
        return float(min(ends)), float(max(ends))
    if dataset.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    stored = np.array([-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1] if signed else [0.0, 2.0**bits - 1])
    ends = stored * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    return float(min(ends)), float(max(ends))
