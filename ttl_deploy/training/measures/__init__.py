"""How what a model says is kept and judged, one file a measure; a task names its own (`Task.MEASURE`). No torch.

What is kept of an image is one row of numbers, small enough for a table: logits, or how a mask and the one that was
drawn overlap. Every metric is computed of such rows, so that a table of them is evidence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.registry import Registry
from ttl_deploy.spec import Record
from ttl_deploy.tasks import Labels, Task

Rows = NDArray[np.float32]
"""(N, M), a row for each image."""


class Measure(ABC):
    """A way to judge."""

    @abstractmethod
    def columns(self, task: Task) -> tuple[str, ...]:
        """Names of what is kept of an image."""

    @abstractmethod
    def keep(self, task: Task, outputs: NDArray[np.float32], targets: NDArray[Any]) -> Rows:
        """What is kept of a batch.

        Args:
            task: What the outputs mean.
            outputs: Logits (N, ...), as the model gives them.
            targets: What it was to say; see `Prepared.targets`.
        """

    def masks(self, outputs: NDArray[np.float32]) -> NDArray[np.uint8] | None:
        """What is kept beside that: the masks that are said, packed (N, bytes); None where they are none."""
        return None

    def loss(self, rows: Rows) -> float | None:
        """The loss of such rows, not weighed; None where it is to be computed of logits and labels."""
        return None

    @abstractmethod
    def untellable(self, task: Task, labels: Labels) -> bool:
        """Whether such labels show no difference, so that no epoch can be chosen by them."""

    @abstractmethod
    def quick(self, task: Task, labels: Labels, rows: Rows) -> dict[str, float]:
        """The task's metrics by name, of an epoch."""

    def each(self, rows: Rows) -> dict[str, NDArray[np.float64]]:
        """(N,) scores of single images by name, where an image has one by itself."""
        return {}

    @abstractmethod
    def evaluate(
        self, task: Task, labels: Labels, rows: Rows, *, groups: Sequence[str] | None = None, bootstrap: int = 1000
    ) -> Record:
        """All numbers of an evaluation, with intervals by patient.

        Args:
            task: What the rows mean.
            labels: As the task has them.
            rows: What was kept.
            groups: The patient of each image; None: not known.
            bootstrap: How many resamples; 0: no intervals.
        """

    @abstractmethod
    def resampled(
        self, task: Task, labels: Labels, rows: Rows, metric: str, *, groups: Sequence[str], bootstrap: int
    ) -> NDArray[np.float64]:
        """A metric on resamples of whole patients, the same ones for every model; (0,) where there are none."""

    @abstractmethod
    def floor(self, task: Task, labels: Labels, groups: Sequence[str]) -> float:
        """The standard error that a perfect score deserves on these patients."""


MEASURES: Registry[Measure] = Registry("measure", "ttl_deploy.training.measures", entry_points="ttl_deploy.measures")


def measure_of(task: Task) -> Measure:
    """The measure that a task names."""
    return MEASURES.get(task.MEASURE)
