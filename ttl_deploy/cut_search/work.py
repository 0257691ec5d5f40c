"""What a training costs in multiply-adds: a measure that a busy machine does not change."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from ttl_deploy.complexity import count
from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import weightless

_BACKWARD = 2
"""Passes backward in units of one forward: one for the features' gradients, one for the weights'."""


def training_work(spec: ModelSpec, train: int, val: int, epochs: Iterable[int], views: int = 0) -> float:
    """Multiply-adds of some epochs: training images forward and backward, validation images forward.

    Nothing runs backward through frozen layers, and those whose features are kept run once for each view.

    Args:
        spec: The model.
        train: Images of the training side.
        val: Of the validation side.
        epochs: Their numbers, from 1.
        views: Kept of the frozen layers' features; 0: none.
    """
    whole, frozen = _macs(spec)
    numbers = list(epochs)
    below = len([n for n in numbers if not views or n <= views])
    trained = (1 + _BACKWARD) * (whole - frozen) * train * len(numbers) + frozen * train * below
    validated = (whole - frozen) * len(numbers) + frozen * (len(numbers) if not views else 1 in numbers)
    return float(trained + validated * val)


@functools.lru_cache(maxsize=512)
def _macs(spec: ModelSpec) -> tuple[int, int]:
    """Multiply-adds for one image of the model, and of what is frozen in it (with a head, which is next to nothing)."""
    model = weightless(spec)
    whole = count(model, spec.input_shape).macs
    if not model.plan.frozen:
        return whole, 0
    if len(model.plan.frozen) == len(model.chain):
        return whole, whole
    top = [unit for unit in model.plan.frozen if unit.cut][-1]
    bottom = spec.model_copy(update={"method": "ttl", "cut": top.name, "layers": None, "method_options": {}})
    return whole, count(weightless(bottom), spec.input_shape).macs
