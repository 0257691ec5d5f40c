"""The options of the search's strategies, a record each."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ttl_deploy.spec.options import Offered, Options, OptionTable
from ttl_deploy.spec.said import Said

REUSE_ENDS = 0.5
"""Overlap with random features from which SVCCA coefficients say that nothing of the pretraining is left."""

Neighbours = Annotated[
    int | None,
    Field(ge=1, description="hierarchical: look at so many layers on each side of the best block cutoff."),
    Said(default="all up to the next block cutoffs"),
]
Eta = Annotated[int, Field(ge=2, description="halving: keep one in so many, and train them so many times longer.")]
Threshold = Annotated[
    float,
    Field(ge=0, le=1, description="svcca: overlap with random features from which reuse has ended, 0 to 1."),
]

STRATEGY_GROUP = "ttl_deploy.strategies"
STRATEGY_OPTIONS = OptionTable("strategy", STRATEGY_GROUP, beside=("neighbours", "eta", "threshold"))

StrategyOptions = Annotated[
    dict[str, Any],
    Field(exclude_if=lambda options: not options, description="Options of another package's strategy, by name."),
    Offered(STRATEGY_OPTIONS, by="strategy"),
]


class HierarchicalOptions(Options):
    """Options of the strategy `hierarchical`."""

    neighbours: Neighbours = None


class HalvingOptions(Options):
    """Options of the strategy `halving`."""

    eta: Eta = 3


class SvccaOptions(Options):
    """Options of the strategy `svcca`."""

    threshold: Threshold = REUSE_ENDS


STRATEGY_OPTIONS.add("exhaustive", Options)
STRATEGY_OPTIONS.add("hierarchical", HierarchicalOptions)
STRATEGY_OPTIONS.add("halving", HalvingOptions)
STRATEGY_OPTIONS.add("svcca", SvccaOptions)
STRATEGY_OPTIONS.add("warm", Options)
STRATEGY_OPTIONS.add("auto", Options)
