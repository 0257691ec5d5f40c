"""PNM whose largest value is neither 255 nor 65535, decoded at once: Pillow goes through its samples one at a time."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from ttl_deploy.inputs.row_blocks import in_blocks

MOST_IN_WORDS = 10_000_000
"""Samples of plain PNM (numbers in text) that are read: a few seconds."""


def samples_in_words(image: ImageFile.ImageFile) -> int:
    """How many samples an opened file has in text; 0 where it is no plain PNM."""
    name = image.tile[0].codec_name if image.tile else ""
    return image.width * image.height * len(image.getbands()) if name == "ppm_plain" else 0


def scaled(image: ImageFile.ImageFile, stream: IO[bytes]) -> Image.Image | None:
    """An opened file, scaled to 255 (65535 for grey of 16 bits) as Pillow does; None for what Pillow decodes fast.

    Raises:
        ValueError: There are fewer samples than it declares.
    """
    if not image.tile or image.tile[0].codec_name != "ppm":
        return None
    tile: Any = image.tile[0]
    most, top, bands = int(tile.args[-1]), 65535 if image.mode == "I" else 255, len(image.getbands())
    kind = np.dtype(">u2" if most > 255 else "u1")
    stream.seek(tile.offset)
    content = stream.read(image.width * image.height * bands * kind.itemsize)
    rows = np.frombuffer(content, kind).reshape(image.height, image.width, *([bands] if bands > 1 else []))

    def change(some: NDArray[Any]) -> NDArray[Any]:
        return np.minimum(np.rint(some / most * top), top).astype(np.int32 if top > 255 else np.uint8)

    return Image.fromarray(in_blocks(rows, change))
