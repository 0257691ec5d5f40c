"""Layer-wise finetuning: only the top layers learn, the head at the base rate, the others at a tenth of it.

Tajbakhsh 2016; paper, section 3.1. A layer is a unit of the zoo, so that no skip connection is half frozen; a unit that
is a batch norm alone is none and goes with the one below (`Backbone.layers`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import ModelSpec
from ttl_deploy.spec.methods import LwftOptions
from ttl_deploy.transfer.model import METHODS, Plan, split_at
from ttl_deploy.zoo import Backbone, Unit

RATE_BELOW_HEAD = 0.1
"""Learning rate of the trained units relative to the head's."""


@METHODS.add("lwft", LwftOptions)
def plan(backbone: Backbone, spec: ModelSpec) -> Plan:
    """Freezes the units up to the cut, or all but the top `layers`, and trains the rest.

    Raises:
        BadInputError: Neither a cut nor a number of layers was given, or both, or more layers than there are.
    """
    frozen, trained = _divide(backbone, spec)
    scales = {unit.name: RATE_BELOW_HEAD for unit in trained}
    return Plan(reused=backbone.all_units, frozen=frozen, rate_scale=scales)


def _divide(backbone: Backbone, spec: ModelSpec) -> tuple[tuple[Unit, ...], tuple[Unit, ...]]:
    if (spec.cut is None) == (spec.layers is None):
        raise BadInputError(
            "method lwft needs either a cut (the last frozen unit) or a number of trained layers",
            fix=f"pass --cut NAME or --layers K; `ttl-deploy cuts {spec.backbone}` lists the cuts",
        )
    if spec.cut is not None:
        return _at_a_layer(backbone, split_at(backbone, spec.cut)[0])
    below_head = (spec.layers or 1) - 1
    if below_head > len(backbone.layers):
        raise BadInputError(
            f"{spec.layers} layers do not exist in {backbone.name}",
            fix=f"with the head there are {len(backbone.layers) + 1}",
        )
    kept = backbone.layers[: len(backbone.layers) - below_head]
    return _at_a_layer(backbone, [unit for layer in kept for unit in layer])


def _at_a_layer(backbone: Backbone, frozen: Sequence[Unit]) -> tuple[tuple[Unit, ...], tuple[Unit, ...]]:
    """The units that stay frozen, up to the end of the layer of the topmost, and the others."""
    units = backbone.all_units
    ends = list(itertools.accumulate(len(layer) for layer in backbone.layers))
    boundary = next((end for end in ends if end >= len(frozen)), 0) if frozen else 0
    return units[:boundary], units[boundary:]
