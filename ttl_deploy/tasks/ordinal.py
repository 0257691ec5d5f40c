"""Grades: exclusive classes in an order, where a neighbour is less wrong than one from the other end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.tasks.exclusive import Exclusive
from ttl_deploy.tasks.task import TASKS, Floats, Labels, Truth


@TASKS.add("ordinal")
class Ordinal(Exclusive):
    """A grade, by softmax over the grades; ranked by the probability of a grade or any above it."""

    KIND = "ordinal"
    GRADED = True
    SELECTS = "quadratic_kappa"
    METRICS = ("quadratic_kappa", "auroc", "auprc")

    def __post_init__(self) -> None:
        if self.positive_from is not None and self.positive_from not in self.classes[1:]:
            raise ValueError(
                f"the positive grades begin with one of {', '.join(self.classes[1:])}, not with {self.positive_from!r}"
            )
        super().__post_init__()

    @property
    def divided(self) -> int | None:
        """The grades from `positive_from` on against those below it."""
        return None if self.positive_from is None else self.classes.index(self.positive_from) - 1

    @property
    def undivided(self) -> str:
        """See `Task.undivided`."""
        return "an operating point divides grades where it is said from which on they are positive (--positive-from)"

    @property
    def columns(self) -> tuple[str, ...]:
        """Every way to divide the grades in two."""
        return tuple(f"{name} or above" for name in self.classes[1:-1]) + self.classes[-1:]

    def decide(self, probabilities: NDArray[np.floating[Any]]) -> Labels:
        """(N,) the most probable grade; with an operating point, of the side that it says."""
        if self.threshold is None or self.divided is None:
            return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
        first = self.divided + 1
        positive = self.scores(np.asarray(probabilities, dtype=np.float64))[:, self.divided] >= self.threshold
        of_side = np.where(
            positive, first + probabilities[:, first:].argmax(axis=1), probabilities[:, :first].argmax(axis=1)
        )
        return np.asarray(of_side, dtype=np.int64)

    def truth(self, labels: Labels) -> Truth:
        """(N, K - 1) whether an image's grade is at least the second, the third and so on."""
        return (labels[:, None] >= np.arange(1, len(self.classes))).astype(np.int8)

    def scores(self, probabilities: Floats) -> Floats:
        """(N, K - 1) the probability of such a grade."""
        return np.cumsum(probabilities[:, ::-1], axis=1)[:, ::-1][:, 1:]

    def headline(self, truth: Truth) -> list[int]:
        """The positive grades against the others; where they are not said, all divisions that these images have."""
        if self.divided is not None:
            return [self.divided]
        return [int(k) for k in np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))]
