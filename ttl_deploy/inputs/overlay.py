"""A picture of an image with masks drawn on it, for people to look at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Colour = tuple[int, int, int]

_TINT = 0.35


def overlay(
    pixels: NDArray[np.uint8], masks: Sequence[tuple[NDArray[np.uint8], Colour]], tint: float = _TINT
) -> Image.Image:
    """The image in grey or colour, each mask's rim drawn and its inside tinted.

    Args:
        pixels: (H, W, C); of channels that are no colours the first is shown.
        masks: (H, W) of 0 and 1 each, with its colour.
        tint: How much of the colour is inside the rim.
    """
    shown = pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    picture = shown.astype(np.float32)
    for mask, colour in masks:
        inside = mask > 0
        picture[inside] = (1 - tint) * picture[inside] + tint * np.array(colour, dtype=np.float32)
    for mask, colour in masks:
        picture[rim(mask)] = colour
    return Image.fromarray(picture.round().astype(np.uint8))


def rim(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W) the pixels inside that have a neighbour outside."""
    inside = np.pad(mask > 0, 1)
    around = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return np.asarray(inside[1:-1, 1:-1] & ~around)


def mask_file(mask: NDArray[np.uint8]) -> bytes:
    """The content of the file that `write_mask` writes."""
    stream = io.BytesIO()
    write_mask(stream, mask)
    return stream.getvalue()


def write_mask(place: Path | IO[bytes], mask: NDArray[np.uint8]) -> None:
    """Writes a mask of 0 and 1 as PNG of 0 and 255."""
    Image.fromarray((mask > 0).astype(np.uint8) * np.uint8(255)).save(place, format="PNG")
