"""Adam with decoupled weight decay (Loshchilov and Hutter 2019), as Matsoukas 2022 trains transformers."""

from __future__ import annotations

import torch

from ttl_deploy.spec.protocol import OptimSpec
from ttl_deploy.training.optimizers import OPTIMIZERS, Groups, Optimizer


def _make(groups: Groups, spec: OptimSpec) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, weight_decay=spec.weight_decay)


OPTIMIZERS.register("adamw", Optimizer(_make, lambda spec: ("exp_avg", "exp_avg_sq"), counts=True))
