"""DICOM images as arrays of grey or colour values, by one written rule; `ttl_deploy.inputs.image` does the rest.

A tag counts when it has a value: one that is present but empty says as much as one that is absent. The rule, in order:

1. Refused: a file without pixels, with several frames, with floating-point pixels, of more pixels than allowed, or of
   a photometric interpretation that is none of the list below. The header is read first, so that a file is refused for
   what it declares before its pixels are; what is compressed is decoded only where it says the same size as the header,
   and never beyond it. The deflated transfer syntax is refused, as nothing in it can be looked at before inflating.
2. Grey: the Modality LUT, or else rescale slope (default 1, as for a slope of 0) and intercept (default 0)
   (PS3.3 C.11.1). Then the first VOI LUT, or else the first window with a centre and a width by its function, LINEAR
   where none is named (PS3.3 C.11.2). A width that the standard excludes (below 1 for LINEAR, 0 or less for
   LINEAR_EXACT and SIGMOID) makes no window. Without either, the whole range that the stored bits can hold is shown,
   not the image's own. In enhanced objects the frame's functional groups come before the shared ones, and these before
   the tags of the file.
3. What is shown becomes 0..255 for images of up to 8 stored bits, 0..65535 for deeper ones, rounded half up.
4. MONOCHROME1 is inverted, so that bright is always the larger value (PS3.3 C.7.6.3.1.2).
5. Pixel padding (PS3.3 C.7.5.1.1.2) is no part of the image: it is black, and no image's own range counts it.
6. Colour: palettes are expanded, YBR becomes RGB, and other depths than 8 and 16 bits are scaled to their own full
   range. Overlays and embedded annotations are not drawn.

pydicom is imported when a DICOM file is read. Its own look-up functions are not used: they take empty tags for values,
overflow on 8-bit tables of more than 256 entries and turn a window over a negative slope upside down.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ttl_deploy.errors import TtlDeployError, UndecodedImageError, UnreadableImageError
from ttl_deploy.inputs import image_bytes
from ttl_deploy.inputs.row_blocks import in_blocks

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SUFFIXES = frozenset({".dcm", ".dicom"})
"""File name endings, in lower case, that mean DICOM where the content names nothing else."""

HEAD = 512
"""Bytes from which `is_dicom` and `holds_image` tell."""

_PREAMBLE, _MAGIC = 128, b"DICM"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DIRECTORY = b"1.2.840.10008.1.3.10"
"""Storage class of a DICOMDIR."""
_SAMPLE_BYTES = 4
"""Most bytes of samples per pixel allowed: the memory limit is this times the most pixels."""
_SPARE = 2**26
"""Bytes that a file may have beside its pixels."""
_LARGEST_TAG = 2**21
"""Most bytes of a tag beside the pixels: a sequence may hold several look-up tables of 128 KiB."""
_ITEMS, _MOST_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"), 4096
"""How items of a sequence begin in either byte order, and how many of them there may be."""
_MOST_READS = 200_000
"""Reads that parsing a header may take; an element takes two or three, an item of undefined length about four."""
_RESTORE = "restore it or leave it out"
_CONVERT = "convert it to explicit little endian first"

_BARE = re.compile(
    rb"\x02\0\0\0UL\x04\0"
    rb"|\x08\0[\0\x01\x05\x08\x12\x14\x16\x18]\0(?:[A-Z]{2}|.\0\0\0)"
    rb"|\0\x08\0[\0\x01\x05\x08\x12\x14\x16\x18][A-Z]{2}",
    re.DOTALL,
)
"""How a file begins that lacks the preamble: with an element of the file meta group or of the identifying group."""

_PHOTOMETRIC = (
    *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB"),
    *("YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"),
)

_DECODERS = (
    (("50", "51", "57", "70"), "pylibjpeg pylibjpeg-libjpeg"),
    (("80", "81"), "pyjpegls"),
    (("90", "91", "92", "93", "201", "202", "203"), "pylibjpeg pylibjpeg-openjpeg"),
)
"""Last parts of the JPEG transfer syntaxes (PS3.6 A), and the packages with which pydicom decodes them."""
_JPEG = "1.2.840.10008.1.2.4."
_RLE = "1.2.840.10008.1.2.5"
_AS_STORED: dict[str, Any] = {"as_rgb": False}

_PALETTES = tuple(f"{c}PaletteColorLookupTable" for c in ("Red", "Green", "Blue"))
_READ = (
    *("SpecificCharacterSet", "SOPClassUID", "PixelPresentation"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("SmallestImagePixelValue", "LargestImagePixelValue"),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth"),
    *(f"{palette}{part}" for palette in _PALETTES for part in ("Descriptor", "Data")),
    *(f"Segmented{palette}Data" for palette in _PALETTES),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData"),
)
"""The tags that decide pixels, or what is said of them; the others are not read."""


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so (`HEAD` bytes) is DICOM: by its magic word, or as the preamble is missing."""
    return head[_PREAMBLE : _PREAMBLE + 4] == _MAGIC or _BARE.match(head) is not None


