"""Full transfer learning: every layer is kept and finetuned at one learning rate (paper, section 3)."""

from __future__ import annotations

from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer.model import METHODS, Plan, refuse_cut
from ttl_deploy.zoo import Backbone


@METHODS.add("ftl")
def plan(backbone: Backbone, spec: ModelSpec) -> Plan:
    """Reuses all units.

    Raises:
        BadInputError: A cut was given.
    """
    refuse_cut(spec)
    return Plan(reused=backbone.all_units)
