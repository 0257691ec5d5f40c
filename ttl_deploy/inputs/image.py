"""The ONE evaluation-time preprocessing: validation, calibration, parity, benchmarks and prediction all call it.

The rule, in order:

1. Refused before decoding: files of zero bytes, images of more than `MAX_PIXELS` pixels (a decompression bomb), and
   compressed ones that would take far longer or more memory than their size. Metadata that is broken or too large is
   left out: an image whose pixels are whole is read; one with fewer pixels than it declares is refused.
2. Refused: a file with several frames (pages of a TIFF, an animation), as nothing says which is meant. Smaller copies
   and masks in a TIFF and the previews that a camera puts into a JPEG (MPO) are no frames. DICOM (known by its
   content, or by `.dcm`) follows the rule of `ttl_deploy.inputs.dicom` and goes on with step 6.
3. The EXIF orientation is applied; EXIF that cannot be read says nothing.
4. A palette is expanded to its colours.
5. Transparency is composited over black.
6. 16-bit grey becomes 8-bit, before any resizing: `full-range` is round(255 v / w), `min-max` stretches the image's own
   range to 0..255. The white w is 65535, unless the file says that it has fewer bits: TIFF of 9 to 15 bits a sample;
   TIFF of 16 whose MaxSampleValue or SMaxSampleValue is all ones (511, 1023, 4095 …; any other is a statistic) and
   that has no larger value; PNG whose `sBIT` is below 16 and whose values were not scaled up as the specification asks.
   TIFF in which 0 is white is inverted at every depth. Floating-point images have no full range and need `min-max`.
   16-bit colour keeps its high byte, after TIFF of 9 to 15 bits was scaled to 16.
7. Channels: 3 is RGB with grey replicated, 1 is luma (ITU-R 601-2). CMYK, YCbCr and LAB go through RGB. Any other
   number is taken from arrays that have just so many, of which none is opacity; at step 6, `min-max` is then of each
   channel. An array is a row of an .npz, or a file that NumPy's `save` wrote (.npy): uint8 or uint16, (H, W, C).
8. Crop: `center` takes the largest centred part with the proportions of H x W, which is a square where H is W (its
   shorter side rounded down; an odd margin leaves its extra pixel right or below), `none` keeps the whole image and
   squeezes it.
9. Pillow's antialiased bilinear resize to H x W, unless the image has that size: first the width, or first the height
   where that loses more than twice as many pixels as the width does (what Pillow 13 does; older ones always take the
   width first, so the order is written out here, and all give the same). The result is uint8.
10. Divided by 255, minus the mean, over the standard deviation; float32 in NCHW order.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from ttl_deploy.errors import TtlDeployError, UnreadableImageError
from ttl_deploy.inputs import dicom, image_bytes, image_kinds, npy, pnm_samples, tiff_samples
from ttl_deploy.inputs.row_blocks import blocks, in_blocks
from ttl_deploy.spec import PreprocessSpec
from ttl_deploy.spec.inputs import MOST_CHANNELS

MAX_PIXELS = 1024**3 // 4 // 3
"""Most pixels (width x height) an image may have: 89,478,485, a quarter gibibyte as RGB, Pillow's own limit."""

PICTURE_CHANNELS = (1, 3)
"""Channels that any picture can be given."""

_MOST_BYTES = 6 * MAX_PIXELS
"""Bytes of a file that may be read whole: the largest image in 16-bit colour."""

_SPARSE = 4
"""How many times larger than its frame a GIF may be."""

# Named, because Pillow would otherwise also try formats that run other programs (EPS starts Ghostscript). Its JPEG
# reader opens MPO too.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image upright, by its EXIF orientation."""

_WIDTH, _LENGTH, _BITS, _PHOTOMETRIC, _LARGEST = 256, 257, 258, 262, (281, 341)
"""Tags of TIFF: ImageWidth, ImageLength, BitsPerSample, PhotometricInterpretation, MaxSampleValue, SMaxSampleValue."""

