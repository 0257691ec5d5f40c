"""The ONE evaluation-time preprocessing: validation, calibration, parity, benchmarks and prediction all call it.

The rule, in order:

1. Refused before decoding: files of zero bytes, images of more than `MAX_PIXELS` pixels (a decompression bomb).
2. A file with several frames gives its first. DICOM (known by its content, or by `.dcm`) follows the rule of
   `ttl_deploy.dicom` and goes on with step 6; several frames are refused there.
3. The EXIF orientation is applied.
4. A palette is expanded to its colours.
5. Transparency is composited over black.
6. 16-bit grey becomes 8-bit, before any resizing: `full-range` is round(v / 257), `min-max` stretches the image's own
   range to 0..255. Floating-point images have no full range and need `min-max`. 16-bit colour keeps its high byte.
7. Channels: 3 is RGB with grey replicated, 1 is luma (ITU-R 601-2). CMYK, YCbCr and LAB go through RGB.
8. Crop: `center` takes the largest centred square (an odd margin leaves its extra pixel right or below), `none` keeps
   the whole image and squeezes it.
9. Pillow's antialiased bilinear resize to S x S, unless the image has that size. The result is uint8.
10. Divided by 255, minus the mean, over the standard deviation; float32 in NCHW order.
"""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ttl_deploy import dicom, image_kinds
from ttl_deploy.errors import TtlDeployError, UnreadableImageError
from ttl_deploy.spec import PreprocessSpec

MAX_PIXELS = 1024**3 // 4 // 3
"""Most pixels (width x height) an image may have: 89,478,485, a quarter gibibyte as RGB, Pillow's own limit."""

# Named, because Pillow would otherwise also try formats that run other programs (EPS starts Ghostscript). Its JPEG
# reader opens MPO too.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")

# Without a handler of its own, Pillow's log records of damaged files would reach stderr beside our error.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def load_pixels(source: Path | bytes, spec: PreprocessSpec, *, where: str | None = None) -> NDArray[np.uint8]:
    """Reads an image file and brings it to the network's size (steps 1 to 9).

    Args:
        source: A file, or the content of one.
        spec: Size, channels, crop and treatment of 16-bit images.
        where: What an error calls the image; default the path.

    Returns:
        (S, S, C) uint8.

    Raises:
        UnreadableImageError: The file is missing, empty, damaged, not an image or too large.
        MissingDependencyError: It is DICOM and pydicom or a decoder is not installed.
    """
    place = where or (str(source) if isinstance(source, Path) else "image data")
    try:
        _refuse_empty(source, place)
        if image_kinds.is_dicom(source):
            with _quiet_readers():
                stretched = spec.high_bit_depth == "min-max"
                values = dicom.read_dicom(source, place, MAX_PIXELS, own_range=stretched)
            return array_pixels(values, spec, place)
        # Without the common readers loaded, naming formats makes Pillow load all of its plugins: 30 ms of a cold start.
        Image.preinit()
        with _quiet_readers(), Image.open(_stream(source), formats=_FORMATS) as image:
            _refuse_large(image.size, place)
            return _finish(_eight_bit(image, spec, place), spec)
    except TtlDeployError:
        raise
    except Exception as error:  # on damaged files Pillow's plugins raise anything from KeyError to struct.error
        raise _unreadable(error, place) from error


