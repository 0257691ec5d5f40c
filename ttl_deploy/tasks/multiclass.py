"""Exclusive classes: softmax of the logits, and one class said of each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.spec import OperatingPoint

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Multiclass:
    """A choice of one class.

    Attributes:
        classes: Names in the order of the logits.
        point: Of two classes, where the second begins to be said; None: where it is the more probable.

    Raises:
        ValueError: A point between other than two classes.
    """

    classes: tuple[str, ...]
    point: OperatingPoint | None = None

    def __post_init__(self) -> None:
        if self.point is not None and len(self.classes) != 2:
            raise ValueError(f"an operating point lies between two classes, not {len(self.classes)}")

    @property
    def threshold(self) -> float | None:
        """Probability of the second class from which on it is said; None: the most probable class is."""
        return None if self.point is None else self.point.threshold

    def probabilities(self, logits: NDArray[np.floating[Any]]) -> Floats:
        """(N, K) of logits (N, K)."""
        return softmax(logits)

    def decide(self, probabilities: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """(N,) the number of the class said of each image.

        Args:
            probabilities: (N, K).
        """
        return decide(probabilities, self.threshold)

    def said(self, probabilities: NDArray[np.floating[Any]]) -> tuple[str, ...]:
        """The class said of each image, by name.

        Args:
            probabilities: (N, K).
        """
        return tuple(self.classes[int(chosen)] for chosen in self.decide(probabilities))


def decide(scores: NDArray[np.floating[Any]], threshold: float | None) -> NDArray[np.int64]:
    """(N,) the number of the class said of each image.

    Args:
        scores: (N, K), probabilities; without a threshold anything that grows with them.
        threshold: See `Multiclass.threshold`.
    """
    if threshold is None:
        return np.asarray(scores.argmax(axis=1), dtype=np.int64)
    return np.asarray(scores[:, 1] >= threshold, dtype=np.int64)


def softmax(logits: NDArray[np.floating[Any]]) -> Floats:
    """Class probabilities along the last axis, in float64; subtracting the maximum keeps exp from overflowing."""
    shifted = np.asarray(logits, dtype=np.float64)
    powers = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    probabilities: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities
