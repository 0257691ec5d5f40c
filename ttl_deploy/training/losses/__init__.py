"""What training makes small, one file for each way: from the training labels and the protocol to a loss of logits.

A task's loss is registered under the task's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ttl_deploy.errors import BadInputError
from ttl_deploy.registry import Registry
from ttl_deploy.spec.training import Recipe
from ttl_deploy.tasks import Labels, Task

Weighing = Literal["class_weights", "pos_weight"]
_OPTIONS: dict[Weighing, str] = {"class_weights": "--class-weights", "pos_weight": "--pos-weight"}


@dataclass(frozen=True)
class Loss:
    """A kind of loss.

    Attributes:
        make: The loss of a task, weighed for these training labels (None: not weighed); called with logits
            (N, K) float32 and labels as the task has them.
        weighing: The option that weighs it; None: nothing does.
    """

    make: Callable[[Task, Labels | None], nn.Module]
    weighing: Weighing | None = None


LOSSES: Registry[Loss] = Registry("loss", "ttl_deploy.training.losses", entry_points="ttl_deploy.losses")


def refuse_weighing(kind: str, recipe: Recipe) -> None:
    """Raises `BadInputError` where a protocol weighs what the loss of this kind of task has not."""
    taken = LOSSES.get(kind).weighing
    for option, word in _OPTIONS.items():
        if option != taken and getattr(recipe, option) != "none":
            instead = f", or pass {_OPTIONS[taken]} balanced" if taken is not None else ""
            raise BadInputError(f"{word} weighs no loss of --task {kind}", fix=f"leave it out{instead}")


def training_loss(task: Task, recipe: Recipe, labels: Labels) -> nn.Module:
    """The loss of a training.

    Args:
        task: What the logits mean.
        recipe: Says whether the loss is weighed.
        labels: Of the training side.
    """
    loss = LOSSES.get(task.KIND)
    weighed = loss.weighing is not None and getattr(recipe, loss.weighing) == "balanced"
    return loss.make(task, labels if weighed else None)


def distillation(student: Tensor, teacher: Tensor, task: Task) -> Tensor:
    """How far a student's probabilities diverge from a teacher's, nats, mean over the images (Hinton et al. 2015).

    Args:
        student: (N, K) logits.
        teacher: (N, K) logits.
        task: Makes probabilities of them.
    """
    if task.ACTIVATION == "softmax":
        return nn.functional.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    own = nn.functional.binary_cross_entropy_with_logits(teacher, teacher.sigmoid(), reduction="sum")
    cross = nn.functional.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="sum")
    return (cross - own) / len(student)


def plain_loss(task: Task) -> nn.Module:
    """The loss as it is reported of the validation side: not weighed."""
    return LOSSES.get(task.KIND).make(task, None)