def holds_image(head: bytes) -> bool:
    """Whether the first `HEAD` bytes are those of DICOM other than the directory of a medium."""
    return is_dicom(head) and _DIRECTORY not in head


def read_dicom(source: Path | bytes, where: str, max_pixels: int, *, own_range: bool = False) -> NDArray[Any]:
    """Reads a single-frame image.

    Args:
        source: A file, or the content of one.
        where: What an error calls the image.
        max_pixels: Most pixels (columns x rows) it may have; more are refused before decoding.
        own_range: Whether the caller goes on to stretch the image's own range; padding then takes its darkest value.

    Returns:
        (H, W) grey, uint8 or uint16, or (H, W, 3) RGB.

    Raises:
        UnreadableImageError: It is damaged, holds no pixels, or pixels that the rule refuses.
        UndecodedImageError: pydicom, or a decoder for its compression, is not installed.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise UndecodedImageError(
            "is DICOM, and pydicom is not installed", where=where, packages="'ttl-deploy[medical]'"
        )
    try:
        dataset = _open(source, where, max_pixels)
        _complete(dataset, where)
        values = _decode(dataset, where)
        grey = dataset.PhotometricInterpretation.startswith("MONOCHROME")
        return _grey(values, dataset, where, own_range) if grey else _colour(values, dataset)
    except TtlDeployError:
        raise
    except Exception as error:
        raise _damaged(error, where) from error


def read_header(source: Path | bytes, where: str, tags: Sequence[str]) -> Dataset:
    """What a file says of itself before its pixels.

    Args:
        source: A file, or the content of one.
        where: What an error calls it.
        tags: What to read besides its size, by keyword.

    Raises:
        UnreadableImageError: It is damaged.
    """
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    wanted: list[Any] = [Tag(name) for name in ("Rows", "Columns", "SpecificCharacterSet", *tags)]
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
            bare = _BARE.match(stream.read(HEAD)) is not None
            counted: Any = _Counted(stream)
            _refuse_deflated(counted, bare, where)
            counted.seek(0)
            header: Dataset = read_partial(counted, _is_pixels, _LARGEST_TAG, bare, wanted)
    except TtlDeployError:
        raise
    except Exception as error:
        raise _damaged(error, where) from error
    _refuse_bloated(header, where)
    return header


def read_measured(source: Path | bytes, where: str, max_pixels: int) -> NDArray[np.float64]:
    """The values of a single-frame grey image as they are meant, such as Hounsfield units: step 2 without its window.

    Padding takes the least value that 16 bits can hold, which no window shows.

    Args:
        source: A file, or the content of one.
        where: What an error calls the image.
        max_pixels: As for `read_dicom`.

    Returns:
        (H, W).

    Raises:
        UnreadableImageError: It is damaged, of colour, holds no pixels, or pixels that the rule refuses.
        UndecodedImageError: A decoder for its compression is not installed.
    """
    try:
        dataset = _open(source, where, max_pixels)
        _complete(dataset, where)
        if not dataset.PhotometricInterpretation.startswith("MONOCHROME"):
            what = f"is a slice of colour ({dataset.PhotometricInterpretation})"
            raise UnreadableImageError(what, where=where, fix="give grey slices")
        values = _decode(dataset, where)
        meant = _modality(values, dataset, where)[0]
        padding = _padding(dataset, where)
        if padding is not None:
            meant[padding] = np.iinfo(np.int16).min
        return meant
    except TtlDeployError:
        raise
    except Exception as error:
        raise _damaged(error, where) from error


def _damaged(error: Exception, where: str) -> UnreadableImageError:
    """The error for whatever pydicom raised: anything from KeyError to struct.error on damaged files."""
    return UnreadableImageError(f"is damaged DICOM: {error or type(error).__name__}", where=where, fix=_RESTORE)


def _open(source: Path | bytes, where: str, max_pixels: int) -> Dataset:
    """A file that step 1 does not refuse; nothing beside the header is read of one that is refused for it."""
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    wanted: list[Any] = [Tag(name) for name in _READ]
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        bare = _BARE.match(stream.read(HEAD)) is not None
        size = stream.seek(0, os.SEEK_END)
        counted: Any = _Counted(stream)
        try:
            _refuse_deflated(counted, bare, where)
            counted.seek(0)
            header = read_partial(counted, _is_after_sizes, _LARGEST_TAG, bare, wanted)
            _refuse_bloated(header, where)
            _refuse_size(header, size, where, max_pixels)
            counted.seek(0)
            dataset: Dataset = read_partial(counted, None, None, bare, wanted)
        except InvalidDicomError as error:
            raise UnreadableImageError("is not DICOM (no DICM mark)", where=where, fix=_RESTORE) from error
        except OSError as error:
            if counted.left >= 0:
                raise
            what = f"is DICOM of so many elements that its header takes more than {_MOST_READS:,} reads"
            raise UnreadableImageError(what, where=where, fix=_RESTORE) from error
    _refuse_bloated(dataset, where)
    _refuse(dataset, size, where, max_pixels)
    return dataset


class _Counted:
    """A stream that gives up after `_MOST_READS` reads: pydicom makes objects of each sequence item that it passes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read
        self.left = _MOST_READS

    def read(self, size: int = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError("too many reads")
        return self._read(size)


def _refuse_deflated(stream: Any, bare: bool, where: str) -> None:
    """Inflating would happen before anything could be checked, and a few bytes may become gigabytes."""
    from pydicom.filereader import read_dataset, read_preamble

    stream.seek(0)
    read_preamble(stream, bare)
    start = stream.tell()
    for is_implicit in (False, True):
        stream.seek(start)
        meta = read_dataset(stream, is_implicit, True, stop_when=lambda tag, *_: tag >> 16 != 2)
        if _value(meta, "TransferSyntaxUID") == _DEFLATED:
            what = "is DICOM in the deflated transfer syntax"
            raise UnreadableImageError(what, where=where, fix="convert it to explicit little endian")


def _is_after_sizes(tag: int, *_: Any) -> bool:
    return tag >> 16 > 0x28


def _is_pixels(tag: int, *_: Any) -> bool:
    return tag >> 16 >= 0x7FE0


def _refuse_bloated(dataset: Dataset, where: str) -> None:
    """Refuses tags whose values are longer than any meaning they could have, before they become objects."""
    from pydicom.datadict import keyword_for_tag
    from pydicom.dataelem import RawDataElement

    for tag in dataset.keys():  # noqa: SIM118 - iterating over the data set itself would convert its values
        element: Any = dataset.get_item(tag)
        if not isinstance(element, RawDataElement) or tag >> 16 == 0x7FE0:
            continue
        length, items = element.length, max(map((element.value or b"").count, _ITEMS))
        if length > _LARGEST_TAG or items > _MOST_ITEMS:
            much = f"{length:,} bytes" if length > _LARGEST_TAG else f"{items:,} items"
            what = f"is DICOM whose {keyword_for_tag(tag)} has {much}"
            raise UnreadableImageError(what, where=where, fix="correct the tag")


def _refuse_size(header: Dataset, size: int, where: str, max_pixels: int) -> None:
    """What of step 1 the sizes in the header decide.

    Args:
        header: At least the tags up to group 0028.
        size: Bytes of the file.
        where: As for `read_dicom`.
        max_pixels: As for `read_dicom`.
    """
    frames = int(_value(header, "NumberOfFrames") or 1)
    if frames > 1:
        raise UnreadableImageError(f"holds {frames} frames", where=where, fix="give one file per frame")
    width, height = (int(_value(header, name) or 0) for name in ("Columns", "Rows"))
    if width * height > max_pixels:
        raise UnreadableImageError(
            f"{width} x {height} pixels are more than the limit of {max_pixels:,}",
            where=where,
            fix="shrink the image first",
        )
    declared = width * height * _samples(header) * int(_value(header, "BitsAllocated") or 0) // 8
    if declared > _SAMPLE_BYTES * max_pixels:
        what = f"declares {declared:,} bytes of pixels, more than the limit of {_SAMPLE_BYTES * max_pixels:,}"
        raise UnreadableImageError(what, where=where, fix="shrink the image, or convert it to 8 or 16 bits, first")
    if declared and size > 2 * declared + _SPARE:
        what = f"has {size:,} bytes, far more than the {declared:,} of the pixels that it declares"
        raise UnreadableImageError(what, where=where, fix="correct its size, or give one file per frame")


def _samples(dataset: Dataset) -> int:
    """Samples per pixel; colour where nothing says so."""
    return int(_value(dataset, "SamplesPerPixel") or 3)


def _refuse(dataset: Dataset, size: int, where: str, max_pixels: int) -> None:
    """Step 1."""
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise UnreadableImageError("holds floating-point pixels", where=where, fix="convert it to integers first")
    if not dataset.get("PixelData"):
        kind = getattr(dataset.get("SOPClassUID"), "name", "") or "no image"
        raise UnreadableImageError(f"is DICOM without pixels ({kind})", where=where, fix="leave it out")
    empty = [name for name in ("Rows", "Columns", "BitsAllocated") if not _value(dataset, name)]
    if empty:
        raise UnreadableImageError(f"is DICOM whose {empty[0]} has no value", where=where, fix=_RESTORE)
    _refuse_size(dataset, size, where, max_pixels)


def _complete(dataset: Dataset, where: str) -> None:
    """Gives the tags that decoding needs, where they have no value, the one that the others leave open."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    dataset.PhotometricInterpretation = _photometric(dataset, where)
    grey = dataset.PhotometricInterpretation.startswith(("MONOCHROME", "PALETTE"))
    stored = int(_value(dataset, "BitsStored") or dataset.BitsAllocated)
    for name, value in {
        "SamplesPerPixel": 1 if grey else 3,
        "BitsStored": stored,
        "HighBit": stored - 1,
        "PixelRepresentation": 0,
        **({} if grey else {"PlanarConfiguration": 0}),
    }.items():
        if _value(dataset, name) is None:
            setattr(dataset, name, value)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _photometric(dataset: Dataset, where: str) -> str:
    """One of `_PHOTOMETRIC`, whatever its case and its spaces."""
    written = _value(dataset, "PhotometricInterpretation")
    if written is None:
        return "RGB" if _value(dataset, "SamplesPerPixel") == 3 else "MONOCHROME2"
    known = {re.sub(r"[ _]", "", name): name for name in _PHOTOMETRIC}
    found = known.get(re.sub(r"[\s_]", "", str(written)).upper())
    if found is None:
        what = f"has the photometric interpretation {written!r}"
        raise UnreadableImageError(what, where=where, fix="convert it to MONOCHROME2 or RGB first")
    return found


def _decode(dataset: Dataset, where: str) -> NDArray[Any]:
    """The stored values, whose photometric interpretation the data set then names; YBR_FULL is not yet RGB."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax != _RLE and not syntax.startswith(_JPEG):
        raise _undecoded(syntax, where)
    try:
        if syntax.is_encapsulated:
            _bound(dataset, where)
        values, facts = get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(dataset, index=0, **_AS_STORED)
    except (NotImplementedError, RuntimeError) as error:
        # A decoder that is there and says that it does not decode this kind leaves the same to be installed.
        lacking = ("missing dependencies", "does not support", "cannot decode", "are supported", "not supported")
        if not isinstance(error, NotImplementedError) and not any(words in str(error) for words in lacking):
            raise
        raise _undecoded(syntax, where) from error
    dataset.PhotometricInterpretation = facts["photometric_interpretation"]
    return _from_high_bit(values, dataset)


def _bound(dataset: Dataset, where: str) -> None:
    """Refuses compressed pixels that would decode to another size than declared, and unpacks RLE up to that size."""
    from pydicom.encaps import get_frame
    from pydicom.uid import ExplicitVRLittleEndian

    content = get_frame(dataset.PixelData, 0, number_of_frames=1)
    width, height, samples = int(dataset.Columns), int(dataset.Rows), int(dataset.SamplesPerPixel)
    if dataset.file_meta.TransferSyntaxUID == _RLE:
        dataset.PixelData = _unpacked(content, width * height, samples, int(dataset.BitsAllocated) // 8)
        dataset.PlanarConfiguration = 1
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return
    found = image_bytes.coded_size(content)
    if found is not None and found != (width, height, samples):
        sizes = " and ".join("{} x {} pixels of {} samples".format(*size) for size in (found, (width, height, samples)))
        raise UnreadableImageError(f"is DICOM whose pixels and header differ: {sizes}", where=where, fix=_RESTORE)
    problem = image_bytes.excess(content)
    if problem is not None:
        raise UnreadableImageError(f"is DICOM whose pixels are {problem}", where=where, fix=_RESTORE)


def _unpacked(content: bytes, pixels: int, samples: int, depth: int) -> bytes:
    """Pixels of RLE (PS3.5 G), plane after plane, each of `depth` bytes per sample, the least significant first.

    Raises:
        ValueError: It has other segments, or one of fewer pixels.
    """
    count, *starts = (int(number) for number in np.frombuffer(content[:64], "<u4"))
    edges = [*starts[:count], len(content)]
    if count != samples * depth or edges != sorted(edges):
        raise ValueError(f"{count} RLE segments, of which {samples * depth} in ascending order are expected")
    cells = np.empty((samples, pixels, depth), np.uint8)
    for index in range(count):
        plane, byte = divmod(index, depth)
        cells[plane, :, depth - 1 - byte] = _segment(content[edges[index] : edges[index + 1]], pixels)
    return cells.tobytes()


def _segment(packed: bytes, count: int) -> NDArray[np.uint8]:
    """The first bytes of a segment. TIFF has the same compression, so that its decoder is used.

    Raises:
        ValueError: There are fewer.
    """
    # Some writers fill up to an even number of bytes before they compress, and the last run then goes beyond the image.
    for width in (count, count + 1):
        try:
            return np.asarray(Image.frombytes("L", (width, 1), packed, "packbits", "L"))[0, :count]
        except ValueError:
            continue
    raise ValueError(f"an RLE segment does not decode to {count:,} bytes")


def _undecoded(syntax: Any, where: str) -> TtlDeployError:
    """The error for pixels that no installed decoder reads."""
    what = f"is DICOM compressed as {syntax.name}, which nothing here decodes"
    last = str(syntax).removeprefix(_JPEG)
    packages = next((packages for lasts, packages in _DECODERS if last in lasts), None)
    if packages is None:
        return UnreadableImageError(what, where=where, fix=_CONVERT)
    return UndecodedImageError(what, where=where, packages=packages)


def _from_high_bit(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Values whose stored bits do not begin at bit 0 (PS3.5 8.1.1), which pydicom leaves where they are."""
    shift = int(dataset.HighBit) + 1 - int(dataset.BitsStored)
    if shift <= 0 or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return values
    from pydicom.pixels.utils import pixel_array

    cells = pixel_array(dataset, index=0, correct_unused_bits=False)
    above = int(dataset.BitsAllocated) - int(dataset.HighBit) - 1
    moved: NDArray[Any] = np.right_shift(np.left_shift(cells, above), above + shift)
    return moved


def _colour(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Step 6."""
    from pydicom.pixels.processing import apply_color_lut, convert_color_space

    photometric = dataset.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        return in_blocks(values, lambda block: apply_color_lut(block, dataset))
    if photometric in ("YBR_FULL", "YBR_FULL_422"):
        values = in_blocks(values, lambda block: convert_color_space(block, "YBR_FULL", "RGB"))
    bits = int(dataset.BitsStored)
    return values if bits in (8, 16) else in_blocks(values, lambda some: _whole_range(some / (2.0**bits - 1), bits))


def _grey(values: NDArray[Any], dataset: Dataset, where: str, own_range: bool) -> NDArray[Any]:
    """Steps 2 to 5."""
    bits = int(dataset.BitsStored)
    result = in_blocks(values, lambda block: _whole_range(_shown(block, dataset, where), bits))
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        np.subtract(np.iinfo(result.dtype).max, result, out=result)
    padding = _padding(dataset, where)
    if padding is not None:
        rest = result[~padding]
        result[padding] = rest.min() if own_range and rest.size else 0
    return result


def _whole_range(shown: NDArray[Any], bits: int) -> NDArray[Any]:
    """Step 3: what is shown, 0 to 1, in 8 or 16 bits."""
    kind = np.uint8 if bits <= 8 else np.uint16
    scaled: NDArray[Any] = (np.clip(shown, 0, 1) * np.iinfo(kind).max + 0.5).astype(kind)
    return scaled


def _shown(values: NDArray[Any], dataset: Dataset, where: str) -> NDArray[np.float64]:
    """Step 2: 0 is the darkest that can be shown, 1 the brightest."""
    real, low, high = _modality(values, dataset, where)
    for holder in _holders(dataset, "FrameVOILUTSequence"):
        table = _table(holder, "VOILUTSequence", dataset)
        if table is not None:
            return table.look_up(real) / table.top
        window = _window(holder, where)
        if window is not None:
            return window.shown(real)
    return (real - low) / (high - low)


def _modality(values: NDArray[Any], dataset: Dataset, where: str) -> tuple[NDArray[np.float64], float, float]:
    """Values as they are meant, and the least and the largest that the stored bits allow."""
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    least = -(2.0 ** (bits - 1)) if signed else 0.0
    for holder in _holders(dataset, "PixelValueTransformationSequence"):
        table = _table(holder, "ModalityLUTSequence", dataset)
        if table is not None:
            return table.look_up(values), 0.0, table.top
        slope, intercept = _number(holder, "RescaleSlope", where), _number(holder, "RescaleIntercept", where)
        if slope is not None or intercept is not None:
            slope, intercept = slope or 1.0, intercept or 0.0
            ends = [end * slope + intercept for end in (least, least + 2.0**bits - 1)]
            return values.astype(np.float64) * slope + intercept, min(ends), max(ends)
    return values.astype(np.float64), least, least + 2.0**bits - 1


def _holders(dataset: Dataset, macro: str) -> Iterator[Dataset]:
    """Where a macro's tags may stand, the most particular first: the frame's groups, the shared ones, the file."""
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in list(_value(dataset, name) or ())[:1]:
            yield from list(_value(group, macro) or ())[:1]
    yield dataset


@dataclass(frozen=True)
class _Window:
    """A window, whose width its function allows.

    Attributes:
        centre, width: In values after the rescale.
        function: `LINEAR`, `LINEAR_EXACT` or `SIGMOID`.
    """

    centre: float
    width: float
    function: str

    def shown(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, for an output of 0 to 1."""
        if self.function == "SIGMOID":
            # The standard's 1 / (1 + exp(-4 (x - c) / w)), in the form that does not overflow.
            return 0.5 * (1 + np.tanh(2 * (values - self.centre) / self.width))
        half_open = 0.0 if self.function == "LINEAR_EXACT" else 1.0
        centre, width = self.centre - half_open / 2, self.width - half_open
        if width == 0:
            return (values > centre).astype(np.float64)
        return np.clip((values - centre) / width + 0.5, 0, 1)


def _window(holder: Dataset, where: str) -> _Window | None:
    """The first window that has a centre and a width."""
    function = re.sub(r"[\s_]+", "_", str(_value(holder, "VOILUTFunction") or "LINEAR").strip().upper())
    centres, widths = _numbers(holder, "WindowCenter", where), _numbers(holder, "WindowWidth", where)
    for centre, width in zip(centres, widths, strict=False):
        if centre is None or width is None or width < (1 if function == "LINEAR" else 0) or width == 0:
            continue
        if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            what = f"is DICOM with the unknown VOI LUT function {function!r}"
            raise UnreadableImageError(what, where=where, fix="correct the tag (0028,1056) or remove it")
        return _Window(centre, width, function)
    return None


@dataclass(frozen=True)
class _Table:
    """A look-up table.

    Attributes:
        first: The value that the first entry is for.
        entries: What values become; those outside take the nearest end.
        top: The largest that its bits can hold.
    """

    first: int
    entries: NDArray[np.float64]
    top: float

    def look_up(self, values: NDArray[Any]) -> NDArray[np.float64]:
        index = np.floor(values.astype(np.float64)) - self.first
        found: NDArray[np.float64] = self.entries[np.clip(index, 0, len(self.entries) - 1).astype(np.int64)]
        return found


def _table(holder: Dataset, sequence: str, dataset: Dataset) -> _Table | None:
    """The first table of a sequence that has a descriptor and data."""
    for item in _value(holder, sequence) or ():
        descriptor, data = _value(item, "LUTDescriptor"), _value(item, "LUTData")
        if descriptor is not None and data is not None:
            count, first, bits = (int(number) for number in descriptor)
            if not 8 <= bits <= 16:
                raise ValueError(f"a look-up table has {bits} bits an entry")
            entries = _entries(data, count % 65536 or 65536, bool(dataset.file_meta.TransferSyntaxUID.is_little_endian))
            return _Table(first, entries, 2.0**bits - 1)
    return None


def _entries(data: Any, count: int, little: bool) -> NDArray[np.float64]:
    """Entries of 16 bits each, or of 8 where there is only room for that (note to PS3.3 C.7.6.3.1.5)."""
    words = np.frombuffer(data, dtype="<u2" if little else ">u2") if isinstance(data, bytes) else np.atleast_1d(data)
    if len(words) < count:
        words = words.astype("<u2").view(np.uint8)
    if len(words) < count:
        raise ValueError(f"a look-up table has {len(words)} of {count} entries")
    return words[:count].astype(np.float64)


def _padding(dataset: Dataset, where: str) -> NDArray[np.bool_] | None:
    """Which pixels are padding, or None where there are none."""
    from pydicom.pixels.utils import pixel_array

    value = _number(dataset, "PixelPaddingValue", where)
    if value is None:
        return None
    limit = _number(dataset, "PixelPaddingRangeLimit", where)
    # The whole cell, because padding may lie outside what the stored bits can hold.
    cells = pixel_array(dataset, index=0, correct_unused_bits=False)
    ends = np.array([int(value), int(value if limit is None else limit)]).astype(cells.dtype)
    padding: NDArray[np.bool_] = (cells >= ends.min()) & (cells <= ends.max())
    return padding if padding.any() else None


def _value(dataset: Dataset, name: str) -> Any:
    """A tag's value; None where the tag is absent, empty or blank."""
    value = dataset.get(name)
    if isinstance(value, str):
        return value.strip(" \t\r\n\0") or None
    return None if hasattr(value, "__len__") and not len(value) else value


def _number(dataset: Dataset, name: str, where: str) -> float | None:
    return next(iter(_numbers(dataset, name, where)), None)


def _numbers(dataset: Dataset, name: str, where: str) -> tuple[float | None, ...]:
    """A tag's numbers; None for each that is blank or not finite."""
    try:
        value = _value(dataset, name)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UnreadableImageError(f"is DICOM whose {name} is no number", where=where, fix="correct the tag") from error
    many = () if value is None else (value,) if isinstance(value, str | int | float) else value
    return tuple(_finite(number) for number in many)


def _finite(number: Any) -> float | None:
    if number is None or not str(number).strip():
        return None
    return float(number) if math.isfinite(float(number)) else None
