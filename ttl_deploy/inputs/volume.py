"""How a study of slices becomes the input of a network of volumes: training, parity, bench and prediction all call it.

The rule, in order:

1. A study is a NIfTI file (.nii, .nii.gz), a folder with the slices of one DICOM series, an array that NumPy's `save`
   wrote (.npy), or a row of an .npz. Refused: several volumes in a file, slices of several series, sizes or directions
   in a folder, two slices at one place, a missing slice (a gap of more than one and a half usual ones), and more than
   `ttl_deploy.inputs.study.MOST_VOXELS`.
2. Values are as they are meant: DICOM's after its Modality LUT or rescale (Hounsfield units in CT; its padding is
   darker than any window), NIfTI's after its scaling, an array's as they are. Slices of a series lie in the order of
   their positions, and of their numbers where no file has a position.
3. The axes are turned to those of the patient that are nearest: slices from the feet to the head, rows from front to
   back, columns from the patient's right to left. An array has no directions and stays as it is.
4. The window low..high becomes 0..255, what is outside its ends. An array of uint8 was windowed already.
5. In the plane, slice after slice. With a spacing: as many pixels as the millimetres are, then the centre, with black
   around where the slice is smaller. Without: the crop of `ttl_deploy.inputs.image`, then H x W. Both by Pillow's
   bilinear filter over real numbers, which averages where it makes smaller.
6. Along the slices likewise: with a spacing the central D, else all of them become D. Read as windows of D slices, a
   study keeps all its slices, with a spacing as many as the millimetres are, with black before and after where they are
   fewer than D; its windows are cut from the result of step 7 as `ttl_deploy.inputs.windows` says.
7. Rounded to whole numbers, half up. Grey is repeated for 3 channels; other numbers are those of an array.

The network's input is then what step 10 of `ttl_deploy.inputs.image` makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ttl_deploy.errors import UnreadableImageError
from ttl_deploy.inputs.image import centre
from ttl_deploy.inputs.study import Study, array_study, read_study
from ttl_deploy.spec import PreprocessSpec, VolumeSpec


def load_volume(source: Path | bytes, spec: PreprocessSpec, *, where: str | None = None) -> NDArray[np.uint8]:
    """Reads a study and brings it to the network's size.

    Args:
        source: A file, the content of one, or the folder of a DICOM series.
        spec: Size, channels, window, spacing and crop.
        where: What an error calls it; default the path.

    Returns:
        (D, H, W, C) uint8; read in windows, with all slices of the study, at least D.

    Raises:
        UnreadableImageError: It is no study, damaged, too large, or step 1 refuses it.
        UndecodedImageError: nibabel, pydicom or a decoder is not installed.
    """
    place = where or (str(source) if isinstance(source, Path) else "volume data")
    return study_pixels(read_study(source, place), spec, place)


def array_pixels(array: NDArray[Any], spec: PreprocessSpec, where: str) -> NDArray[np.uint8]:
    """Brings a study in memory to the network's size by the same rule.

    Args:
        array: (D, H, W) or (D, H, W, C); uint8 are pixels already, other types are windowed.
        spec: Size, channels, window and crop.
        where: What an error calls it.

    Returns:
        As `load_volume`.

    Raises:
        UnreadableImageError: Another shape or type, or too many voxels.
    """
    return study_pixels(array_study(array, where), spec, where)


def study_pixels(study: Study, spec: PreprocessSpec, where: str) -> NDArray[np.uint8]:
    """Steps 4 to 7.

    Raises:
        UnreadableImageError: The channels are others, a value is not finite, or the spacing is not known.
    """
    problem = shape_problem(study.values.shape, spec.input.channels)
    if problem is not None:
        raise UnreadableImageError(problem[0], where=where, fix=problem[1])
    rule = spec.volume or VolumeSpec()
    if rule.spacing is not None and study.spacing is None:
        what = "an array does not say how many millimetres its voxels are"
        raise UnreadableImageError(what, where=where, fix="give NIfTI or DICOM, or leave the spacing out")
    planes = study.values if study.values.ndim == 4 else study.values[..., None]
    made = [_channel(planes[..., c], study, spec, rule, where) for c in range(planes.shape[-1])]
    pixels = np.floor(np.stack(made, axis=-1) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (len(pixels), *spec.input.array_shape[1:])))


def shape_problem(shape: Sequence[int], channels: int) -> tuple[str, str] | None:
    """What is wrong with an array as a volume of some channels, and the way out; or None.

    Args:
        shape: Of the array: (D, H, W) or (D, H, W, C).
        channels: Of the input.
    """
    own = shape[3] if len(shape) == 4 else 1
    if len(shape) in (3, 4) and 0 not in shape and (own == channels or (own == 1 and channels == 3)):
        return None
    given = "(D, H, W)" if channels in (1, 3) else f"(D, H, W, {channels})"
    return f"an array of shape {tuple(shape)} is no volume of {channels} channels", f"give {given}"


def _channel(
    values: NDArray[Any], study: Study, spec: PreprocessSpec, rule: VolumeSpec, where: str
) -> NDArray[np.float32]:
    """Steps 4 to 6 of one channel: (D, H, W), 0 to 255."""
    depth, height, width = spec.input.size
    steps = None if rule.spacing is None or study.spacing is None else [
        own / wanted for own, wanted in zip(study.spacing, rule.spacing, strict=True)
    ]  # fmt: skip
    shown = np.empty((len(values), height, width), np.float32)
    for row, plane in enumerate(values):
        image = Image.fromarray(plane.astype(np.float32) if study.is_shown else _windowed(plane, rule.window, where))
        if steps is not None:
            shown[row] = _centred(np.asarray(_resized(image, *_scaled(plane.shape, steps[1:]))), (height, width))
        else:
            cropped = centre(image, height, width) if spec.crop == "center" else image
            shown[row] = np.asarray(_resized(cropped, height, width))
    # Slices are rows here, so that the same filter works along them.
    flat = Image.fromarray(shown.reshape(len(shown), height * width))
    if steps is not None:
        wanted = _scaled(values.shape[:1], steps[:1])[0]
    else:
        wanted = depth if rule.slice_stride is None else len(shown)
    kept = depth if rule.slice_stride is None else max(depth, wanted)
    along = np.asarray(_resized(flat, wanted, height * width)).reshape(wanted, height, width)
    return np.clip(_centred(along, (kept, height, width)), 0, 255)


def _windowed(plane: NDArray[Any], window: tuple[float, float], where: str) -> NDArray[np.float32]:
    low, high = window
    values = plane.astype(np.float32)
    if not np.isfinite(values).all():
        raise UnreadableImageError("holds values that are not finite numbers", where=where, fix="replace them first")
    values -= np.float32(low)
    values *= np.float32(255 / (high - low))
    return np.clip(values, 0, 255, out=values)


def _scaled(lengths: Sequence[int], steps: Sequence[float]) -> list[int]:
    return [max(1, round(length * step)) for length, step in zip(lengths, steps, strict=True)]


def _resized(image: Image.Image, height: int, width: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def _centred(values: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.float32]:
    """The central part of such a size, with black around where an axis is shorter."""
    result = np.zeros(size, np.float32)
    inside, taken = [], []
    for own, wanted in zip(values.shape, size, strict=True):
        kept = min(own, wanted)
        inside.append(slice((wanted - kept) // 2, (wanted - kept) // 2 + kept))
        taken.append(slice((own - kept) // 2, (own - kept) // 2 + kept))
    result[tuple(inside)] = values[tuple(taken)]
    return result