# Without a handler of its own, Pillow's log records of damaged files would reach stderr beside our error.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def load_pixels(source: Path | bytes, spec: PreprocessSpec, *, where: str | None = None) -> NDArray[np.uint8]:
    """Reads an image file and brings it to the network's size (steps 1 to 9).

    Args:
        source: A file, or the content of one.
        spec: Size, channels, crop and treatment of 16-bit images.
        where: What an error calls the image; default the path.

    Returns:
        (H, W, C) uint8.

    Raises:
        UnreadableImageError: The file is missing, empty, damaged, not an image or too large.
        UndecodedImageError: It is DICOM and pydicom or a decoder is not installed.
    """
    place = where or (str(source) if isinstance(source, Path) else "image data")
    try:
        _refuse_empty(source, place)
        if image_kinds.is_dicom(source):
            with quiet_readers():
                stretched = spec.high_bit_depth == "min-max"
                values = dicom.read_dicom(source, place, MAX_PIXELS, own_range=stretched)
            return array_pixels(values, spec, place)
        if image_kinds.is_array(source):
            return array_pixels(_array(source, place), spec, place)
        # Without the common readers loaded, naming formats makes Pillow load all of its plugins: 30 ms of a cold start.
        Image.preinit()
        with quiet_readers():
            return _finish(_decoded(source, spec, place), spec, place)
    except TtlDeployError:
        raise
    except Exception as error:  # on damaged files Pillow's plugins raise anything from KeyError to struct.error
        raise _unreadable(error, place, source) from error


def decoded(source: Path | bytes, where: str | None = None) -> Image.Image:
    """An image of full size, upright, mode `L` or `RGB` (steps 1 to 6).

    Args:
        source: A file, or the content of one.
        where: What an error calls the image; default the path.

    Raises:
        UnreadableImageError: As `load_pixels`; it is DICOM or an array too.
    """
    place = where or (str(source) if isinstance(source, Path) else "image data")
    try:
        _refuse_empty(source, place)
        Image.preinit()
        with quiet_readers():
            return _decoded(source, PreprocessSpec(), place)
    except TtlDeployError:
        raise
    except Exception as error:
        raise _unreadable(error, place, source) from error


def image_size(source: Path | bytes, where: str | None = None) -> tuple[int, int]:
    """(width, height) of an image as it is shown; one that does not tell it otherwise is decoded.

    Args:
        source: A file that `load_pixels` reads, or the content of one.
        where: What an error calls the image; default the path.

    Raises:
        UnreadableImageError: As `load_pixels`.
    """
    place = where or (str(source) if isinstance(source, Path) else "image data")
    if image_kinds.is_dicom(source):
        with quiet_readers():
            header = dicom.read_header(source, place, ())
        return header.Columns, header.Rows
    if image_kinds.is_array(source):
        height, width = _array(source, place).shape[:2]
        return width, height
    return upright_size(source) or decoded(source, place).size


def upright_size(source: Path | bytes) -> tuple[int, int] | None:
    """(width, height) of an image as it is shown, from its header; None where that is not told without decoding it."""
    Image.preinit()
    try:
        with _stream(source) as stream, quiet_readers(), Image.open(stream, formats=_FORMATS) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
            # Pillow 13 gives the size of TIFF that lies on its side already turned, older ones as it is stored.
            stored = (_tags(image).get(_WIDTH, image.width), _tags(image).get(_LENGTH, image.height))
            return stored[::-1] if orientation in (5, 6, 7, 8) else stored
    except Exception:
        return None


def array_pixels(array: NDArray[Any], spec: PreprocessSpec, where: str) -> NDArray[np.uint8]:
    """Brings an image in memory to the network's size by the same rule (steps 5 to 9).

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, or with the channels of the spec where these are
            others; uint8 or uint16.
        spec: Size, channels, crop and treatment of 16-bit images.
        where: What an error calls the image.

    Returns:
        (H, W, C) uint8.

    Raises:
        UnreadableImageError: Another shape or type, no pixels, or too many.
    """
    problem = shape_problem(array.shape, spec.input.channels)
    if problem is not None:
        raise UnreadableImageError(problem[0], where=where, fix=problem[1])
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise UnreadableImageError(f"pixels of type {array.dtype}", where=where, fix="give uint8 or uint16")
    _refuse_large((array.shape[1], array.shape[0]), where)
    if spec.input.channels not in PICTURE_CHANNELS:
        planes = [_sized(Image.fromarray(plane), spec) for plane in _planes(array, spec, where)]
        return np.stack(planes, axis=-1)
    return _finish(_flatten(Image.fromarray(_eight_bit_array(array, spec, where))), spec, where)


