"""Who reads an input of which kind: the one table that tells pictures and volumes apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.inputs import image, image_kinds, study, volume
from ttl_deploy.spec import PreprocessSpec

Pixels = NDArray[np.uint8]


class Load(Protocol):
    """Reads one input."""

    def __call__(self, source: Path | bytes, spec: PreprocessSpec, *, where: str | None = None) -> Pixels:
        """The pixels; see `load_input`."""


@dataclass(frozen=True)
class Reader:
    """How inputs of a kind are read.

    Attributes:
        load: A file, the content of one, or a folder.
        array: An array in memory; the last argument is what an error calls it.
        shape_problem: What is wrong with an array's shape for so many channels, and the way out; or None.
        is_file: Whether a file of a folder is an input, by its name or first bytes.
        folders: Whether a folder may be one input.
        is_folder: Whether a folder is one, with all that it holds.
        called: What several are called.
        given: What to do where there are none.
    """

    load: Load
    array: Callable[[NDArray[Any], PreprocessSpec, str], Pixels]
    shape_problem: Callable[[Sequence[int], int], tuple[str, str] | None]
    is_file: Callable[[str | Path], bool]
    folders: bool
    is_folder: Callable[[Path], bool]
    called: str
    given: str


READERS: Mapping[str, Reader] = {
    "image": Reader(
        image.load_pixels,
        image.array_pixels,
        image.shape_problem,
        image_kinds.is_image,
        False,
        lambda _folder: False,
        "images",
        "give PNG, JPEG, TIFF, DICOM and the like; for volumes choose a backbone that reads them",
    ),
    "volume": Reader(
        volume.load_volume,
        volume.array_pixels,
        volume.shape_problem,
        study.is_study,
        True,
        study.is_series,
        "studies",
        "give NIfTI, .npy or folders of DICOM slices; for images choose a backbone that reads them",
    ),
}  # fmt: skip
"""By the kind of an `InputSpec`."""


def picture(pixels: Pixels) -> Pixels:
    """What is shown of an input: (H, W, C); of a volume its middle slice."""
    return pixels if pixels.ndim == 3 else pixels[len(pixels) // 2]


def load_input(source: Path | bytes, spec: PreprocessSpec, *, where: str | None = None) -> Pixels:
    """Reads an input of the kind that the rule is for.

    Args:
        source: A file, the content of one, or where it is one input a folder.
        spec: The rule.
        where: What an error calls it; default the path.

    Returns:
        `spec.input.array_shape`, uint8; of a study read in windows, all its slices, which
        `ttl_deploy.inputs.windows.inputs_of` divides.

    Raises:
        UnreadableImageError: It cannot be read.
        UndecodedImageError: What reads it is not installed.
    """
    return READERS[spec.input.kind].load(source, spec, where=where)
