"""The cuts that a search may choose from, what each model costs, and which are neighbours."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ttl_deploy.complexity import Complexity, count
from ttl_deploy.export.reference import whole_spec
from ttl_deploy.search.options import Budget
from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import build
from ttl_deploy.zoo import BACKBONES


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
        """Name of the cut."""
        assert self.spec.cut is not None
        return self.spec.cut

    @property
    def size(self) -> tuple[int, int, int]:
        """What decides which of two candidates is the smaller one: parameters, MACs, trained parameters."""
        return self.cost.parameters, self.cost.macs, self.cost.trainable


def candidates(spec: ModelSpec) -> list[Candidate]:
    """One candidate per cut point of the spec's backbone, bottom first.

    TF has none at the top: it slims what is above the cut.

    Args:
        spec: Method and backbone; its own cut is ignored.
    """
    found = []
    points = BACKBONES.get(spec.backbone).cut_points
    for point in points[:-1] if spec.method == "tf" else points:
        at = spec.model_copy(update={"cut": point.name})
        # Counting needs no weights, and drawing those of every candidate would take seconds.
        with torch.device("meta"):
            cost = count(build(at), at.input_shape)
        found.append(Candidate(at, point.index, point.block, point.ends_block, cost))
    return found


def whole_macs(spec: ModelSpec) -> int:
    """Multiply-adds of the whole network (FTL) of a spec's backbone, for one image."""
    whole = whole_spec(spec)
    with torch.device("meta"):
        return count(build(whole), whole.input_shape).macs


def over_budget(candidate: Candidate, budget: Budget) -> str | None:
    """Why a candidate's counted cost is too high, or None."""
    cost = candidate.cost
    if budget.parameters is not None and cost.parameters > budget.parameters:
        return f"{cost.parameters / 1e6:.2f} M parameters, more than {budget.parameters / 1e6:g} M"
    if budget.macs is not None and cost.macs > budget.macs:
        return f"{cost.macs / 1e9:.3f} G MACs, more than {budget.macs / 1e9:g} G"
    return None


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
