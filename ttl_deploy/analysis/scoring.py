"""The metrics of a task's headline on images of the test side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.analysis.subject import Subject
from ttl_deploy.errors import BadInputError
from ttl_deploy.training.measures import measure_of
from ttl_deploy.training.metrics import MEASURES, TITLES


def refuse_untellable(subject: Subject, rows: NDArray[np.int64]) -> None:
    """Raises `BadInputError` where the images' labels show no difference, so that no metric exists."""
    task = subject.run.task
    if measure_of(task).untellable(task, subject.prepared.labels[rows]):
        what = "no class has images with it and without it on the test side"
        raise BadInputError(what, where=subject.run.folder, fix="pass a run with more images")


def scores(subject: Subject, rows: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, float]:
    """The task's metrics by name.

    Args:
        subject: The run.
        rows: Which images.
        probabilities: (N, K) of them.
    """
    task = subject.run.task
    return {name: MEASURES[name](subject.prepared.labels[rows], probabilities, task) for name in task.METRICS}


def title_of(metric: str) -> str:
    """What people call a metric."""
    return TITLES.get(metric, metric.replace("_", " "))
