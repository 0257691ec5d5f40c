"""What a model's outputs mean: probabilities, decisions, what is ranked, and the operating point. No torch."""

from ttl_deploy.tasks.exclusive import softmax
from ttl_deploy.tasks.multiclass import Multiclass
from ttl_deploy.tasks.multilabel import Multilabel, sigmoid
from ttl_deploy.tasks.ordinal import Ordinal
from ttl_deploy.tasks.task import TASKS, UNKNOWN, Label, Labels, Task, make_task, possible_task, task_of

__all__ = [
    "TASKS",
    "UNKNOWN",
    "Label",
    "Labels",
    "Multiclass",
    "Multilabel",
    "Ordinal",
    "Task",
    "make_task",
    "possible_task",
    "sigmoid",
    "softmax",
    "task_of",
]
