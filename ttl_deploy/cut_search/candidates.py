"""The cuts that a search may choose from, what each model costs, and which are neighbours."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttl_deploy.complexity import Complexity, count
from ttl_deploy.formats.reference import whole_spec
from ttl_deploy.spec import ModelSpec
from ttl_deploy.spec.search import Budget
from ttl_deploy.transfer import weightless
from ttl_deploy.zoo import BACKBONES

WHOLE, ALL = "ftl", "all"
"""Names of the candidates that are not cut: the whole network at one rate (FTL), and LWFT that freezes nothing."""

_WHOLE: Mapping[str, Any] = {"cut": None, "method": "ftl", "method_options": {}}


@dataclass(frozen=True)
class Candidate:
    """A model that could be chosen.

    Attributes:
        spec: With its cut.
        index: Position of the cut, 0 the stem.
        block: Number of the cut's block.
        ends_block: Whether a block ends at the cut.
        cost: Parameters and MACs of the whole model, head included.
    """

    spec: ModelSpec
    index: int
    block: int
    ends_block: bool
    cost: Complexity

    @property
    def cut(self) -> str:
        """Name of the cut; `WHOLE` or `ALL` where there is none."""
        if self.spec.cut is not None:
            return self.spec.cut
        return WHOLE if self.spec.method == "ftl" else ALL

    @property
    def size(self) -> tuple[int, int, int]:
        """What decides which of two candidates is the smaller one: parameters, MACs, trained parameters."""
        return self.cost.parameters, self.cost.macs, self.cost.trainable

    @property
    def whole(self) -> bool:
        """Whether it is the whole network, trained as FTL trains it."""
        backbone = BACKBONES.get(self.spec.backbone)
        top = self.spec.cut == backbone.cut_points[-1].name and backbone.tail == backbone.finish(backbone.units[-1])
        return self.spec.method == "ftl" or (self.spec.method == "ttl" and top)


def candidates(spec: ModelSpec) -> list[Candidate]:
    """One candidate per cut point of the spec's backbone, and the whole network (FTL), bottom first.

    FTL stands on top, as the cut that drops or slims nothing; TTL at the top cut of a network without a tail is FTL
    already. TF has no candidate of its own at the top cut: it slims what is above. LWFT begins with FTL and with
    everything trained, each layer below the head at a tenth of its rate.

    Args:
        spec: Method and backbone; its own cut is ignored.
    """
    backbone = BACKBONES.get(spec.backbone)
    points = backbone.cut_points[:-1] if spec.method == "tf" else backbone.cut_points
    cuts = [_candidate(spec, p.index, p.block, p.ends_block, cut=p.name) for p in points]
    top = points[-1].block
    if spec.method == "lwft":
        everything = _candidate(spec, -1, 0, True, cut=None, layers=len(backbone.layers) + 1)
        return [_candidate(spec, -2, 0, True, **_WHOLE), everything, *cuts]
    if cuts[-1].whole:
        return cuts
    return [*cuts, _candidate(spec, points[-1].index + 1, top, True, **_WHOLE)]


def _candidate(spec: ModelSpec, index: int, block: int, ends_block: bool, **fields: Any) -> Candidate:
    own = spec.model_copy(update=fields)
    return Candidate(own, index, block, ends_block, count(weightless(own), own.input_shape))


def whole_macs(spec: ModelSpec) -> int:
    """Multiply-adds of the whole network (FTL) of a spec's backbone, for one image."""
    whole = whole_spec(spec)
    return count(weightless(whole), whole.input_shape).macs


def over_budget(candidate: Candidate, budget: Budget) -> str | None:
    """Why a candidate's counted cost is too high, or None."""
    cost = candidate.cost
    if budget.parameters is not None and cost.parameters > budget.parameters:
        return f"{cost.parameters / 1e6:.2f} M parameters, more than {budget.parameters / 1e6:g} M"
    if budget.macs is not None and cost.macs > budget.macs:
        return f"{cost.macs / 1e9:.3f} G MACs, more than {budget.macs / 1e9:g} G"
    return None


def distance(candidate: Candidate) -> int:
    """How many cuts a candidate lies from the block cutoff that the paper takes; see `Backbone.usual_block`.

    Where there is no such experience: from the end of the block after three quarters of the blocks, as the third of
    ResNet's four is.
    """
    backbone = BACKBONES.get(candidate.spec.backbone)
    ends = [point for point in backbone.cut_points if point.ends_block]
    block = backbone.usual_block or max(1, round(0.75 * len(ends)))
    index = next((point.index for point in ends if point.block == block), ends[-1].index if ends else 0)
    return abs(candidate.index - index)


def usual(pool: Sequence[Candidate]) -> Candidate:
    """The candidate nearest to the paper's block cutoff, the lower one of two."""
    return min(pool, key=lambda c: (distance(c), c.index))


def block_ends(all_candidates: Sequence[Candidate]) -> list[Candidate]:
    """Stage 1 (paper, section 3.2): the block cutoffs."""
    return [candidate for candidate in all_candidates if candidate.ends_block]


def around(all_candidates: Sequence[Candidate], winner: Candidate, neighbours: int | None = None) -> list[Candidate]:
    """Stage 2 (paper, section 3.2): the layers around a block cutoff, up to the neighbouring block cutoffs.

    The neighbouring cutoffs themselves are left out, as stage 1 had them.

    Args:
        all_candidates: Bottom first.
        winner: The block cutoff.
        neighbours: Only so many on each side; None: all, as the paper's text sets no number.
    """
    place = all_candidates.index(winner)
    below = list(itertools.takewhile(lambda c: not c.ends_block, reversed(all_candidates[:place])))
    above = list(itertools.takewhile(lambda c: not c.ends_block, all_candidates[place + 1 :]))
    return [*reversed(below[:neighbours]), *above[:neighbours]]
