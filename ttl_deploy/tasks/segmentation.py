"""One structure outlined in each image: a probability for every pixel (paper, appendix A.2).

The mask of an image lies in a file; its label is the beginning of that file's SHA-256, so that a division knows when a
mask was changed. Images are not ranked: everything that is asked of columns has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.tasks.multilabel import sigmoid
from ttl_deploy.tasks.task import TASKS, UNKNOWN, Floats, Label, Labels, Task, Truth

_DIGITS = 15
"""Hexadecimal digits of a label: 60 bits, which an int64 holds."""


@TASKS.add("segmentation")
class Segmentation(Task):
    """Inside or outside, for each pixel; inside from a probability of one half on."""

    KIND = "segmentation"
    ACTIVATION = "sigmoid"
    SELECTS = "dice"
    METRICS = ("dice", "jaccard")
    MEASURE = "overlap"
    DENSE = True

    def __post_init__(self) -> None:
        if len(self.classes) != 1:
            raise ValueError(f"a mask is of one structure, not of {len(self.classes)}")
        super().__post_init__()

    def outputs(self, size: Sequence[int]) -> tuple[int, ...]:
        """(1, height, width)."""
        return (1, *size)

    @property
    def divided(self) -> int | None:
        """None."""
        return None

    @property
    def undivided(self) -> str:
        """See `Task.undivided`."""
        return "an operating point is of what is said of an image, and a mask is said of its pixels"

    @property
    def columns(self) -> tuple[str, ...]:
        """None: images are not ranked."""
        return ()

    @property
    def unlabelled(self) -> Label:
        """Nobody drew a mask."""
        return UNKNOWN

    @property
    def telling(self) -> tuple[str, ...]:
        """What a comparison shows of an image."""
        return ("Dice",)

    def members(self, labels: Labels) -> NDArray[np.bool_]:
        """(N, 1) which images have a mask."""
        return np.asarray(labels[:, None] != UNKNOWN)

    def strata(self, labels: Labels) -> Labels:
        """(N,) of zeros: all images are of one kind."""
        return np.zeros(len(labels), dtype=np.int64)

    def text(self, label: Label) -> str:
        """The beginning of the mask's SHA-256; nothing without a mask."""
        assert isinstance(label, int)
        return "" if label == UNKNOWN else f"{label:0{_DIGITS}x}"

    def label(self, text: str) -> Label:
        """The label of such a text, or of a whole SHA-256; see `Task.label`."""
        if not text:
            return UNKNOWN
        if len(text) < _DIGITS:
            raise ValueError(f"{text!r} is no beginning of a SHA-256")
        return int(text[:_DIGITS], 16)

    def probabilities(self, logits: NDArray[np.floating[Any]]) -> Floats:
        """(N, 1, H, W), each pixel by itself."""
        return sigmoid(logits)

    def decide(self, probabilities: NDArray[np.floating[Any]]) -> Labels:
        """(N, 1, H, W) of 0 and 1."""
        return np.asarray(probabilities >= 0.5, dtype=np.int64)

    def said(self, probabilities: NDArray[np.floating[Any]]) -> tuple[str, ...]:
        """How much of each image is inside."""
        inside = (np.asarray(probabilities) >= 0.5).reshape(len(probabilities), -1).mean(axis=1)
        return tuple(f"{share:.1%} inside" for share in inside)

    def truth(self, labels: Labels) -> Truth:
        """(N, 0)."""
        return np.zeros((len(labels), 0), dtype=np.int8)

    def scores(self, probabilities: Floats) -> Floats:
        """(N, 0)."""
        return np.zeros((len(probabilities), 0))

    def headline(self, truth: Truth) -> list[int]:
        """No column."""
        return []

    def certain(self, probabilities: Floats) -> Labels:
        """(N, 0)."""
        return np.zeros((len(probabilities), 0), dtype=np.int64)

    def confidence(self, probabilities: Floats, answers: Labels) -> Floats:
        """(N, 0)."""
        return np.zeros(answers.shape)

    def right(self, labels: Labels, answers: Labels) -> Truth:
        """(N, 0)."""
        return np.zeros(answers.shape, dtype=np.int8)

    def brier(self, labels: Labels, probabilities: Floats) -> Floats:
        """(N,) the mean squared error of the pixels where `labels` are masks (N, 1, H, W)."""
        return np.asarray(((probabilities - labels) ** 2).reshape(len(labels), -1).mean(axis=1))

    def balanced_accuracy(self, labels: Labels, probabilities: Floats) -> float:
        """Mean of the pixels' sensitivity and specificity where `labels` are masks (N, 1, H, W)."""
        said = self.decide(probabilities)
        return float(np.mean([(said[labels == value] == value).mean() for value in np.unique(labels)]))

    def check(self, labels: NDArray[Any], probabilities: Floats) -> Labels:
        """(N, 1, H, W) of 0 and 1; see `Task.check`."""
        if labels.shape != probabilities.shape or not len(labels):
            raise ValueError(f"masks are as large as what is said, got {labels.shape} for {probabilities.shape}")
        if not np.isin(labels, (0, 1)).all():
            raise ValueError("masks are of 0 and 1")
        return labels.astype(np.int64)
