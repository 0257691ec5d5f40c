"""Exclusive classes: softmax of the logits, and one class said of each image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.tasks.exclusive import Exclusive
from ttl_deploy.tasks.task import TASKS, Floats, Labels, Truth


@TASKS.add("multiclass")
class Multiclass(Exclusive):
    """A choice of one class; of two, the second is the positive one."""

    KIND = "multiclass"

    @property
    def divided(self) -> int | None:
        """The second of two classes."""
        return 1 if len(self.classes) == 2 else None

    @property
    def undivided(self) -> str:
        """See `Task.undivided`."""
        return f"an operating point lies between two classes, not {len(self.classes)}"

    @property
    def telling(self) -> tuple[str, ...]:
        """Of two classes the second says all."""
        return self.classes[1:] if len(self.classes) == 2 else self.classes

    @property
    def columns(self) -> tuple[str, ...]:
        """Each class against the rest."""
        return self.classes

    @property
    def ungathered(self) -> tuple[str, str] | None:
        """Of two classes the second has a maximum; of more, none comes first."""
        if len(self.classes) == 2:
            return None
        return (
            f"of {len(self.classes)} exclusive classes there is no maximum over the windows of a study",
            "pass --task multilabel, or leave --slice-stride out",
        )

    def _maximum(self, outputs: NDArray[np.float32], first: NDArray[np.int64]) -> NDArray[np.float32]:
        """The outputs of the window that says most for the second of two classes."""
        lead = np.split(outputs[:, 1].astype(np.float64) - outputs[:, 0], first[1:])
        speaks = first + np.array([int(windows.argmax()) for windows in lead])
        return np.asarray(outputs[speaks])

    def decide(self, probabilities: NDArray[np.floating[Any]]) -> Labels:
        """(N,) the number of the class said of each image."""
        if self.threshold is None:
            return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
        return np.asarray(probabilities[:, 1] >= self.threshold, dtype=np.int64)

    def truth(self, labels: Labels) -> Truth:
        """(N, K)."""
        return self.members(labels).astype(np.int8)

    def scores(self, probabilities: Floats) -> Floats:
        """(N, K) the probabilities."""
        return probabilities

    def headline(self, truth: Truth) -> list[int]:
        """The second of two classes, as in the paper; else all that occur in the labels."""
        return [1] if len(self.classes) == 2 else [int(k) for k in np.flatnonzero((truth == 1).any(axis=0))]
