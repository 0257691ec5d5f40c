"""The source's own tensors: transfer as in the paper."""

from __future__ import annotations

import torch

from ttl_deploy.transfer.inits import INITS, Filled, Init, Part


def fill(part: Part) -> Filled:
    """Copies what the source has."""
    tensors = part.tensors()
    with torch.no_grad():
        for name, tensor in part.source.items():
            tensors[name].copy_(tensor)
    return Filled(taken=tuple(part.source), missing=tuple(name for name in tensors if name not in part.source))


INITS.register("weights", Init(fill, reads=True, copies=True))
