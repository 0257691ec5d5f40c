"""What two models said of the same images, as the two are compared: of all of them, or of some alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.parity.compare import Comparison, compare
from ttl_deploy.parity.masks import compare_masks
from ttl_deploy.tasks import Task
from ttl_deploy.training.run import Predictions


@dataclass(frozen=True)
class Sides:
    """Both, with the images in the same order.

    Attributes:
        reference: What the reference said.
        said: What the artifact said.
        task: What the outputs mean, and where it decides.
        groups: The patient of each image; None: not known.
        sigmoid: Whether one of them ends in a sigmoid.
        drawn: Of masks, whether they were drawn.
        pixels: Of a mask.
    """

    reference: Predictions
    said: Predictions
    task: Task
    groups: Sequence[str] | None
    sigmoid: bool = False
    drawn: bool = True
    pixels: int = 0

    def at(self, places: NDArray[np.int64]) -> Sides:
        """Those of some images alone.

        Args:
            places: (M,).
        """
        groups = None if self.groups is None else [self.groups[k] for k in places]
        return replace(self, reference=self.reference.at(places), said=self.said.at(places), groups=groups)

    def compare(self) -> Comparison:
        """The facts; labels are used where something is known of every image."""
        if self.task.DENSE:
            return compare_masks(self.reference, self.said, labelled=self.drawn, pixels=self.pixels, groups=self.groups)
        reference, said = self.reference, self.said
        labels = reference.labels if self.task.known(reference.labels).all() else None
        return compare(labels, reference.logits, said.logits, self.task, groups=self.groups, sigmoid=self.sigmoid)
