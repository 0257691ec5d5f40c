"""Classes and labels: images are ranked, yes against no, by their logits; see `ttl_deploy.training.metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.spec import Record
from ttl_deploy.tasks import Labels, Task
from ttl_deploy.training import metrics
from ttl_deploy.training.measures import MEASURES, Measure, Rows


class Ranking(Measure):
    """Keeps the logits."""

    def columns(self, task: Task) -> tuple[str, ...]:
        """One logit for each class."""
        return tuple(f"logit_{name}" for name in task.classes)

    def keep(self, task: Task, outputs: NDArray[np.float32], targets: NDArray[Any]) -> Rows:
        """The logits."""
        return outputs

    def untellable(self, task: Task, labels: Labels) -> bool:
        """Whether no class has images with it and without it."""
        return not task.headline(task.truth(labels))

    def quick(self, task: Task, labels: Labels, rows: Rows) -> dict[str, float]:
        """See `Measure.quick`."""
        probabilities = task.probabilities(rows)
        return {name: metrics.MEASURES[name](labels, probabilities, task) for name in task.METRICS}

    def evaluate(
        self, task: Task, labels: Labels, rows: Rows, *, groups: Sequence[str] | None = None, bootstrap: int = 1000
    ) -> Record:
        """See `ttl_deploy.training.metrics.evaluate`."""
        return metrics.evaluate(labels, task.probabilities(rows), task, groups=groups, bootstrap=bootstrap)

    def resampled(
        self, task: Task, labels: Labels, rows: Rows, metric: str, *, groups: Sequence[str], bootstrap: int
    ) -> NDArray[np.float64]:
        """See `ttl_deploy.training.metrics.resampled`."""
        probabilities = task.probabilities(rows)
        return metrics.resampled(labels, probabilities, task, metric, groups=groups, bootstrap=bootstrap)

    def floor(self, task: Task, labels: Labels, groups: Sequence[str]) -> float:
        """See `ttl_deploy.training.metrics.least_error`."""
        return metrics.least_error(labels, groups, task)


MEASURES.register("ranking", Ranking())
