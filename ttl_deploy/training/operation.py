"""The operating point of a run: chosen on its validation images, measured on its test images. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import OperatingPoint
from ttl_deploy.tasks import softmax
from ttl_deploy.tasks.operating_point import Operation, Reached, choose, measure

if TYPE_CHECKING:
    from ttl_deploy.training.run import Predictions


def refuse_point(rule: str | None, classes: Sequence[str]) -> None:
    """Raises `BadInputError` where a rule is given and there are more than the two classes it decides between."""
    if rule is not None and len(classes) != 2:
        raise BadInputError(
            f"lies between two classes, the data have {len(classes)}: {', '.join(classes)}",
            where="--operating-point",
            fix="leave it out, or train on two of them",
        )


def operation(predictions: Predictions, rule: str, patients: Mapping[str, str | None]) -> Operation:
    """Chooses by a rule on the validation side, and says what that does on both sides.

    Args:
        predictions: Of a run's validation and test sides.
        rule: As `OperatingPoint.rule`.
        patients: Of each image, where known; an image without one is its own.
    """
    point = operating_point(predictions, rule)
    sides = {side: _reached(point, predictions.side(side), patients) for side in ("val", "test")}
    return Operation(point=point, **sides)


def operating_point(predictions: Predictions, rule: str) -> OperatingPoint:
    """What a rule chooses on the validation side.

    Args:
        predictions: As for `operation`.
        rule: As `OperatingPoint.rule`.
    """
    said = predictions.side("val")
    return choose(rule, said.labels == 1, softmax(said.logits)[:, 1])


def _reached(point: OperatingPoint, said: Predictions, patients: Mapping[str, str | None]) -> Reached:
    groups = patient_groups(patients, said.ids)
    return measure(point.threshold, said.labels == 1, softmax(said.logits)[:, 1], groups)


def patient_groups(patients: Mapping[str, str | None], ids: Sequence[str]) -> list[str] | None:
    """The patient of each image; an image without one is its own. None where no patient is known.

    Args:
        patients: By image, where known.
        ids: The images.
    """
    if not any(patients.get(image) for image in ids):
        return None
    return [f"patient {patients[image]}" if patients.get(image) else f"image {image}" for image in ids]
