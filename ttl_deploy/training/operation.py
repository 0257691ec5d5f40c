"""The operating point of a run: chosen on its validation images, measured on its test images. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import OperatingPoint
from ttl_deploy.tasks import UNKNOWN, Task
from ttl_deploy.tasks.operating_point import Operation, Reached, choose, measure

if TYPE_CHECKING:
    from ttl_deploy.training.run import Predictions


def refuse_point(rule: str | None, task: Task) -> None:
    """Raises `BadInputError` where a rule is given and the task has nothing that it divides."""
    if rule is not None and task.divided is None:
        raise BadInputError(
            f"{task.undivided} ({', '.join(task.classes)})", where="--operating-point", fix="leave it out"
        )


def operation(predictions: Predictions, rule: str, patients: Mapping[str, str | None], task: Task) -> Operation:
    """Chooses by a rule on the validation side, and says what that does on both sides.

    Args:
        predictions: Of a run's validation and test sides.
        rule: As `OperatingPoint.rule`.
        patients: Of each image, where known; an image without one is its own.
        task: Which of its columns is divided.
    """
    point = operating_point(predictions, rule, task)
    sides = {side: _reached(point, predictions.side(side), patients, task) for side in ("val", "test")}
    return Operation(point=point, **sides)


def operating_point(predictions: Predictions, rule: str, task: Task) -> OperatingPoint:
    """What a rule chooses on the validation side.

    Args:
        predictions: As for `operation`.
        rule: As `OperatingPoint.rule`.
        task: As for `operation`.
    """
    _ids, positive, scores = _divided(predictions.side("val"), task)
    return choose(rule, positive, scores)


def _reached(point: OperatingPoint, said: Predictions, patients: Mapping[str, str | None], task: Task) -> Reached:
    ids, positive, scores = _divided(said, task)
    return measure(point.threshold, positive, scores, patient_groups(patients, ids))


def _divided(said: Predictions, task: Task) -> tuple[list[str], NDArray[np.bool_], NDArray[np.float64]]:
    """The images of which it is known whether they are positive, whether they are, and their scores."""
    assert task.divided is not None
    truth = task.truth(said.labels)[:, task.divided]
    scores = task.scores(task.probabilities(said.logits))[:, task.divided]
    known = truth != UNKNOWN
    ids = [image for image, keep in zip(said.ids, known, strict=True) if keep]
    return ids, truth[known] == 1, scores[known]


def patient_groups(patients: Mapping[str, str | None], ids: Sequence[str]) -> list[str] | None:
    """The patient of each image; an image without one is its own. None where no patient is known.

    Args:
        patients: By image, where known.
        ids: The images.
    """
    if not any(patients.get(image) for image in ids):
        return None
    return [f"patient {patients[image]}" if patients.get(image) else f"image {image}" for image in ids]