def array_pixels(array: NDArray[Any], spec: PreprocessSpec, where: str) -> NDArray[np.uint8]:
    """Brings an image in memory to the network's size by the same rule (steps 5 to 9).

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA; uint8 or uint16.
        spec: Size, channels, crop and treatment of 16-bit images.
        where: What an error calls the image.

    Returns:
        (S, S, C) uint8.

    Raises:
        UnreadableImageError: Another shape or type, no pixels, or too many.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        raise UnreadableImageError(
            f"an array of shape {array.shape} is not an image",
            where=where,
            fix="give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)",
        )
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise UnreadableImageError(f"pixels of type {array.dtype}", where=where, fix="give uint8 or uint16")
    _refuse_large((array.shape[1], array.shape[0]), where)
    return _finish(_flatten(Image.fromarray(_eight_bit_array(array, spec, where))), spec)


def normalise(pixels: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.float32]:
    """Turns 8-bit pixels into the network's input (step 10).

    Args:
        pixels: (N, S, S, C) uint8.
        spec: Mean and standard deviation.

    Returns:
        (N, C, S, S) float32, C-contiguous.
    """
    std = np.array(spec.std)[:, None, None]
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
    planes *= (1 / (255 * std)).astype(np.float32)
    planes -= (np.array(spec.mean)[:, None, None] / std).astype(np.float32)
    return planes


def _stream(source: Path | bytes) -> Path | io.BytesIO:
    return source if isinstance(source, Path) else io.BytesIO(source)


def _refuse_empty(source: Path | bytes, where: str) -> None:
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    if not size:
        raise UnreadableImageError("is empty (0 bytes)", where=where, fix="restore it or leave it out")


def _refuse_large(size: tuple[int, int], where: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            f"{width} x {height} pixels are more than the limit of {MAX_PIXELS:,}",
            where=where,
            fix="shrink the image first",
        )


def _unreadable(error: Exception, where: str) -> UnreadableImageError:
    """The error for whatever Pillow or the file system raised."""
    restore = "restore it or leave it out"
    if isinstance(error, FileNotFoundError):
        return UnreadableImageError("no such file", where=where, fix="correct the path or leave it out")
    if isinstance(error, UnidentifiedImageError):
        formats = "PNG, JPEG, TIFF, BMP, GIF, WebP, PNM, JPEG 2000 or DICOM"
        return UnreadableImageError("is not an image", where=where, fix=f"give {formats}")
    if isinstance(error, Image.DecompressionBombError):
        reason = f"has more than the limit of {MAX_PIXELS:,} pixels"
        return UnreadableImageError(reason, where=where, fix="shrink the image first")
    if isinstance(error, OSError) and error.strerror:
        return UnreadableImageError(f"cannot be opened: {error.strerror.lower()}", where=where, fix=restore)
    return UnreadableImageError(f"is damaged: {error or type(error).__name__}", where=where, fix=restore)


class _Quiet:
    """How many decoders run, and the warning filters that the last of them puts back."""

    lock = threading.Lock()
    depth = 0
    filters = ExitStack()


@contextmanager
def _quiet_readers() -> Iterator[None]:
    """Keeps Pillow's and pydicom's warnings off stderr, from all threads.

    `warnings.catch_warnings` alone would let one thread put the filters back while another still decodes.
    """
    with _Quiet.lock:
        if _Quiet.depth == 0:
            _Quiet.filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"(PIL|pydicom|ttl_deploy\.dicom)\b")
        _Quiet.depth += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.depth -= 1
            if _Quiet.depth == 0:
                _Quiet.filters.close()


def _eight_bit(image: Image.Image, spec: PreprocessSpec, where: str) -> Image.Image:
    """Steps 3 to 6: upright, opaque, 8 bits, mode `L` or `RGB`."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return _flatten(image)
    values, transparent = np.asarray(image), image.info.get("transparency")
    if isinstance(transparent, int):
        values = np.where(values == transparent, 0, values)
    return Image.fromarray(_eight_bit_array(values, spec, where))


def _eight_bit_array(values: NDArray[Any], spec: PreprocessSpec, where: str) -> NDArray[np.uint8]:
    """Step 6 for any array of grey, RGB or RGBA values; a single channel loses its axis."""
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.ndim == 3:
        return np.ascontiguousarray(values >> 8, dtype=np.uint8)
    scale = _own_range if spec.high_bit_depth == "min-max" else _full_range
    return scale(values, where)


def _own_range(values: NDArray[Any], where: str) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        raise UnreadableImageError("holds values that are not finite numbers", where=where, fix="replace them first")
    stretched = (values.astype(np.float64) - low) * (255 / (high - low or 1))
    return (stretched + 0.5).astype(np.uint8)


def _full_range(values: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Integer arithmetic: 65535 / 257 is exactly 255, and no value lies halfway between two results."""
    way_out = "choose min-max for images of high bit depth"
    if values.dtype.kind == "f":
        raise UnreadableImageError("holds floating-point values, which have no full range", where=where, fix=way_out)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnreadableImageError(f"values {low} to {high} are outside 0 to 65535", where=where, fix=way_out)
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _flatten(image: Image.Image) -> Image.Image:
    """Steps 4 and 5 and the colour spaces of step 7: mode `L` or `RGB`, transparency over black."""
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        black = Image.new("RGB", layer.size)
        black.paste(layer.convert("RGB"), mask=layer.getchannel("A"))
        return black
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _finish(image: Image.Image, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Steps 7 to 9."""
    image = image.convert("RGB" if spec.channels == 3 else "L")
    if spec.crop == "center":
        image = _centre_square(image)
    size = (spec.image_size, spec.image_size)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(*size, spec.channels)


def _centre_square(image: Image.Image) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))
