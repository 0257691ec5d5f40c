"""What of the validation side an epoch is judged by."""

from __future__ import annotations

from ttl_deploy.errors import BadInputError, near
from ttl_deploy.tasks import TASKS

LOSS = "loss"
"""Less of it is better; more of every metric is."""


def refuse_monitor(name: str | None, task: str) -> None:
    """Raises `BadInputError` where an epoch of a task has no such value; None is what the task selects by."""
    known = (LOSS, *TASKS.get(task).METRICS)
    if name is not None and name not in known:
        raise BadInputError(f"--task {task} is not monitored by {name!r:.80}", where="--monitor", fix=near(name, known))
