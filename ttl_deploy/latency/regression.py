"""Whether a piece of the program became slower: times as quotients by a reference, intervals, verdicts, the baseline.

Work and reference alternate in blocks shorter than a time slice. A batch of them, a fraction of a second, gives one
quotient: of the two lower deciles, because what disturbs a block (a neighbour's cache lines, an interrupt) only ever
lengthens it, while a slow machine or clock lengthens both. The interval comes from the spread of the batches, without
assuming how they are distributed, so what did not cancel widens it.

What lasts as long as a measurement does not show in that spread: another machine's work on the same core slows one kind
of work more than another. A chain of steps that wait for each other (`references.chain_work`) hardly feels it, so the
reference's time in units of the chain's tells it; by how much that differs from the baseline's, the interval is wider.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from statistics import median
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from ttl_deploy import documents, files
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import SCHEMA_VERSION, Record, read_record

PAIRS = 12
"""Pairs of blocks in a batch."""

LOOKS = (8, 16, 24, 32)
"""Batches after which a verdict is tried. Fewer than 8 cannot give a 99 % interval; after the last it is given up."""

CONFIDENCE = 0.99
"""Of each interval. With four looks, chance puts the true value outside one of them in at most 4 of 100 cases, and
that is no false alarm yet: the interval would have to miss by more than the whole bound."""

VerdictName = Literal["pass", "fail", "inconclusive"]
Block = Callable[[], object]
Processor = tuple[str | None, tuple[str, ...]]
"""Name and instruction sets."""


@dataclass(frozen=True)
class RatioEstimate:
    """A workload's time in units of its reference.

    Attributes:
        ratio: Median of the batches' quotients.
        low: Lower end of the interval.
        high: Upper end.
        batches: How many quotients.
        pairs: How many blocks of work they come from.
        contention: The reference's time in units of the chain's; None where it was not measured.
    """

    ratio: float
    low: float
    high: float
    batches: int
    pairs: int
    contention: float | None = None

    @property
    def half_width(self) -> float:
        """Half the interval as a fraction of the ratio."""
        return (self.high - self.low) / (2 * self.ratio)


@dataclass
class Pairing:
    """A workload and its reference, timed alternately.

    Attributes:
        work: One block of the workload.
        reference: One block of the reference.
        chain: One block of `references.chain_work`.
        clock: Seconds; `OwnTime` on a shared machine.
        batches: The quotients so far.
        contentions: Of each batch.
        work_seconds: The times of the work's blocks.
    """

    work: Block
    reference: Block
    chain: Block
    clock: Callable[[], float]
    batches: list[float] = field(default_factory=list)
    contentions: list[float] = field(default_factory=list)
    work_seconds: list[float] = field(default_factory=list)

    def warm_up(self, blocks: int = 3) -> None:
        """Runs both a few times: caches, lazily made kernels, the processor's clock."""
        for _ in range(blocks):
            self.reference()
            self.work()
            self.chain()

    def take(self, pairs: int = PAIRS) -> None:
        """Times one batch: reference, work, chain, reference, work, chain and so on."""
        references, works, chains = [], [], []
        with _no_collection():
            for _ in range(pairs):
                references.append(self._timed(self.reference))
                works.append(self._timed(self.work))
                chains.append(self._timed(self.chain))
        self.batches.append(quotient(references, works))
        self.contentions.append(quotient(chains, references))
        self.work_seconds += works

    def estimate(self) -> RatioEstimate:
        """What the batches so far say."""
        return replace(estimate(self.batches, len(self.work_seconds)), contention=median(self.contentions))

    def _timed(self, block: Block) -> float:
        begin = self.clock()
        block()
        return self.clock() - begin


@dataclass(frozen=True)
class SpeedComparison:
    """A workload against its baseline.

    Attributes:
        name: The workload.
        verdict: pass, fail or inconclusive.
        change: Slowdown as a fraction: 0.3 takes 30 % longer. None where the baseline has no entry.
        low: Lower end of its interval.
        high: Upper end.
        bound: Largest slowdown allowed.
        reason: The verdict in words, with the numbers.
        estimate: The measurement.
    """

    name: str
    verdict: VerdictName
    change: float | None
    low: float | None
    high: float | None
    bound: float
    reason: str
    estimate: RatioEstimate


