"""How weights are moved, one file for each way: from parameter groups and the protocol to an optimizer of PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ttl_deploy.errors import BadInputError
from ttl_deploy.registry import Registry
from ttl_deploy.spec.protocol import OptimSpec

Groups = list[dict[str, Any]]
"""Parameters, each group with its base rate."""


@dataclass(frozen=True)
class Optimizer:
    """A kind of optimizer.

    Attributes:
        make: The optimizer of some groups.
        moments: Names of the tensors, of a parameter's shape, that it keeps of every parameter it has moved.
        counts: Whether it counts a parameter's `step`s too.
        takes: Fields of `OptimSpec` that not every optimizer takes and this one does.
    """

    make: Callable[[Groups, OptimSpec], torch.optim.Optimizer]
    moments: Callable[[OptimSpec], tuple[str, ...]]
    counts: bool = False
    takes: tuple[str, ...] = ()


OPTIMIZERS: Registry[Optimizer] = Registry(
    "optimizer", "ttl_deploy.training.optimizers", entry_points="ttl_deploy.optimizers"
)

_SPECIAL = ("momentum", "dampening")


def refuse_optim(spec: OptimSpec) -> None:
    """Raises `BadInputError` where there is no such optimizer, or it does not take what was said for it."""
    taken = OPTIMIZERS.get(spec.name).takes
    for option in _SPECIAL:
        if option not in taken and getattr(spec, option):
            raise BadInputError(f"--{option} is not {spec.name}'s", fix="leave it out, or pass --optimizer sgd")
    if spec.dampening and not spec.momentum:
        raise BadInputError("--dampening is of a momentum, and there is none", fix="pass --momentum, such as 0.9")
