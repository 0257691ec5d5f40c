"""Labels that an image has or has not, each by a sigmoid of its own; one label alone is a binary task of one output.

What is not known of an image is `UNKNOWN` and counts in no loss and no metric.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.tasks.task import TASKS, UNKNOWN, Floats, Label, Labels, Task, Truth, rankable, rarest

SEPARATOR = "|"
"""Between the labels of an image, as in ChestX-ray14."""
DOUBT = "?"
"""Before a label of which nothing is known."""


@TASKS.add("multilabel")
class Multilabel(Task):
    """A label is K numbers: 1, 0 or `UNKNOWN`."""

    KIND = "multilabel"
    ACTIVATION = "sigmoid"
    SEVERAL = True

    def __post_init__(self) -> None:
        for name in self.classes:
            if SEPARATOR in name or name.startswith(DOUBT):
                raise ValueError(f"label {name!r} holds {SEPARATOR!r}, or begins with {DOUBT!r}, which divide labels")
        super().__post_init__()

    @property
    def divided(self) -> int | None:
        """The label, where there is but one."""
        return 0 if len(self.classes) == 1 else None

    @property
    def undivided(self) -> str:
        """See `Task.undivided`."""
        return f"an operating point is of one label, not of {len(self.classes)}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The labels."""
        return self.classes

    @property
    def unlabelled(self) -> Label:
        """Nothing is known of any label."""
        return (UNKNOWN,) * len(self.classes)

    def members(self, labels: Labels) -> NDArray[np.bool_]:
        """(N, K) the labels that are yes."""
        return np.asarray(labels == 1)

    def strata(self, labels: Labels) -> Labels:
        """(N,) the rarest label that an image has; K where it has none."""
        return rarest(labels)[0]

    def text(self, label: Label) -> str:
        """`A|B` for an image with A and B, `A|?C` where of C nothing is known, nothing for one without any."""
        assert isinstance(label, tuple)
        return text_of_marks(self.classes, label)

    def label(self, text: str) -> Label:
        """The label of such a text; see `Task.label`."""
        values = [0] * len(self.classes)
        for part in text.split(SEPARATOR) if text else ():
            values[self.classes.index(part.removeprefix(DOUBT))] = UNKNOWN if part.startswith(DOUBT) else 1
        return tuple(values)

    def probabilities(self, logits: NDArray[np.floating[Any]]) -> Floats:
        """(N, K), each by itself."""
        return sigmoid(logits)

    @property
    def ungathered(self) -> None:
        """Each label has its maximum."""

    def decide(self, probabilities: NDArray[np.floating[Any]]) -> Labels:
        """(N, K) of 0 and 1."""
        return np.asarray(probabilities >= (0.5 if self.threshold is None else self.threshold), dtype=np.int64)

    def truth(self, labels: Labels) -> Truth:
        """(N, K) the labels themselves."""
        return labels.astype(np.int8)

    def scores(self, probabilities: Floats) -> Floats:
        """(N, K) the probabilities."""
        return probabilities

    def headline(self, truth: Truth) -> list[int]:
        """The labels that some images have and some have not, as far as is known."""
        return rankable(truth)

    def certain(self, probabilities: Floats) -> Labels:
        """(N, K) whether each label is the more probable."""
        return np.asarray(probabilities >= 0.5, dtype=np.int64)

    def confidence(self, probabilities: Floats, answers: Labels) -> Floats:
        """(N, K) the probability of each answer."""
        return np.where(answers == 1, probabilities, 1 - probabilities)

    def right(self, labels: Labels, answers: Labels) -> Truth:
        """(N, K)."""
        return np.where(labels == UNKNOWN, UNKNOWN, answers == labels).astype(np.int8)

    def brier(self, labels: Labels, probabilities: Floats) -> Floats:
        """(N,) the mean squared error over the labels that are known."""
        known = labels != UNKNOWN
        errors = np.where(known, (probabilities - labels) ** 2, 0.0)
        return np.asarray(errors.sum(axis=1) / known.sum(axis=1))

    def balanced_accuracy(self, labels: Labels, probabilities: Floats) -> float:
        """Mean over the labels that these images have and have not of sensitivity and specificity."""
        rates = [right.mean() for _, right in self.recalled(labels, probabilities)]
        return float(np.mean(rates)) if rates else float((self.right(labels, self.certain(probabilities)) == 1).mean())

    def recalled(self, labels: Labels, probabilities: Floats) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Of each label that these images have and have not, those that have it and those that have not."""
        said = self.certain(probabilities)
        sides = [(k, side) for k in self.headline(self.truth(labels)) for side in (1, 0)]
        return [(np.flatnonzero(labels[:, k] == side), said[labels[:, k] == side, k] == side) for k, side in sides]

    def check(self, labels: NDArray[Any], probabilities: Floats) -> Labels:
        """(N, K) of 1, 0 and `UNKNOWN`, of every image at least one known; see `Task.check`."""
        if labels.shape != probabilities.shape or not len(labels):
            raise ValueError(f"labels are (images, labels), got {labels.shape} for probabilities {probabilities.shape}")
        if not np.issubdtype(labels.dtype, np.integer) or not np.isin(labels, (0, 1, UNKNOWN)).all():
            raise ValueError(f"labels are 1, 0 or {UNKNOWN}")
        if (labels == UNKNOWN).all(axis=1).any():
            raise ValueError("an image has no known label")
        return labels.astype(np.int64)


def text_of_marks(names: Iterable[str], marks: Iterable[int]) -> str:
    """`A|?C` of names and their marks: 1, 0 or `UNKNOWN`."""
    signs = {1: "", UNKNOWN: DOUBT}
    return SEPARATOR.join(signs[mark] + name for name, mark in zip(names, marks, strict=True) if mark in signs)


def sigmoid(logits: NDArray[np.floating[Any]]) -> Floats:
    """The probability of each logit by itself, in float64, without overflow."""
    from scipy.special import expit

    probabilities: Floats = expit(np.asarray(logits, dtype=np.float64))
    return probabilities
