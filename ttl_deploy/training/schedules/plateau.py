"""The rate falls when validation stagnates: the paper's (appendix A.1)."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ttl_deploy.spec.training import Recipe
from ttl_deploy.training.schedules import SCHEDULES, Better, Schedule


def _make(optimizer: torch.optim.Optimizer, recipe: Recipe, better: Better) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(optimizer, mode=better, factor=recipe.factor, patience=recipe.patience)


def _step(scheduler: ReduceLROnPlateau, value: float) -> None:
    scheduler.step(value)


SCHEDULES.register("plateau", Schedule(_make, _step, falls=True))
