"""How far training moved each layer: mean over its tensors of distance over size (Matsoukas 2022, Fig. 4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ttl_deploy.analysis.analyses import ANALYSES, START, of_a_run
from ttl_deploy.analysis.finding import Finding, Lines, Series, Table
from ttl_deploy.analysis.subject import Subject
from ttl_deploy.transfer import TransferModel
from ttl_deploy.transfer.inits.stats import NORMS

HEAD = "head"


def weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a module by name, but for those of norms."""
    return {
        f"{prefix}.{name}".removeprefix("."): parameter
        for prefix, part in module.named_modules()
        if not isinstance(part, NORMS)
        for name, parameter in part.named_parameters(recurse=False)
    }


def distance(before: nn.Module, after: nn.Module) -> tuple[float, int]:
    """Mean over the tensors of ||w - w0||_2 / number of elements, NaN of none; and how many tensors there are."""
    old, new = weights(before), weights(after)
    with torch.no_grad():
        each = [float((new[name].cpu().double() - old[name].cpu().double()).norm()) / old[name].numel() for name in old]
    return (float(np.mean(each)) if each else float("nan")), len(each)


def _modules(model: TransferModel) -> dict[str, nn.Module]:
    return {**{unit.name: model.unit(unit) for unit in model.chain}, HEAD: model.head}


def look(subject: Subject) -> Finding:
    """Of every unit of the network and its head; one without weights other than norms' is left out."""
    before, after = _modules(subject.start), _modules(subject.trained)
    found = {name: distance(before[name], after[name]) for name in after}
    told = {name: value for name, (value, tensors) in found.items() if tensors}
    table = Table.of(("layer", "drift", "tensors"), [(name, *found[name]) for name in told])
    own = {name: value for name, value in told.items() if name != HEAD}
    most = max(own, key=lambda name: own[name])
    series = (Series.of("drift", (value or None for value in told.values())),)
    label = "mean of ||w - w0|| / elements"
    still = sum(value == 0 for value in own.values())
    frozen = f"; {still} layers did not move" if still else ""
    return Finding(
        f"The layer below the head that moved most by its size is {most} ({own[most]:.2g} an element){frozen}.",
        {"": table},
        {"": Lines(tuple(told), series, label, logarithmic=True)},
        titles={"": "How far training moved the weights"},
    )


ANALYSES.register("drift", of_a_run(look, START))
