"""What the figures of a model show, as numbers: curves by scikit-learn, calibration, decisions against labels.

All of it is taken of a task's columns of yes and no, so that two classes, many, grades and labels are drawn alike. An
image of which a column's answer is not known counts nowhere in it. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.tasks import UNKNOWN, Labels, Task
from ttl_deploy.tasks.operating_point import Reached, Share, measure, share
from ttl_deploy.tasks.task import rankable
from ttl_deploy.training import intervals

BINS = 10
"""Of a reliability diagram, equal in width."""

_HALF = 0.5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """Yes against no.

    Attributes:
        name: What is a yes.
        positive: (N,) of the images of which it is known.
        scores: (N,).
        patients: (N,) the number of each image's patient.
    """

    name: str
    positive: NDArray[np.bool_]
    scores: Floats
    patients: NDArray[np.int64]


def columns(task: Task, labels: Labels, logits: NDArray[np.float32], patients: NDArray[np.int64]) -> list[Column]:
    """The columns of the headline that have images of both kinds; of two classes that is the positive one."""
    truth = task.truth(labels)
    scores = task.scores(task.probabilities(logits))
    chosen = [k for k in task.headline(truth) if k in rankable(truth)]
    return [_column(task.columns[k], truth[:, k], scores[:, k], patients) for k in chosen]


def _column(name: str, truth: NDArray[np.int8], scores: Floats, patients: NDArray[np.int64]) -> Column:
    known = truth != UNKNOWN
    return Column(name, truth[known] == 1, scores[known], patients[known])


@dataclass(frozen=True)
class Curve:
    """A line through what every threshold gives.

    Attributes:
        name: Of its column.
        x: (P,).
        y: (P,).
        thresholds: (P,) a yes is what scores at least this.
    """

    name: str
    x: Floats
    y: Floats
    thresholds: Floats

    def at_most(self, points: int) -> Curve:
        """As many points of it, its ends among them: those nearest to equal steps along the line."""
        if len(self.x) <= points:
            return self
        steps = np.hypot(np.diff(self.x), np.diff(self.y))
        along = np.append(0.0, np.cumsum(steps))
        places = np.searchsorted(along, np.linspace(0, along[-1], points)).clip(0, len(along) - 1)
        kept = np.unique(np.concatenate([[0], places, [len(along) - 1]]))
        return Curve(self.name, self.x[kept], self.y[kept], self.thresholds[kept])


def roc(column: Column) -> Curve:
    """1 - specificity and sensitivity; the first threshold is above every score."""
    from sklearn.metrics import roc_curve

    false, true, thresholds = roc_curve(column.positive, column.scores)
    return Curve(column.name, false, true, np.append(1.0, thresholds[1:]))


def precision_recall(column: Column) -> Curve:
    """Recall and precision; the last point, of no image said to be a yes, has the precision 1 by convention."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(column.positive, column.scores, drop_intermediate=True)
    return Curve(column.name, recall[::-1], precision[::-1], np.append(1.0, thresholds[::-1]))


class Bin(NamedTuple):
    """Images whose probabilities are alike.

    Attributes:
        said: Mean of the probabilities.
        found: How many of them it was true of, with an interval by patient.
    """

    said: float
    found: Share


def reliability(probabilities: Floats, true: NDArray[np.bool_], patients: NDArray[np.int64]) -> list[Bin]:
    """The bins that hold images: what was said beside what was found; as scikit-learn's `calibration_curve` has them.

    Args:
        probabilities: (N,).
        true: (N,).
        patients: (N,) numbers.
    """
    place = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probabilities)
    kept = ((place == k).nonzero()[0] for k in range(BINS))
    return [Bin(float(probabilities[k].mean()), share(true[k], patients[k])) for k in kept if len(k)]


def answers(
    task: Task, labels: Labels, logits: NDArray[np.float32], patients: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64]]:
    """The most probable answers, as the calibration error takes them: probability, whether right, patient's number."""
    probabilities = task.probabilities(logits)
    certain = task.certain(probabilities)
    right, sure = task.right(labels, certain), task.confidence(probabilities, certain)
    known = right != UNKNOWN
    return sure[known], right[known] == 1, np.broadcast_to(patients[:, None], right.shape)[known]


def accuracy(
    task: Task, labels: Labels, logits: NDArray[np.float32], patients: NDArray[np.int64]
) -> dict[str, tuple[float, float] | None]:
    """The intervals of the recorded accuracies by their names, of shares of answers by patient; nothing of masks."""
    if not task.columns:
        return {}
    _sure, right, owners = answers(task, labels, logits, patients)
    recalled = task.recalled(labels, task.probabilities(logits))
    hits, people = [hit for _, hit in recalled], [patients[rows] for rows, _ in recalled]
    return {
        "accuracy_interval": share(right, owners).interval,
        "balanced_accuracy_interval": intervals.of_mean_share(hits, people),
    }


def reached(task: Task, labels: Labels, logits: NDArray[np.float32], patients: NDArray[np.int64]) -> Reached | None:
    """What the decision between two sides gives, from one half on where no point is; None without two sides."""
    if task.divided is None:
        return None
    truth, scores = task.truth(labels), task.scores(task.probabilities(logits))
    column = _column(task.positive, truth[:, task.divided], scores[:, task.divided], patients)
    threshold = _HALF if task.threshold is None else task.threshold
    return measure(threshold, column.positive, column.scores, column.patients.astype(np.str_).tolist())


def confusion(task: Task, labels: Labels, logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """(K, K) images by class and by what is said of them, of exclusive classes; of labels (K, 2, 2), each by itself."""
    said = task.decide_by_logits(logits)
    if not task.SEVERAL:
        return _counts(labels, said, len(task.classes))
    known = labels != UNKNOWN
    each = range(labels.shape[1])
    return np.stack([_counts(labels[known[:, k], k], said[known[:, k], k], 2) for k in each])


def _counts(labels: Labels, said: Labels, kinds: int) -> NDArray[np.int64]:
    from sklearn.metrics import confusion_matrix

    return np.asarray(confusion_matrix(labels, said, labels=np.arange(kinds)), dtype=np.int64)
