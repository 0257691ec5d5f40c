"""What a user may ask of a search, and the budget that a candidate must meet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from ttl_deploy.aliases import DEVICES, meant
from ttl_deploy.cores import usable_threads
from ttl_deploy.spec.record import Record
from ttl_deploy.spec.said import Said
from ttl_deploy.spec.strategies import REUSE_ENDS, Eta, Neighbours, StrategyOptions, Threshold
from ttl_deploy.spec.training import Protocol

Metric = Literal["auprc", "auroc", "quadratic_kappa"]
Prefer = Literal["smaller", "block", "accuracy"]

MEASURED = ("cpu", "cuda")

_TIMES: Mapping[str, float] = {"": 1.0, "ms": 1.0, "s": 1e3, "us": 1e-3}
_COUNTS: Mapping[str, float] = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


def _milliseconds(given: Any) -> Any:
    return _number(given, _TIMES) if isinstance(given, str) else given


def _count(given: Any) -> Any:
    return round(_number(given, _COUNTS)) if isinstance(given, str) else given


def _number(text: str, units: Mapping[str, float]) -> float:
    match = re.fullmatch(r"([0-9.]+)\s*([a-z]*)", text.strip().lower())
    try:
        assert match is not None
        return float(match[1]) * units[match[2]]
    except (AssertionError, KeyError, ValueError):
        known = ", ".join(unit for unit in units if unit)
        raise ValueError(f"{text!r} is not a number with one of the units {known}") from None


class Budget(Record):
    """What the chosen model may cost at most; None: no limit."""

    latency_ms: Annotated[
        float | None,
        Field(
            gt=0,
            description="Longest median latency of one image, such as 5ms; candidates are measured before training.",
        ),
        Said(("--max-latency",), text=True),
    ] = None
    device: Annotated[
        str,
        BeforeValidator(lambda word: meant(word, DEVICES, MEASURED) if isinstance(word, str) else word),
        Field(
            description="Where the latency counts: cpu or cuda, measured; or a target device, such as "
            "quadro-rtx-6000: the least it could take there, estimated."
        ),
        Said(("--latency-device",)),
    ] = "cpu"
    parameters: Annotated[
        int | None,
        Field(gt=0, description="Most parameters, such as 8.5M."),
        Said(("--max-params",), text=True),
    ] = None
    macs: Annotated[
        int | None,
        Field(gt=0, description="Most multiply-adds of one image, such as 3.3G."),
        Said(("--max-macs",), text=True),
    ] = None

    # Before the fields' own bounds, which a None has to pass.
    _read_time = field_validator("latency_ms", mode="before")(_milliseconds)
    _read_counts = field_validator("parameters", "macs", mode="before")(_count)

    @property
    def measured(self) -> bool:
        """Whether the latency is measured here, and not estimated for a target."""
        return self.device in MEASURED

    @property
    def place(self) -> str:
        """The device in words, with what its latencies are worth."""
        return self.device if self.measured else f"{self.device}, estimated, not measured"


class SearchOptions(Record):
    """How to search; together with data, model and protocol it decides the result."""

    PANEL: ClassVar[str] = "Search"

    strategy: Annotated[
        str,
        Field(
            description="exhaustive: every cut to the end. hierarchical: block ends, then the layers around the best "
            "(the paper's). halving: all for a few epochs, the better ones for longer. svcca: one whole network, one "
            "cut (the paper's appendix C.1). warm: each from the one below. auto: probes on a short whole network, "
            "then short trainings of the few that they point at; about a quarter of exhaustive's work from 8 epochs "
            "on, more of it with fewer."
        ),
    ] = "auto"
    metric: Annotated[
        Metric, Field(description="auprc or auroc, of grades quadratic_kappa too, on the validation side.")
    ] = "auprc"
    repeats: Annotated[int, Field(ge=1, description="Seeds per candidate, counted up from --seed.")] = 1
    prefer: Annotated[
        Prefer,
        Field(
            description="What wins among cuts that the images cannot tell apart, being within one standard error of "
            "the best. block: the nearest to the block cutoff that the paper's tables show. smaller: the smallest "
            "model. accuracy: the best value all the same."
        ),
    ] = "block"
    divisions: Annotated[
        int,
        Field(
            ge=1,
            description="Divisions of training and validation images, by patient, that speak together for cuts that "
            "one cannot tell apart: up to 4 are trained on each of the others. The test images stay out. 1: the first "
            "only.",
        ),
    ] = 3
    neighbours: Neighbours = None
    eta: Eta = 3
    threshold: Threshold = REUSE_ENDS
    strategy_options: StrategyOptions = Field(default_factory=dict)
    early_stop: Annotated[
        bool | None,
        Field(description="End a training whose fitted learning curve cannot reach the best."),
        Said(default="only in halving and auto"),
    ] = None
    budget: Budget = Field(default_factory=Budget)
    latency: Annotated[
        bool, Field(description="Measure the latency of every trained candidate for the Pareto picture.")
    ] = True
    threads: Annotated[
        int | None,
        Field(ge=1, description="Cores of one trial. Results are the same in both engines for the same number."),
        Said(default="all usable ones"),
    ] = None

    @property
    def cores(self) -> int:
        """Threads of one trial."""
        return self.threads or usable_threads()


class SearchProtocol(Protocol):
    """How a search trains its candidates."""

    epochs: Annotated[
        int | None,
        Field(
            ge=1,
            description="Most epochs of a candidate. Not in the paper, which trains until the rate is too small (0: "
            "so here): a search trains many.",
        ),
    ] = 30
    cache_features: Annotated[
        int,
        Field(
            ge=0,
            le=2**20,
            alias="cached_views",
            description="lwft: augmentation views of the frozen features kept on disk; 0: none.",
        ),
        Said(default="4 with lwft"),
    ] = 4

    @field_validator("epochs", mode="before")
    @classmethod
    def _none_for_zero(cls, given: Any) -> Any:
        return None if given == 0 and given is not False else given
