"""What a task says, whatever its outputs mean; the other rooms ask it and never which task it is.

Two shapes of labels go through them: (N,) the number of each image's class, or (N, K) whether it has each label. Every
measure that ranks images is taken of `truth` and `scores`: columns of yes, no and unknown, each with a score of its
own. No torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.errors import DamagedError
from ttl_deploy.registry import Registry
from ttl_deploy.spec import ModelSpec, OperatingPoint, TaskSpec

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Truth = NDArray[np.int8]
"""(N, M) of 1, 0 and `UNKNOWN`."""
Label = int | tuple[int, ...]
Activation = Literal["softmax", "sigmoid"]

UNKNOWN = -1
"""Of a label or of an image, where nobody said."""


@dataclass(frozen=True)
class Task(ABC):
    """What a model's outputs mean.

    Attributes:
        classes: Names in the order of the outputs.
        positive_from: The first class that counts as positive, where the classes are grades.
        point: Where the positive side begins to be said; None: where it is the more probable.
        KIND: Its name.
        ACTIVATION: What makes probabilities of logits.
        GRADED: Whether `positive_from` is one of its options.
        SELECTS: The metric that chooses the best epoch; higher is better.
        METRICS: The metrics that the headline has, in the order in which they are shown.
        SEVERAL: Whether an image may have several of the classes, or none of them.
        DENSE: Whether it says something of every pixel, so that a label is a mask that lies in a file.
        MEASURE: By which measure it is judged, of those in `ttl_deploy.training.measures`.

    Raises:
        ValueError: The classes or the point are none that the task can have.
    """

    classes: tuple[str, ...]
    positive_from: str | None = None
    point: OperatingPoint | None = None

    KIND: ClassVar[str]
    ACTIVATION: ClassVar[Activation] = "softmax"
    GRADED: ClassVar[bool] = False
    SELECTS: ClassVar[str] = "auprc"
    METRICS: ClassVar[tuple[str, ...]] = ("auroc", "auprc")
    SEVERAL: ClassVar[bool] = False
    DENSE: ClassVar[bool] = False
    MEASURE: ClassVar[str] = "ranking"

    def __post_init__(self) -> None:
        if self.point is not None and self.divided is None:
            raise ValueError(self.undivided)

    def outputs(self, size: Sequence[int]) -> tuple[int, ...]:
        """Shape of what a model says of one image.

        Args:
            size: Of the input, (height, width).
        """
        return (len(self.classes),)

    @property
    def spec(self) -> TaskSpec:
        """Its record, without the classes and the point."""
        return TaskSpec(kind=self.KIND, positive_from=self.positive_from)

    @property
    def threshold(self) -> float | None:
        """Score of the divided column from which on it is said; None: the most probable is."""
        return None if self.point is None else self.point.threshold

    @property
    @abstractmethod
    def divided(self) -> int | None:
        """The column of `truth` and `scores` that an operating point divides; None where there is no such one."""

    @property
    @abstractmethod
    def undivided(self) -> str:
        """Why there is none, in words."""

    @property
    def positive(self) -> str:
        """What an operating point begins to say."""
        return "" if self.divided is None else self.columns[self.divided]

    @property
    def telling(self) -> tuple[str, ...]:
        """The classes whose probabilities tell all of them."""
        return self.classes

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """M names of what is ranked, yes against no."""

    @property
    @abstractmethod
    def unlabelled(self) -> Label:
        """The label of an image of which nobody said one."""

    def known(self, labels: Labels) -> NDArray[np.bool_]:
        """(N,) of which images anything is known."""
        return np.asarray((labels != UNKNOWN).reshape(len(labels), -1).any(axis=1))

    @abstractmethod
    def members(self, labels: Labels) -> NDArray[np.bool_]:
        """(N, K) which classes each image is known to have."""

    @abstractmethod
    def strata(self, labels: Labels) -> Labels:
        """(N,) one number for each image, of which a drawing of images keeps the shares."""

    @abstractmethod
    def text(self, label: Label) -> str:
        """A label as files and people have it."""

    @abstractmethod
    def label(self, text: str) -> Label:
        """The label of a text.

        Raises:
            ValueError: It names another class.
        """

    @abstractmethod
    def probabilities(self, logits: NDArray[np.floating[Any]]) -> Floats:
        """(N, K) of logits (N, K)."""

    @abstractmethod
    def decide(self, probabilities: NDArray[np.floating[Any]]) -> Labels:
        """What is said of each image: labels of the task's shape, none unknown.

        Args:
            probabilities: (N, K).
        """

    def decide_by_logits(self, logits: NDArray[np.floating[Any]]) -> Labels:
        """The same of logits (N, K)."""
        return self.decide(self.probabilities(logits))

    @property
    def ungathered(self) -> tuple[str, str] | None:
        """Why there is no maximum over the windows of a study, and the way out; None where there is one."""
        return f"task {self.KIND} has no maximum over the windows of a study", "leave --slice-stride out"

    def gather(self, outputs: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float32]:
        """What is said of studies, of what was said of each of their windows: the maximum (Huang 2020).

        Args:
            outputs: (M, K) logits, or what the model's own activation makes of them: it keeps their order.
            counts: (N,) how many windows each study has, at least 1, one study after the other.

        Returns:
            (N, K); the outputs as they are where each is of a study of its own.

        Raises:
            ValueError: The counts are not those of the outputs, or the task has no maximum.
        """
        if int(counts.sum()) != len(outputs):
            raise ValueError(f"{len(outputs)} outputs are not those of {int(counts.sum())} windows")
        if len(outputs) == len(counts):
            return outputs
        if self.ungathered is not None:
            raise ValueError(self.ungathered[0])
        return self._maximum(outputs, np.cumsum(counts) - counts)

    def _maximum(self, outputs: NDArray[np.float32], first: NDArray[np.int64]) -> NDArray[np.float32]:
        """`gather`, where the windows of each study begin at `first`: each column's own maximum."""
        return np.asarray(np.maximum.reduceat(outputs, first, axis=0), dtype=np.float32)

    def said(self, probabilities: NDArray[np.floating[Any]]) -> tuple[str, ...]:
        """What is said of each image, in words.

        Args:
            probabilities: (N, K).
        """
        return tuple(self.text(label) for label in self.rows(self.decide(probabilities)))

    @staticmethod
    def rows(labels: Labels) -> list[Label]:
        """The labels one by one."""
        return [tuple(row) if isinstance(row, list) else row for row in labels.tolist()]

    @abstractmethod
    def truth(self, labels: Labels) -> Truth:
        """(N, M) whether each image is a yes of each column."""

    @abstractmethod
    def scores(self, probabilities: Floats) -> Floats:
        """(N, M) what ranks the images of each column."""

    @abstractmethod
    def headline(self, truth: Truth) -> list[int]:
        """The columns whose mean is the headline; those on which these images can tell nothing may be among them."""

    @abstractmethod
    def certain(self, probabilities: Floats) -> Labels:
        """(N, J) the J most probable answers for each image, whatever the operating point."""

    @abstractmethod
    def confidence(self, probabilities: Floats, answers: Labels) -> Floats:
        """(N, J) the probability of such answers."""

    @abstractmethod
    def right(self, labels: Labels, answers: Labels) -> Truth:
        """(N, J) whether such answers are right."""

    @abstractmethod
    def brier(self, labels: Labels, probabilities: Floats) -> Floats:
        """(N,) the Brier score of each image."""

    @abstractmethod
    def balanced_accuracy(self, labels: Labels, probabilities: Floats) -> float:
        """The fraction decided rightly, every kind of label counting the same, whatever the operating point."""

    def recalled(self, labels: Labels, probabilities: Floats) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """The fractions that `balanced_accuracy` is the mean of: rows of the images, and which are decided rightly.

        Nothing of a task whose fractions are not of images.
        """
        return []

    @abstractmethod
    def check(self, labels: NDArray[Any], probabilities: Floats) -> Labels:
        """The labels as integers.

        Raises:
            ValueError: A shape, a label or a probability is impossible.
        """