def shape_problem(shape: Sequence[int], channels: int) -> tuple[str, str] | None:
    """What is wrong with an array as an input of some channels, and the way out; or None.

    Args:
        shape: Of the array.
        channels: Of the input.
    """
    if channels not in PICTURE_CHANNELS:
        if len(shape) == 3 and shape[2] == channels and 0 not in shape:
            return None
        return (
            f"an array of shape {tuple(shape)} has not the {channels} channels of the input",
            f"give (H, W, {channels})",
        )
    if len(shape) in (2, 3) and (len(shape) == 2 or shape[2] in (1, 3, 4)) and 0 not in shape:
        return None
    way = "give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
    if len(shape) == 3 and 1 <= shape[2] <= MOST_CHANNELS:
        way = f"{way}; a model of {shape[2]} channels takes it"
    return f"an array of shape {tuple(shape)} is not an image", way


def picture_problem(channels: int) -> tuple[str, str]:
    """What to say of a picture as an input of channels that pictures have not, and the way out."""
    return f"is a picture, and the model takes {channels} channels", f"give arrays (H, W, {channels}): .npy or .npz"


def normalise(pixels: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.float32]:
    """Turns 8-bit pixels into the network's input (step 10).

    Args:
        pixels: (N, H, W, C) or (N, D, H, W, C) uint8.
        spec: Mean and standard deviation.

    Returns:
        (N, C, H, W) or (N, C, D, H, W) float32, C-contiguous.
    """
    per_channel = (-1, *(1,) * (pixels.ndim - 2))
    std, mean = np.array(spec.std).reshape(per_channel), np.array(spec.mean).reshape(per_channel)
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 1)).astype(np.float32)
    planes *= (1 / (255 * std)).astype(np.float32)
    planes -= (mean / std).astype(np.float32)
    return planes


def _array(source: Path | bytes, where: str) -> NDArray[Any]:
    """The array of a file that NumPy's `save` wrote; nothing in it is executed."""
    content = source if isinstance(source, bytes) else _whole(source, where)
    return npy.read_array(content, where, "write it with numpy.save, as uint8 or uint16")


def _planes(array: NDArray[Any], spec: PreprocessSpec, where: str) -> list[NDArray[np.uint8]]:
    """Step 6 for each channel by itself."""
    return [_eight_bit_array(array[..., channel], spec, where) for channel in range(array.shape[2])]


