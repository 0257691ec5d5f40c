"""How the rate changes from epoch to epoch, one file for each way: a scheduler of PyTorch's and how it is moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ttl_deploy.errors import BadInputError
from ttl_deploy.registry import Registry
from ttl_deploy.spec.training import Recipe

Better = Literal["max", "min"]
"""Whether more or less of what is watched is better."""


@dataclass(frozen=True)
class Schedule:
    """A kind of schedule.

    Attributes:
        make: The scheduler of an optimizer; anything that has `state_dict` and `load_state_dict`.
        step: Moves it at the end of an epoch that was not of the head alone, with the value that was watched.
        falls: Whether the rate may come below the smallest one, which then ends the training.
        by_epochs: Whether it depends on how many epochs there will be.
    """

    make: Callable[[torch.optim.Optimizer, Recipe, Better], Any]
    step: Callable[[Any, float], None]
    falls: bool = False
    by_epochs: bool = False


SCHEDULES: Registry[Schedule] = Registry(
    "schedule", "ttl_deploy.training.schedules", entry_points="ttl_deploy.schedules"
)


def refuse_schedule(recipe: Recipe) -> None:
    """Raises `BadInputError` where there is no such schedule, or nothing would end the training."""
    schedule, name = SCHEDULES.get(recipe.schedule.name), recipe.schedule.name
    if schedule.by_epochs and recipe.epochs is None:
        raise BadInputError(f"--schedule {name} needs to know how many epochs there are", fix="pass --epochs")
    endless = recipe.epochs is None and recipe.max_minutes is None and recipe.schedule.stop_patience is None
    if endless and not schedule.falls:
        raise BadInputError(
            f"with --schedule {name} nothing ends the training", fix="pass --epochs, --max-minutes or --stop-patience"
        )
    if recipe.epochs is not None and recipe.head_training.freeze_first >= recipe.epochs:
        raise BadInputError(
            f"--freeze-first {recipe.head_training.freeze_first} leaves none of {recipe.epochs} epochs for the layers",
            fix="raise --epochs, or lower --freeze-first",
        )
