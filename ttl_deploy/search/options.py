"""What a user may ask of a search, and the budget that a candidate must meet."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ttl_deploy.analysis.reuse import THRESHOLD
from ttl_deploy.search.score import Prefer
from ttl_deploy.spec import Record

Metric = Literal["auprc", "auroc"]
StrategyName = Literal["exhaustive", "hierarchical", "halving", "svcca", "warm", "auto"]


MEASURED = ("cpu", "cuda")


class Budget(Record):
    """What the chosen model may cost at most; None: no limit.

    Attributes:
        latency_ms: Median latency of one image, milliseconds, on `device`.
        parameters: Learnable numbers of the model.
        macs: Multiply-adds for one image.
        device: `cpu` or `cuda`, measured here; or the name of a target device, estimated there (see `Latencies`).
    """

    latency_ms: float | None = Field(None, gt=0)
    parameters: int | None = Field(None, gt=0)
    macs: int | None = Field(None, gt=0)
    device: str = "cpu"

    @property
    def measured(self) -> bool:
        """Whether the latency is measured here, and not estimated for a target."""
        return self.device in MEASURED

    @property
    def place(self) -> str:
        """The device in words, with what its latencies are worth."""
        return self.device if self.measured else f"{self.device}, estimated, not measured"


class SearchOptions(Record):
    """How to search; together with data, model and protocol it decides the result.

    Attributes:
        strategy: Name in `ttl_deploy.search.strategies`.
        metric: Ranks candidates, on the validation side.
        repeats: Seeds per candidate, counted up from the protocol's.
        prefer: What wins among cuts that are within one standard error of the best, so that the data cannot tell them
            apart. `block`: the one nearest to the block cutoff of the paper's tables; `smaller`: the smallest model;
            `accuracy`: the best value, error or not.
        divisions: Divisions of training and validation images that speak for such cuts, the first included; their
            validation sides have no patient in common, and the test side is the same in all of them.
        neighbours: Layers that stage 2 of `hierarchical` looks at on each side of the best block cutoff; None: all up
            to the next block cutoffs.
        eta: Halving keeps one in so many candidates and trains them so many times longer.
        threshold: Overlap from which SVCCA coefficients count as random (strategy `svcca`).
        early_stop: End trainings whose fitted learning curve cannot reach the best; None: as the strategy likes.
        threads: Threads of one trial.
        budget: What the chosen model may cost.
        latency: Measure the latency of every candidate that was trained, for the Pareto picture.
    """

    strategy: StrategyName = "auto"
    metric: Metric = "auprc"
    repeats: int = Field(1, ge=1)
    prefer: Prefer = "block"
    divisions: int = Field(3, ge=1)
    neighbours: int | None = Field(None, ge=1)
    eta: int = Field(3, ge=2)
    threshold: float = Field(THRESHOLD, ge=0, le=1)
    early_stop: bool | None = None
    threads: int = Field(1, ge=1)
    budget: Budget = Budget()
    latency: bool = True
