"""Is a finished run's folder still what was evaluated? Its files against their recorded hashes, and against each other.

A parity check stands on what PyTorch said of the test side, so a logit, a label or a side that was changed since must
not count as evidence. Runs of versions that recorded no hashes are checked for contradictions alone. No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ttl_deploy import files
from ttl_deploy.data.prepared import SplitRow
from ttl_deploy.errors import IntegrityError
from ttl_deploy.tasks import Task
from ttl_deploy.training.measures import measure_of
from ttl_deploy.training.operation import operation

if TYPE_CHECKING:
    from ttl_deploy.training.run import Predictions

FILES = "files"
"""Key of `metrics.json` under which the hashes stand, by file name."""

_AGAIN = "restore it, or train the run again"
_COMPARED = ("auroc", "auprc", "quadratic_kappa", "accuracy", "brier", "ece", "dice", "jaccard", "cross_entropy")
_TOLERANCE = 1e-6
"""Of a recomputed metric: predictions are stored to float32's last digit, so only the order of sums may differ."""


def hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of a run's files by name."""
    return {name: files.sha256(folder / name) for name in names}


def refuse_changed(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Raises `IntegrityError` where a file of the run is not the one that `metrics.json` records."""
    for name, recorded in metrics.get(FILES, {}).items():
        path = folder / name
        if not path.is_file():
            raise IntegrityError("is missing", where=path, fix=_AGAIN)
        if files.sha256(path) != recorded:
            raise IntegrityError("has changed since the evaluation (its SHA-256 differs)", where=path, fix=_AGAIN)


def refuse_other_split(path: Path, rows: Sequence[SplitRow], task: Task) -> None:
    """Raises `IntegrityError` where a division lists an image twice, an unknown class, or no test side."""
    twice = _doubled([row.id for row in rows])
    if twice is not None:
        raise IntegrityError(f"lists the image {twice} twice", where=path, fix=_AGAIN)
    strange = next((row for row in rows if not _is_label(row.label, task)), None)
    if strange is not None:
        raise IntegrityError(
            f"labels {strange.id} {strange.label!r}, the run's classes are {', '.join(task.classes)}",
            where=path,
            fix=_AGAIN,
        )
    if not any(row.side == "test" for row in rows):
        raise IntegrityError("has no test side", where=path, fix=_AGAIN)


def refuse_other_predictions(
    path: Path,
    predictions: Predictions,
    rows: Sequence[SplitRow],
    task: Task,
    metrics: Mapping[str, Any],
) -> None:
    """Holds recorded predictions against the division and the metrics.

    Args:
        path: Of the predictions, for the error.
        predictions: Of the validation and test sides.
        rows: The division.
        task: What the labels and logits mean.
        metrics: Content of `metrics.json`.

    Raises:
        IntegrityError: An image stands there twice, is missing, or has another side or label than in the division; or
            a metric is not what the predictions give.
    """
    differing = [
        *_other_images(predictions, rows, task),
        *_other_metrics(predictions, task, metrics),
        *_other_operation(predictions, rows, task, metrics),
    ]
    if differing:
        raise IntegrityError(differing[0], where=path, fix=_AGAIN)


def _other_images(predictions: Predictions, rows: Sequence[SplitRow], task: Task) -> Iterator[str]:
    twice = _doubled(predictions.ids)
    if twice is not None:
        yield f"holds the image {twice} twice"
    expected = {row.id: row for row in rows if row.side != "train"}
    for image, side, label in zip(predictions.ids, predictions.sides, task.rows(predictions.labels), strict=True):
        row = expected.pop(image, None)
        if row is None and twice is None:
            yield f"holds the image {image}, which is on no validation or test side of the division"
        elif row is not None and row.side != side:
            yield f"has the image {image} on the side {side}, the division on {row.side}"
        elif row is not None and row.label != task.text(label):
            yield f"labels the image {image} {task.text(label)}, the division {row.label}"
    for row in expected.values():
        yield f"lacks the image {row.id} of the {row.side} side"


def _other_metrics(predictions: Predictions, task: Task, metrics: Mapping[str, Any]) -> Iterator[str]:
    if not np.isfinite(predictions.logits).all():
        yield "holds a logit that is no number"
        return
    for side in ("val", "test"):
        recorded, said = metrics.get(side), predictions.side(side)
        if not isinstance(recorded, Mapping) or not said.ids:
            continue
        found = measure_of(task).evaluate(task, said.labels, said.logits, bootstrap=0).model_dump()
        for name in _COMPARED:
            if name in recorded and not _same(recorded[name], found.get(name)):
                yield (
                    f"gives {_number(found.get(name))} {name.upper()} on the {side} side, metrics.json says "
                    f"{_number(recorded[name])}"
                )


def _other_operation(
    predictions: Predictions, rows: Sequence[SplitRow], task: Task, metrics: Mapping[str, Any]
) -> Iterator[str]:
    recorded = metrics.get("operating_point")
    if recorded is None or not np.isfinite(predictions.logits).all():
        return
    rule, said = recorded["point"]["rule"], recorded["point"]["threshold"]
    found = operation(predictions, rule, {row.id: row.patient for row in rows}, task)
    if not _same(found.point.threshold, said):
        yield f"gives the operating point {found.point.threshold:.6f} by {rule}, metrics.json says {said:.6f}"
    for side in ("val", "test"):
        for name, share in getattr(found, side):
            before = recorded[side][name]
            if (share.hits, share.images) != (before["hits"], before["images"]):
                words = name.replace("_", " ")
                yield (
                    f"gives {share.hits} of {share.images} as {words} on the {side} side, metrics.json says "
                    f"{before['hits']} of {before['images']}"
                )


def _is_label(text: str, task: Task) -> bool:
    try:
        task.label(text)
    except ValueError:
        return False
    return True


def _same(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else abs(one - other) <= _TOLERANCE


def _number(value: float | None) -> str:
    return "no" if value is None else f"{value:.6f}"


def _doubled(ids: Sequence[str]) -> str | None:
    """An image that is there more than once."""
    return next((image for image, count in Counter(ids).items() if count > 1), None)