class BaselineEntry(Record):
    """What one workload took when the baseline was made.

    Attributes:
        revision: Of the workload's definition.
        reference: Name of its reference.
        reference_revision: Of the reference's definition.
        ratio: As in `RatioEstimate`.
        low: Likewise.
        high: Likewise.
        batches: Likewise.
        pairs: Likewise.
        contention: Likewise; None in files of earlier versions.
        work_ms: Median time of the work's block, milliseconds; for people, nothing compares it.
        measured: UTC time, ISO 8601.
        hardware: The machine, as `ttl_deploy.hardware` describes it.
        libraries: Versions of the libraries.
    """

    revision: int
    reference: str
    reference_revision: int
    ratio: float = Field(gt=0, allow_inf_nan=False)
    low: float = Field(gt=0, allow_inf_nan=False)
    high: float = Field(gt=0, allow_inf_nan=False)
    batches: int = Field(ge=1)
    pairs: int = Field(ge=1)
    contention: float | None = Field(None, gt=0, allow_inf_nan=False)
    work_ms: float = Field(gt=0)
    measured: str
    hardware: dict[str, Any]
    libraries: dict[str, str]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.ratio <= self.high:
            raise ValueError("low, ratio and high are not in order")
        return self

    @property
    def estimate(self) -> RatioEstimate:
        """The numbers alone."""
        return RatioEstimate(self.ratio, self.low, self.high, self.batches, self.pairs, self.contention)

    @property
    def processor(self) -> Processor:
        """What it was measured on."""
        return processor_of(self.hardware)


def processor_of(machine: Mapping[str, Any]) -> Processor:
    """Name and instruction sets of a machine as `ttl_deploy.hardware` describes it.

    A quotient hangs on both: with other kernels a workload gains more or less than its reference.
    """
    return machine.get("cpu"), tuple(machine.get("isa", ()))


class Baseline(Record):
    """The committed file.

    Attributes:
        schema_version: Version of this record.
        workloads: By name, of every processor that they were measured on. Files of earlier versions hold one for each.
    """

    schema_version: int = SCHEMA_VERSION
    workloads: dict[str, Annotated[tuple[BaselineEntry, ...], Field(min_length=1)]]

    @field_validator("workloads", mode="before")
    @classmethod
    def _one_is_several(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: [each] if isinstance(each, dict) else each for name, each in value.items()}

    def entry(self, name: str, processor: Processor) -> BaselineEntry | None:
        """What was measured on a processor."""
        return next((entry for entry in self.workloads.get(name, ()) if entry.processor == processor), None)


def quotient(references: Sequence[float], works: Sequence[float]) -> float:
    """The lower decile of the work's times by that of the reference's.

    Raises:
        ValueError: A time is not positive: the clock is too coarse for such blocks.
    """
    if min(*references, *works) <= 0:
        raise ValueError("a block took no time; it is too short for this clock")
    return float(np.percentile(works, 10) / np.percentile(references, 10))


def estimate(batches: Sequence[float], pairs: int) -> RatioEstimate:
    """The median of the batches' quotients, with a distribution-free interval from their order (the sign test's).

    Args:
        batches: A quotient per batch.
        pairs: Of how many blocks of work.
    """
    ordered = sorted(batches)
    skip = _order(len(ordered))
    return RatioEstimate(median(ordered), ordered[skip], ordered[-1 - skip], len(ordered), pairs)


