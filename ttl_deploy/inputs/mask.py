"""A mask becomes pixels of 0 and 1 by the geometry of its image: the same crop, and the nearest pixel at the resize.

Inside is 1 in a mask of 0 and 1, and 128 or more in any other, whose edges a lossy file may have blurred. A mask has
the size of its image; of several files of one image (a left and a right lung) the union counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ttl_deploy.errors import UnreadableImageError
from ttl_deploy.inputs.image import centre, decoded, upright_size
from ttl_deploy.spec import PreprocessSpec

_HALF = 128


def load_mask(files: Sequence[Path], spec: PreprocessSpec, image: Path) -> NDArray[np.uint8]:
    """Reads the mask of an image and brings it to the network's size.

    Args:
        files: One or several.
        spec: Size and crop.
        image: Whose mask it is.

    Returns:
        (H, W, 1) of 0 and 1.

    Raises:
        UnreadableImageError: A file cannot be read, has another size than the image, or values that are no mask.
    """
    found = np.logical_or.reduce([_inside(file, image) for file in files])
    return sized_mask(np.asarray(found), spec)[..., None]


def sized_mask(inside: NDArray[np.bool_], spec: PreprocessSpec) -> NDArray[np.uint8]:
    """(H, W) of 0 and 1: steps 8 and 9 of `ttl_deploy.inputs.image`, with the nearest pixel.

    Args:
        inside: (height, width) of the image itself.
        spec: Size and crop.
    """
    height, width = spec.input.size
    picture = Image.fromarray(inside.astype(np.uint8))
    if spec.crop == "center":
        picture = centre(picture, height, width)
    return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST), dtype=np.uint8)


def whole_mask(mask: NDArray[np.uint8], spec: PreprocessSpec, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask of the network's size in the place of its image; what was cropped away is outside.

    Args:
        mask: (H, W) of 0 and 1.
        spec: Size and crop.
        size: (width, height) of the image.
    """
    across, down = size
    whole = Image.new("L", size)
    if spec.crop == "center":
        part = centre(whole, *spec.input.size)
        across, down = part.size
    picture = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    left, top = (size[0] - across) // 2, (size[1] - down) // 2
    whole.paste(picture.resize((across, down), Image.Resampling.NEAREST), (left, top))
    return np.asarray(whole, dtype=np.uint8)


def _inside(file: Path, image: Path) -> NDArray[np.bool_]:
    values = np.asarray(decoded(file).convert("L"))
    size = upright_size(image)
    if size is not None and size != values.shape[::-1]:
        what = f"has {values.shape[1]} x {values.shape[0]} pixels, its image {image.name} has {size[0]} x {size[1]}"
        raise UnreadableImageError(what, where=str(file), fix="draw it on the image itself, or leave the image out")
    most = int(values.max())
    if 1 < most < _HALF:
        what = f"is no mask: its largest value is {most}"
        raise UnreadableImageError(what, where=str(file), fix="save it with 0 outside and 255 (or 1) inside")
    return np.asarray(values >= (1 if most == 1 else _HALF))
