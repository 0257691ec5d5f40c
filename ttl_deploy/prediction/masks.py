"""The masks that a prediction writes: a PNG for each image, as large as the image itself, and where asked an overlay.

Beside the PNG of a DICOM image lies a DICOM Segmentation where one can be made; see `ttl_deploy.prediction.dicom_seg`.

A mask's name follows its image's path, so that a command that was interrupted and goes on gives the same names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import files
from ttl_deploy.errors import BadInputError
from ttl_deploy.inputs.image import image_size
from ttl_deploy.inputs.image_kinds import is_dicom
from ttl_deploy.inputs.mask import whole_mask
from ttl_deploy.inputs.overlay import overlay, write_mask
from ttl_deploy.prediction.dicom_seg import SUFFIX, SegmentationWriter
from ttl_deploy.prediction.predictor import Prediction
from ttl_deploy.prediction.sources import ImageRef
from ttl_deploy.spec import PreprocessSpec, Stream
from ttl_deploy.tasks import Task

_DRAWN = (230, 60, 40)


def refuse_masks(task: Task, stream: Stream) -> None:
    """Raises `BadInputError` where a task of pixels has no folder for its masks, or another task has one."""
    if task.DENSE and stream.masks is None:
        what = f"a {task.KIND} model says a mask of each image, and there is no folder for them"
        raise BadInputError(what, fix="pass --masks FOLDER")
    if not task.DENSE and stream.masks is not None:
        raise BadInputError(f"a {task.KIND} model says no masks", where="--masks", fix="leave it out")
    if task.DENSE and stream.engine != "local":
        raise BadInputError("masks are not written over a cluster", where="--engine", fix="pass --engine local")


@dataclass(frozen=True)
class MaskWriter:
    """Writes what a model says of images.

    Attributes:
        folder: Where.
        spec: The geometry of the masks.
        task: What is outlined.
        overlays: Whether a picture of the image with its mask is written beside each.
        segmentations: Writes those of DICOM images.
    """

    folder: Path
    spec: PreprocessSpec
    task: Task
    overlays: bool
    segmentations: SegmentationWriter

    def predictions(
        self, images: Sequence[ImageRef], pixels: Sequence[NDArray[np.uint8]], probabilities: NDArray[np.float64]
    ) -> Iterator[Prediction]:
        """Writes the masks of a batch; a prediction's label is its mask's path, its number the share that is inside.

        Args:
            images: Which.
            pixels: (H, W, C) each.
            probabilities: (N, 1, H, W).

        Raises:
            StorageError: The disk is full, read-only or failing.
        """
        decided = self.task.decide(probabilities)[:, 0].astype(np.uint8)
        for image, shown, mask in zip(images, pixels, decided, strict=True):
            whole = whole_mask(mask, self.spec, image_size(Path(image.path)))
            path = self.folder / mask_name(image.path)
            with files.disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with files.atomic_path(path) as place:
                    write_mask(place, whole)
                if self.overlays:
                    with files.atomic_path(path.with_suffix(".overlay.png")) as place:
                        overlay(shown, [(mask, _DRAWN)]).save(place, format="PNG")
            if is_dicom(Path(image.path)):
                self.segmentations.write(path.with_suffix(SUFFIX), Path(image.path), whole)
            yield Prediction(image.path, str(path), {self.task.classes[0]: float(whole.mean())}, image.id)


def mask_name(image: str) -> Path:
    """The path of an image's mask in the folder of masks: the image's own, below the working folder or the root."""
    path = Path(image)
    absolute = path.absolute()
    inside = absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else None
    relative = inside if inside is not None and ".." not in inside.parts else Path(*absolute.resolve().parts[1:])
    return relative.with_name(f"{relative.name}.png")
