"""Half a cosine over all epochs, without restarts (Loshchilov and Hutter 2017), down to the smallest rate."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from ttl_deploy.spec.training import Recipe
from ttl_deploy.training.schedules import SCHEDULES, Better, Schedule


def _make(optimizer: torch.optim.Optimizer, recipe: Recipe, better: Better) -> CosineAnnealingLR:
    assert recipe.epochs is not None
    epochs = recipe.epochs - recipe.head_training.freeze_first
    return CosineAnnealingLR(optimizer, T_max=epochs, eta_min=recipe.min_learning_rate)


def _step(scheduler: CosineAnnealingLR, value: float) -> None:
    scheduler.step()


SCHEDULES.register("cosine", Schedule(_make, _step, by_epochs=True))
