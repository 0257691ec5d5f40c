"""Stats transfer: every tensor drawn with the mean and deviation of the source's (Matsoukas 2022, section 2).

Raghu 2019, section 5, calls it the mean-var initialisation. As in the code of Matsoukas 2022, biases, class tokens and
position embeddings are drawn like weights, each with its own two numbers, and norms start at 1 and 0.
"""

from __future__ import annotations

import torch
from torch import nn

from ttl_deploy.transfer.inits import INITS, Filled, Init, Part

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def fill(part: Part) -> Filled:
    """Draws N(mean, variance) independently for every number of a tensor, and resets norms with their statistics."""
    filled = Filled()
    for prefix, module in part.modules():
        filled += _reset(prefix, module) if isinstance(module, NORMS) else _drawn(prefix, module, part)
    return filled


def _reset(prefix: str, norm: nn.Module) -> Filled:
    norm.reset_parameters()  # type: ignore[operator]
    return Filled(reset=tuple(prefix + name for name, _parameter in norm.named_parameters(recurse=False)))


def _drawn(prefix: str, module: nn.Module, part: Part) -> Filled:
    drawn, missing = [], []
    for name, parameter in module.named_parameters(prefix.removesuffix("."), recurse=False):
        if name in part.source:
            given = part.source[name].double()
            with torch.no_grad():
                parameter.normal_(float(given.mean()), float(given.std(correction=0)))
            drawn.append(name)
        else:
            missing.append(name)
    return Filled(drawn=tuple(drawn), missing=tuple(missing))


INITS.register("stats", Init(fill, reads=True))