def compare(name: str, now: RatioEstimate, base: RatioEstimate, bound: float) -> SpeedComparison:
    """The change against the baseline, its interval, and what it means.

    A regression is told only when the whole interval lies above the bound, and its absence only when the whole
    interval lies below. The interval joins both measurements' on the logarithmic scale (MOVER; Zou and Donner 2008),
    and is wider at either end by what `contention` changed: a neighbour may slow the work twice as much as it slows the
    reference, or not at all.

    Args:
        name: The workload.
        now: The measurement.
        base: The baseline's.
        bound: Largest slowdown allowed, a fraction.
    """
    middle = math.log(now.ratio / base.ratio)
    down = math.hypot(math.log(now.ratio / now.low), math.log(base.high / base.ratio))
    up = math.hypot(math.log(now.high / now.ratio), math.log(base.ratio / base.low))
    shift = _contended(now, base)
    change, low, high = (math.expm1(value) for value in (middle, middle - down - abs(shift), middle + up + abs(shift)))
    verdict = _verdict(low, high, bound)
    alone = _verdict(math.expm1(middle - down), math.expm1(middle + up), bound)
    reason = _reason(verdict, change, low, high, bound)
    if verdict != alone:
        reason += (
            f", which is so wide because the reference takes {math.expm1(shift):+.0%} beside steps that wait for each "
            "other: other work than at the baseline's time is on these cores; check again later"
        )
    return SpeedComparison(name, verdict, change, low, high, bound, reason, now)


def read_baseline(path: Path) -> Baseline:
    """Reads a baseline.

    Raises:
        BadInputError: There is none.
        IntegrityError: It is damaged or of a newer schema.
    """
    anew = f"`ttl-deploy gate {quote(str(path))} --update`"
    missing, fix = f"write it with {anew}", f"restore it, or remove it and write it anew with {anew}"
    return read_record(Baseline, documents.read_json(path, missing=missing, fix=fix), path, fix=fix)


def write_baseline(path: Path, entries: dict[str, BaselineEntry]) -> Baseline:
    """Puts entries into a baseline, which is made if it is absent; those of other names and processors stay. Atomic.

    Raises:
        IntegrityError: What is there is damaged; it is left as it is.
        StorageError: The disk is full, read-only or failing; likewise.
    """
    kept = read_baseline(path).workloads if path.exists() else {}
    renewed = {
        name: (*(other for other in kept.get(name, ()) if other.processor != entry.processor), entry)
        for name, entry in entries.items()
    }
    baseline = Baseline(workloads={**kept, **renewed})
    files.write_json(path, baseline.model_dump(mode="json"))
    return baseline


def parse_percent(text: str) -> float:
    """`10%` as 0.1.

    Raises:
        BadInputError: It is not a percentage above 0 and below 1000.
    """
    number, sign = text.strip()[:-1], text.strip()[-1:]
    try:
        value = float(number) / 100
    except ValueError:
        value = math.nan
    if sign != "%" or not 0 < value < 10:
        fix = "give a number and a percent sign, such as 10%, above 0% and below 1000%"
        raise BadInputError(f"{text!r} is not a percentage", where="--max-regression", fix=fix)
    return value


def _order(observations: int) -> int:
    """How many of the sorted observations to leave out at either end, for an interval of at least `CONFIDENCE`.

    Below 8 observations even the whole range covers less; it is the range then.
    """
    outside, skip = 0.5**observations, 0
    while 2 * (outside + math.comb(observations, skip + 1) * 0.5**observations) <= 1 - CONFIDENCE:
        skip += 1
        outside += math.comb(observations, skip) * 0.5**observations
    return skip


def _contended(now: RatioEstimate, base: RatioEstimate) -> float:
    """How much longer the reference took in units of the chain than then, logarithm; 0 where that is not known."""
    if now.contention is None or base.contention is None:
        return 0.0
    return math.log(now.contention / base.contention)


def _verdict(low: float, high: float, bound: float) -> VerdictName:
    return "fail" if low > bound else "pass" if high <= bound else "inconclusive"


def _reason(verdict: VerdictName, change: float, low: float, high: float, bound: float) -> str:
    said = f"{change:+.1%} ({low:+.1%} to {high:+.1%})"
    if verdict == "fail":
        return f"{said}: slower than the bound of {bound:+.1%}"
    if verdict == "inconclusive":
        why = "too close to the bound" if high - low < bound else "too noisy"
        return f"{said}: {why}, {bound:+.1%} lies inside the interval"
    return f"{said}: within the bound of {bound:+.1%}"


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps the garbage collector out of the blocks."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
