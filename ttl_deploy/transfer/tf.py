"""TransFusion: the bottom units are reused, those above are rebuilt with fewer channels and random weights.

Raghu 2019; the halving as in the paper, section 3.1. `slim` 4 and 8 divide further.
"""

from __future__ import annotations

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import ModelSpec
from ttl_deploy.spec.methods import TfOptions
from ttl_deploy.transfer.model import METHODS, Plan, require_cut, split_at
from ttl_deploy.zoo import Backbone


@METHODS.add("tf", TfOptions)
def plan(backbone: Backbone, spec: ModelSpec) -> Plan:
    """Reuses the units up to the cut and slims the others.

    Raises:
        BadInputError: No cut was given, it does not exist, nothing is above it, or the network has no slim form.
    """
    if backbone.unslimmed is not None:
        raise BadInputError(
            f"method tf cannot slim {backbone.name}: {backbone.unslimmed}", fix="choose --method ttl, lwft or ftl"
        )
    cut = require_cut(spec)
    reused, above = split_at(backbone, cut)
    if not any(unit.cut for unit in above):
        raise BadInputError(f"nothing is left to slim above cut {cut!r}", fix="choose a lower cut, or --method ftl")
    return Plan(reused=reused, slimmed=above)
