"""What is an image: by its ending where that says so, by its first bytes where it does not (`IM0001`, `1.2.840.99.0`).

No file is decoded, and none with a known ending is opened.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ttl_deploy.inputs import dicom, npy

IMAGE_SUFFIXES = dicom.SUFFIXES | {
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".tif",
    ".tiff",
    ".webp",
    ".gif",
    ".pgm",
    ".ppm",
    ".pnm",
    ".jp2",
}
"""File name endings, in lower case, of images."""

_OTHER = (
    ".txt .csv .tsv .json .jsonl .xml .html .htm .md .rst .pdf .rtf .doc .docx .xls .xlsx .ods .odt .ppt .pptx "
    ".yaml .yml .toml .ini .cfg .log .py .ipynb .m .r .sh .bat .zip .gz .tar .tgz .bz2 .xz .7z .rar .db .sqlite "
    ".npy .npz .mat .h5 .hdf5 .nii .nrrd .mha .mhd .pkl .parquet .pt .pth .ckpt .onnx .safetensors .exe .dll .so "
    ".mp4 .avi .mov .mkv .wmv .mp3 .wav .svg .tmp .part .lnk .url"
)
_OTHER_SUFFIXES = frozenset(_OTHER.split())
"""Endings, in lower case, of what is no image: such files are not opened."""

_MAGIC = re.compile(
    rb"\x89PNG\r\n\x1a\n"
    rb"|\xff\xd8\xff"
    rb"|II[\x2a\x2b]\0|MM\0[\x2a\x2b]"
    rb"|GIF8[79]a"
    rb"|RIFF.{4}WEBP"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    rb"|P[1-6]\s+(?:#|\d)"
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    re.DOTALL,
)
"""How PNG, JPEG, TIFF, GIF, WebP, BMP, PNM and JPEG 2000 begin."""


def is_image(path: str | Path) -> bool:
    """Whether a folder's file is one of its images: by its ending, or by its content where the ending says nothing."""
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - a million Path objects are slow
    if suffix in IMAGE_SUFFIXES or suffix in _OTHER_SUFFIXES:
        return suffix in IMAGE_SUFFIXES
    try:
        # A pipe or a device without an ending would be waited for.
        if not os.path.isfile(path):  # noqa: PTH113 - likewise
            return False
        with open(path, "rb") as handle:  # noqa: PTH123 - likewise
            return holds_image(handle.read(dicom.HEAD))
    except OSError:
        return False


def kind_of(path: str | Path) -> str:
    """What to call a file that is no image: its ending, or that it has none."""
    return os.path.splitext(path)[1].lower() or "without an ending"  # noqa: PTH122 - a million Path objects are slow


def holds_image(head: bytes) -> bool:
    """Whether a file that begins so (`dicom.HEAD` bytes) is an image; the directory of a medium (DICOMDIR) is none."""
    return _MAGIC.match(head) is not None or dicom.holds_image(head)


def is_array(source: Path | bytes) -> bool:
    """Whether a file or the content of one is an array that NumPy's `save` wrote.

    A folder's .npy files are not counted as its images: features and masks are kept so too.

    Raises:
        OSError: The file cannot be read.
    """
    if isinstance(source, bytes):
        return source.startswith(npy.MAGIC)
    with source.open("rb") as handle:
        return handle.read(len(npy.MAGIC)) == npy.MAGIC


def is_dicom(source: Path | bytes) -> bool:
    """Whether a file or the content of one is read as DICOM: its content comes first, then its ending.

    Raises:
        OSError: The file cannot be read.
    """
    if isinstance(source, bytes):
        return dicom.is_dicom(source)
    with source.open("rb") as handle:
        head = handle.read(dicom.HEAD)
    return dicom.is_dicom(head) or (source.suffix.lower() in dicom.SUFFIXES and not _MAGIC.match(head))
