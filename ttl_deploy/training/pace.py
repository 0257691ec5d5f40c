"""What of an epoch is not as its schedule has it: a rate that still rises, and a head that learns alone."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import torch
from torch import nn

from ttl_deploy.spec.training import Recipe
from ttl_deploy.transfer import TransferModel


class Pace:
    """The rates of one epoch's steps; within the context they stand in place of the schedule's.

    A step's rates depend on its number alone, so that nothing of a warm-up has to be kept for a resume.

    Args:
        recipe: The protocol.
        optimizer: Its first group is the head's.
        epoch: From 1.
        steps: Of an epoch.
    """

    def __init__(self, recipe: Recipe, optimizer: torch.optim.Optimizer, epoch: int, steps: int) -> None:
        head = recipe.head_training
        self.alone = epoch <= head.freeze_first
        self._rate = head.freeze_rate if self.alone else None
        self._warmup = 0 if self.alone else recipe.schedule.warmup_steps
        self._before = (epoch - head.freeze_first - 1) * steps
        self._groups = optimizer.param_groups
        self._scheduled = [group["lr"] for group in self._groups]

    @property
    def rate(self) -> float:
        """The head's, once the warm-up is over."""
        return float(self._scheduled[0] if self._rate is None else self._rate)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._set(self._scheduled)

    def at(self, step: int) -> None:
        """Sets the rates of a step of the epoch, from 1."""
        done = self._before + step
        if self._rate is not None:
            self._set([self._rate] * len(self._groups))
        elif 0 < done <= self._warmup:
            self._set([rate * done / self._warmup for rate in self._scheduled])
        else:
            self._set(self._scheduled)

    def _set(self, rates: list[float]) -> None:
        for group, rate in zip(self._groups, rates, strict=True):
            group["lr"] = rate


def hold_units(model: TransferModel, held: bool, *, several: bool) -> None:
    """Stops the units from learning, batch-norm statistics included, or lets those learn that the method trains.

    Args:
        model: In training mode.
        held: Whether the head learns alone.
        several: Processes train together, which wait for the gradients of every parameter that had one at first:
            these are then computed, and `drop_unit_gradients` has to forget them.
    """
    for unit in model.chain:
        if unit not in model.plan.frozen:
            model.unit(unit).requires_grad_(several or not held)
            model.unit(unit).train(not held)


def drop_unit_gradients(model: TransferModel) -> None:
    """Makes an optimizer pass over the units' parameters."""
    for parameter in model.units.parameters():
        parameter.grad = None


def drop_before_last(head: nn.Module, probability: float) -> None:
    """Drops inputs of a head's last layer in training; the head stays the module that it is, as do its tensors' names.

    Args:
        head: Changed in place; its last layer is the last module that holds parameters.
        probability: Of an input.
    """
    holding = [m for m in head.modules() if next(m.parameters(recurse=False), None) is not None]
    (holding or [head])[-1].register_forward_pre_hook(
        lambda layer, given: (nn.functional.dropout(given[0], probability, layer.training), *given[1:])
    )
