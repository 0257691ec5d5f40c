"""Truncated transfer learning: the bottom units up to the cut, then the head (paper, section 3.2)."""

from __future__ import annotations

from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer.model import METHODS, Plan, require_cut, split_at
from ttl_deploy.zoo import Backbone


@METHODS.add("ttl")
def plan(backbone: Backbone, spec: ModelSpec) -> Plan:
    """Reuses and finetunes the units up to the cut.

    Raises:
        BadInputError: No cut was given, or it does not exist.
    """
    kept, _dropped = split_at(backbone, require_cut(spec))
    return Plan(reused=kept)