def rankable(truth: Truth) -> list[int]:
    """The columns that some images are a yes of and some a no, as far as is known.

    Args:
        truth: (N, M); see `Task.truth`.
    """
    return [int(k) for k in np.flatnonzero((truth == 1).any(axis=0) & (truth == 0).any(axis=0))]


def rarest(truth: Truth | Labels) -> tuple[Labels, Labels]:
    """(N,) the column with the fewest yes of those that an image is a yes of, M where it is of none; (N,) how many.

    Args:
        truth: (N, M); see `Task.truth`. An image of none counts as rarer than no column: N + 1.
    """
    yes = truth == 1
    rarity = np.where(yes, yes.sum(axis=0), len(truth) + 1)
    column = np.where(yes.any(axis=1), rarity.argmin(axis=1), truth.shape[1])
    return column.astype(np.int64), rarity.min(axis=1).astype(np.int64)


TASKS: Registry[type[Task]] = Registry("task", "ttl_deploy.tasks", entry_points="ttl_deploy.tasks")


def task_of(spec: ModelSpec, point: OperatingPoint | None = None) -> Task:
    """The task of a model.

    Raises:
        ValueError: Its classes or the point do not fit the task.
        BadInputError: No such task.
    """
    return make_task(spec.task, spec.classes, point)


def possible_task(spec: ModelSpec, point: OperatingPoint | None = None) -> Task:
    """The task of a record that was read from a file.

    Raises:
        DamagedError: Its classes or the point do not fit the task.
        BadInputError: No such task.
    """
    try:
        return task_of(spec, point)
    except ValueError as error:
        raise DamagedError(f"is no possible task: {error}") from error


def make_task(task: TaskSpec, classes: Sequence[str], point: OperatingPoint | None = None) -> Task:
    """The task of a record; raises as `task_of`."""
    return TASKS.get(task.kind)(tuple(classes), task.positive_from, point)
