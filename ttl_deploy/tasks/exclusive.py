"""One class for each image, by softmax of the logits: what a choice and grades have in common. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.tasks.task import UNKNOWN, Floats, Label, Labels, Task, Truth


class Exclusive(Task):
    """A label is the number of a class."""

    @property
    def unlabelled(self) -> Label:
        """See `Task.unlabelled`."""
        return UNKNOWN

    def members(self, labels: Labels) -> NDArray[np.bool_]:
        """(N, K), one class for each image."""
        return np.asarray(labels[:, None] == np.arange(len(self.classes)))

    def strata(self, labels: Labels) -> Labels:
        """(N,) the class."""
        return labels

    def text(self, label: Label) -> str:
        """The class's name."""
        assert isinstance(label, int)
        return self.classes[label]

    def label(self, text: str) -> Label:
        """The number of a class; see `Task.label`."""
        return self.classes.index(text)

    def probabilities(self, logits: NDArray[np.floating[Any]]) -> Floats:
        """(N, K), each row adding up to 1."""
        return softmax(logits)

    def decide_by_logits(self, logits: NDArray[np.floating[Any]]) -> Labels:
        """(N,); without a threshold the largest logit, where softmax may have rounded two to one."""
        return self.decide(logits if self.threshold is None else self.probabilities(logits))

    def certain(self, probabilities: Floats) -> Labels:
        """(N, 1) the most probable class."""
        return np.asarray(probabilities.argmax(axis=1)[:, None], dtype=np.int64)

    def confidence(self, probabilities: Floats, answers: Labels) -> Floats:
        """(N, 1) the probability of a class."""
        return np.take_along_axis(probabilities, answers, axis=1)

    def right(self, labels: Labels, answers: Labels) -> Truth:
        """(N, 1)."""
        return np.asarray(answers == labels[:, None], dtype=np.int8)

    def brier(self, labels: Labels, probabilities: Floats) -> Floats:
        """(N,) of two classes the squared error of the second, else the sum over the classes (Brier 1950)."""
        errors: Floats = (probabilities - np.eye(probabilities.shape[1])[labels]) ** 2
        return np.asarray(errors[:, 1] if errors.shape[1] == 2 else errors.sum(axis=1))

    def balanced_accuracy(self, labels: Labels, probabilities: Floats) -> float:
        """Mean over the classes in the labels of the fraction of their images that is recognised."""
        return float(np.mean([right.mean() for _, right in self.recalled(labels, probabilities)]))

    def recalled(self, labels: Labels, probabilities: Floats) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Of each class in the labels its images, and which are recognised."""
        right = probabilities.argmax(axis=1) == labels
        return [(np.flatnonzero(labels == k), right[labels == k]) for k in np.unique(labels)]

    def check(self, labels: NDArray[Any], probabilities: Floats) -> Labels:
        """(N,) integers from 0 to K - 1, and rows that add up to 1; see `Task.check`."""
        if labels.shape != probabilities.shape[:1] or not len(labels):
            raise ValueError(
                f"labels are one integer per image, got {labels.shape} for probabilities {probabilities.shape}"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= len(self.classes):
            raise ValueError(f"labels are integers from 0 to {len(self.classes) - 1}")
        return labels.astype(np.int64)


def softmax(logits: NDArray[np.floating[Any]]) -> Floats:
    """Class probabilities along the last axis, in float64; subtracting the maximum keeps exp from overflowing."""
    shifted = np.asarray(logits, dtype=np.float64)
    powers = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    probabilities: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities
