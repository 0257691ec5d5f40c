"""Stochastic gradient descent with momentum, by which the paper trains for pulmonary embolism (section 4)."""

from __future__ import annotations

import torch

from ttl_deploy.spec.protocol import OptimSpec
from ttl_deploy.training.optimizers import OPTIMIZERS, Groups, Optimizer


def _make(groups: Groups, spec: OptimSpec) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=spec.momentum, dampening=spec.dampening, weight_decay=spec.weight_decay)


def _moments(spec: OptimSpec) -> tuple[str, ...]:
    return ("momentum_buffer",) if spec.momentum else ()


OPTIMIZERS.register("sgd", Optimizer(_make, _moments, takes=("momentum", "dampening")))
