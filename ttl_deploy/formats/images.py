"""The images an exporter may look at: training images to calibrate on, validation images to choose on, none to test on.

They come lazily, batch by batch, through the one preprocessing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.data.prepared import Prepared
from ttl_deploy.errors import BadInputError
from ttl_deploy.formats.options import CALIBRATION_IMAGES
from ttl_deploy.inputs.image import normalise
from ttl_deploy.spec import PreprocessSpec


@dataclass(frozen=True, eq=False)
class Sample:
    """Some of a run's images, in a fixed order; iterating gives preprocessed batches, as often as asked.

    Attributes:
        prepared: Where the pixels are.
        preprocess: Normalisation.
        indices: (N,) positions in `prepared`.
        batch_size: Images per batch; the last may be smaller.
    """

    prepared: Prepared
    preprocess: PreprocessSpec
    indices: NDArray[np.int64]
    batch_size: int = 16

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """(N, C, H, W) float32 batches."""
        return (normalise(pixels, self.preprocess) for pixels in self.pixels())

    def pixels(self) -> Iterator[NDArray[np.uint8]]:
        """(N, H, W, C) uint8 batches."""
        for start in range(0, len(self.indices), self.batch_size):
            yield self.prepared.pixels(self.indices[start : start + self.batch_size])

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) or (N, K), as the task has them."""
        return self.prepared.labels[self.indices]

    @property
    def ids(self) -> tuple[str, ...]:
        """Id of each image."""
        return tuple(self.prepared.ids[i] for i in self.indices)


@dataclass(frozen=True, eq=False)
class RunImages:
    """A run's training and validation images.

    Attributes:
        prepared: All images of the run.
        preprocess: The run's own.
    """

    prepared: Prepared
    preprocess: PreprocessSpec

    def calibration(self, images: int = CALIBRATION_IMAGES, *, seed: int = 0, batch_size: int = 16) -> Sample:
        """Training images, as many of each class as there are, drawn with a seed.

        Args:
            images: How many at most; where a class has too few, the others fill up.
            seed: Of the draw.
            batch_size: Images per batch.

        Raises:
            BadInputError: Fewer images than classes were asked for, or the training side has one class only.
        """
        indices, classes = self.prepared.indices("train"), len(self.prepared.classes)
        labels = self.prepared.task.strata(self.prepared.labels[indices])
        if len(np.unique(labels)) < (1 if self.prepared.task.DENSE else 2):
            raise BadInputError(
                f"the training side has one class only, {self.prepared.words[int(indices[0])]!r}"
                if len(labels)
                else "the training side has no images",
                fix="calibration needs images of at least two classes",
            )
        if images < classes:
            raise BadInputError(
                f"{images} calibration images cannot show {classes} classes", fix=f"pass {classes} or more"
            )
        chosen = _balanced(labels, images, np.random.default_rng(seed))
        return Sample(self.prepared, self.preprocess, indices[chosen], batch_size)

    def validation(self, *, batch_size: int = 16) -> Sample:
        """All validation images, in their order."""
        return Sample(self.prepared, self.preprocess, self.prepared.indices("val"), batch_size)


def _balanced(labels: NDArray[np.int64], images: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Positions in turns of the classes (first of each, second of each …), each class shuffled."""
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        rank[generator.permutation(of_class)] = np.arange(len(of_class))
    return np.lexsort((labels, rank))[:images].astype(np.int64)