def _stream(source: Path | bytes) -> IO[bytes]:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _decoded(source: Path | bytes, spec: PreprocessSpec, where: str) -> Image.Image:
    """Steps 1 to 6; a file that Pillow refuses is tried without its metadata, or as samples of a depth of its own."""
    try:
        # Never by its path: given one, Pillow 13 turns TIFF of EXIF orientations 5 to 8 otherwise than from a stream.
        with _stream(source) as stream:
            return _opened(stream, spec, where)
    except (TtlDeployError, Image.DecompressionBombError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception:
        content = source if isinstance(source, bytes) else _whole(source, where)
        samples = tiff_samples.packed(content)
        if samples is not None:
            _refuse_frames(tiff_samples.frames(samples.rows), where)
            return _of_samples(samples, spec, where)
        bare = image_bytes.without_metadata(content)
        if bare is None:
            raise
        return _opened(io.BytesIO(bare), spec, where)


def _opened(stream: IO[bytes], spec: PreprocessSpec, where: str) -> Image.Image:
    _refuse_excess(stream, where)
    with Image.open(stream, formats=_FORMATS) as image:
        if image.format == "TIFF":
            _silence_libtiff()
        _refuse_large(image.size, where)
        _refuse_frames(_frames(image, stream), where)
        _refuse_sparse(image, where)
        if pnm_samples.samples_in_words(image) > pnm_samples.MOST_IN_WORDS:
            what = f"has more than {pnm_samples.MOST_IN_WORDS:,} samples in text"
            raise UnreadableImageError(what, where=where, fix="save it as binary PNM first")
        return _eight_bit(pnm_samples.scaled(image, stream) or image, stream, spec, where)


def _refuse_excess(stream: IO[bytes], where: str) -> None:
    """Step 1 for JPEG and JPEG 2000, before a decoder sees them."""
    kind = image_bytes.has_excess(stream.read(dicom.HEAD))
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if not kind:
        return
    _refuse_long(size, where)
    problem = image_bytes.excess(stream.read())
    stream.seek(0)
    if problem is not None:
        raise UnreadableImageError(f"has {problem}", where=where, fix="save it again from its source, or leave it out")


def _refuse_sparse(image: Image.Image, where: str) -> None:
    """Step 1 for GIF, whose frame may be a small part of the size that it declares."""
    tiles = getattr(image, "tile", ())
    if image.format != "GIF" or not tiles:
        return
    left, top, right, bottom = tiles[0].extents
    if _SPARSE * (right - left) * (bottom - top) < image.width * image.height:
        what = f"has {right - left} x {bottom - top} of the {image.width} x {image.height} pixels that it declares"
        raise UnreadableImageError(what, where=where, fix="save it again from its source, or leave it out")


def _frames(image: Image.Image, stream: IO[bytes]) -> int | None:
    """How many frames a file has (step 2); None where there are several and counting them would take long."""
    if image.format == "TIFF":
        place = stream.tell()
        found = tiff_samples.frames(stream)
        stream.seek(place)
        return found
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return 1
    return None if image.format == "GIF" else int(getattr(image, "n_frames", 1))


def _refuse_frames(count: int | None, where: str) -> None:
    if count != 1:
        raise UnreadableImageError(f"holds {count or 'several'} frames", where=where, fix="give one file per frame")


def _of_samples(samples: tiff_samples.Packed, spec: PreprocessSpec, where: str) -> Image.Image:
    """Steps 3 to 6 for TIFF whose samples Pillow does not unpack."""
    _refuse_large((samples.width, samples.height), where)
    _silence_libtiff()
    with Image.open(samples.rows, formats=("TIFF",)) as rows:
        values, top = samples.unpack(np.asarray(rows)), 2**samples.bits - 1
        values = top - values if samples.white_is_zero else values
        if values.ndim == 3:
            values, top = in_blocks(values, lambda some: _scaled(some, top, 65535).astype(np.uint16)), 65535
        return _upright(Image.fromarray(_eight_bit_array(values, spec, where, top)), rows)


@cache
def _silence_libtiff() -> None:
    """Takes away the handler by which libtiff writes to stderr what Pillow raises as well.

    libtiff is looked up among what Pillow's own library is linked with; where it is part of it, its lines stay.
    """
    from PIL import _imaging

    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(library, name)
            set_handler.argtypes, set_handler.restype = (ctypes.c_void_p,), ctypes.c_void_p
            set_handler(None)


def _refuse_empty(source: Path | bytes, where: str) -> None:
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    if not size:
        raise UnreadableImageError("is empty (0 bytes)", where=where, fix="restore it or leave it out")


def _whole(path: Path, where: str) -> bytes:
    _refuse_long(path.stat().st_size, where)
    return path.read_bytes()


def _refuse_long(size: int, where: str) -> None:
    if size > _MOST_BYTES:
        what = f"has {size:,} bytes, more than the limit of {_MOST_BYTES:,}"
        raise UnreadableImageError(what, where=where, fix="restore it, or save it as a smaller image")


def _refuse_large(size: tuple[int, int], where: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            f"{width} x {height} pixels are more than the limit of {MAX_PIXELS:,}",
            where=where,
            fix="shrink the image first",
        )


def _unreadable(error: Exception, where: str, source: Path | bytes) -> UnreadableImageError:
    """The error for whatever Pillow or the file system raised."""
    restore = "restore it or leave it out"
    if isinstance(error, FileNotFoundError):
        return UnreadableImageError("no such file", where=where, fix="correct the path or leave it out")
    if isinstance(error, UnidentifiedImageError) and _is_known(source):
        return UnreadableImageError(
            "is damaged, or an image of a kind that is not read",
            where=where,
            fix="save it again as 8 or 16-bit grey or RGB, or leave it out",
        )
    if isinstance(error, UnidentifiedImageError):
        formats = "PNG, JPEG, TIFF, BMP, GIF, WebP, PNM, JPEG 2000 or DICOM"
        return UnreadableImageError("is not an image", where=where, fix=f"give {formats}")
    if isinstance(error, Image.DecompressionBombError):
        reason = f"has more than the limit of {MAX_PIXELS:,} pixels"
        return UnreadableImageError(reason, where=where, fix="shrink the image first")
    if isinstance(error, OSError) and error.strerror:
        return UnreadableImageError(f"cannot be opened: {error.strerror.lower()}", where=where, fix=restore)
    return UnreadableImageError(f"is damaged: {error or type(error).__name__}", where=where, fix=restore)


def _is_known(source: Path | bytes) -> bool:
    if isinstance(source, bytes):
        return image_kinds.holds_image(source[: dicom.HEAD])
    with source.open("rb") as handle:
        return image_kinds.holds_image(handle.read(dicom.HEAD))


class _Quiet:
    """How many decoders run, and the warning filters that the last of them puts back."""

    lock = threading.Lock()
    depth = 0
    filters = ExitStack()


@contextmanager
def quiet_readers() -> Iterator[None]:
    """Keeps Pillow's, pydicom's and nibabel's warnings off stderr, from all threads.

    `warnings.catch_warnings` alone would let one thread put the filters back while another still decodes.
    """
    with _Quiet.lock:
        if _Quiet.depth == 0:
            _Quiet.filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"(PIL|pydicom|highdicom|nibabel|ttl_deploy\.inputs\.dicom)\b")
        _Quiet.depth += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.depth -= 1
            if _Quiet.depth == 0:
                _Quiet.filters.close()


