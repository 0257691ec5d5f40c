"""One rate throughout, as Matsoukas 2022 measures convergence (Figure 8)."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import ConstantLR

from ttl_deploy.spec.training import Recipe
from ttl_deploy.training.schedules import SCHEDULES, Better, Schedule


def _make(optimizer: torch.optim.Optimizer, recipe: Recipe, better: Better) -> ConstantLR:
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def _step(scheduler: ConstantLR, value: float) -> None:
    scheduler.step()


SCHEDULES.register("constant", Schedule(_make, _step))