def _eight_bit(image: Image.Image, stream: IO[bytes], spec: PreprocessSpec, where: str) -> Image.Image:
    """Steps 3 to 6: upright, opaque, 8 bits, mode `L` or `RGB`."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return _flatten(_upright(image, image))
    values, transparent = np.asarray(image), image.info.get("transparency")
    if isinstance(transparent, int):
        values = np.where(values == transparent, 0, values)
    top = _brightest(image, stream, values)
    if _tags(image).get(_PHOTOMETRIC) == 0:
        values = -values if values.dtype.kind == "f" else top - values
    return _upright(Image.fromarray(_eight_bit_array(values, spec, where, top)), image)


def _upright(image: Image.Image, original: Image.Image) -> Image.Image:
    """Step 3; EXIF that cannot be read says nothing."""
    original.load()
    try:
        orientation = original.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # what Pillow raises on broken EXIF is anything, as on broken images
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF; none for other formats."""
    found: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return found


def _brightest(image: Image.Image, stream: IO[bytes], values: NDArray[Any]) -> int:
    """The value of 16-bit grey that is white where it is not 65535, as the file itself says it (step 6)."""
    if not image.mode.startswith("I;16"):
        return 65535
    most = int(values.max())
    if image.format == "TIFF":
        tags = _tags(image)
        declared = (1 << int(tags.get(_BITS, (16,))[0])) - 1
        said = [int(value) for tag in _LARGEST for value in np.atleast_1d(tags.get(tag, 0))]
        return min([declared, *(s for s in said if s > 255 and (s + 1) & s == 0 and most <= s)])
    if image.format == "PNG":
        stream.seek(0)
        bits = image_bytes.significant_bits(stream.read()) or 16
        if 1 <= bits < 16 and most < 2**bits and not _is_scaled_up(values, bits):
            return (1 << bits) - 1
    return 65535


def _is_scaled_up(values: NDArray[Any], bits: int) -> bool:
    """Whether 16-bit samples are what the PNG specification makes of fewer bits, in one of the ways that encoders do.

    With zeros below, rounded in proportion, or with the upper bits repeated below (section 12.4 of its third edition).
    """
    shift, top = 16 - bits, 2**bits - 1
    ways: tuple[Callable[[NDArray[Any]], NDArray[Any]], ...] = (
        lambda few: few << shift,
        lambda few: _scaled(few, top, 65535),
        lambda few: few << shift | few >> max(bits - shift, 0),
    )
    return any(
        all(np.array_equal(some, way(some.astype(np.int64) >> shift)) for some in blocks(values)) for way in ways
    )


def _scaled(values: NDArray[Any], top: int, to: int) -> NDArray[Any]:
    """round(`to` v / `top`) in integers, rounded half up."""
    return np.asarray((values.astype(np.uint64) * (2 * to) + top) // (2 * top))


def _eight_bit_array(values: NDArray[Any], spec: PreprocessSpec, where: str, top: int = 65535) -> NDArray[np.uint8]:
    """Step 6 for any array of grey, RGB or RGBA values; a single channel loses its axis."""
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.ndim == 3:
        return np.ascontiguousarray(values >> 8, dtype=np.uint8)
    return _own_range(values, where) if spec.high_bit_depth == "min-max" else _full_range(values, where, top)


def _own_range(values: NDArray[Any], where: str) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        raise UnreadableImageError("holds values that are not finite numbers", where=where, fix="replace them first")
    factor = 255 / (high - low or 1)
    return in_blocks(values, lambda some: ((some.astype(np.float64) - low) * factor + 0.5).astype(np.uint8))


def _full_range(values: NDArray[Any], where: str, top: int) -> NDArray[np.uint8]:
    """round(255 v / top) in integers, rounded half up; with 65535 that is round(v / 257)."""
    way_out = "choose min-max for images of high bit depth"
    if values.dtype.kind == "f":
        raise UnreadableImageError("holds floating-point values, which have no full range", where=where, fix=way_out)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnreadableImageError(f"values {low} to {high} are outside 0 to 65535", where=where, fix=way_out)
    return in_blocks(values, lambda some: np.minimum(_scaled(some, top, 255), 255).astype(np.uint8))


def _flatten(image: Image.Image) -> Image.Image:
    """Steps 4 and 5 and the colour spaces of step 7: mode `L` or `RGB`, transparency over black."""
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        colours, opacity = layer.convert("RGB"), layer.getchannel("A")
        del layer
        black = Image.new("RGB", colours.size)
        black.paste(colours, mask=opacity)
        return black
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _finish(image: Image.Image, spec: PreprocessSpec, where: str) -> NDArray[np.uint8]:
    """Steps 7 to 9."""
    channels = spec.input.channels
    if channels not in PICTURE_CHANNELS:
        what, way = picture_problem(channels)
        raise UnreadableImageError(what, where=where, fix=way)
    if channels == 3 and image.mode == "L":
        # Pillow resizes each channel by itself, so that the same numbers come of a third of the work.
        return np.repeat(_sized(image, spec)[..., None], 3, axis=-1)
    return _sized(image.convert("RGB" if channels == 3 else "L"), spec).reshape(spec.input.array_shape)


def _sized(image: Image.Image, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Steps 8 and 9."""
    height, width = spec.input.size
    if spec.crop == "center":
        image = centre(image, height, width)
    lost = image.height - height
    between = (image.width, height) if lost > max(0, 2 * (image.width - width)) else (width, image.height)
    for size in (between, (width, height)):
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def centre(image: Image.Image, height: int, width: int) -> Image.Image:
    """The largest centred part whose sides are as `height` to `width`."""
    across = max(1, min(image.width, image.height * width // height))
    down = max(1, min(image.height, image.width * height // width))
    left, top = (image.width - across) // 2, (image.height - down) // 2
    return image.crop((left, top, left + across, top + down))
