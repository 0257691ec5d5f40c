"""The regression gate: measures the workloads in turns, compares with the baseline, or writes the baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from ttl_deploy import hardware
from ttl_deploy.errors import BadInputError, near
from ttl_deploy.kept_memory import steady_memory
from ttl_deploy.latency.own_time import OwnTime
from ttl_deploy.latency.references import CHAIN, Work
from ttl_deploy.latency.regression import (
    LOOKS,
    Baseline,
    BaselineEntry,
    Pairing,
    Processor,
    RatioEstimate,
    SpeedComparison,
    compare,
    processor_of,
    read_baseline,
    write_baseline,
)
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.verbs.workloads import Workload, one_thread, scratch, workloads

NARROW = 0.03
"""Half-width, as a fraction, that a baseline's interval should have."""


@dataclass(frozen=True)
class Report:
    """What the gate found.

    Attributes:
        baseline: The file.
        comparisons: One per workload.
        foreign: What of machine and libraries differs from the baseline's, in words; empty where nothing does.
    """

    baseline: Path
    comparisons: tuple[SpeedComparison, ...]
    foreign: str

    @property
    def failed(self) -> tuple[SpeedComparison, ...]:
        """The regressions."""
        return tuple(c for c in self.comparisons if c.verdict == "fail")

    @property
    def sure(self) -> bool:
        """Whether of every workload it can be told."""
        return all(c.verdict != "inconclusive" for c in self.comparisons)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {**asdict(self), "baseline": str(self.baseline), "failed": [c.name for c in self.failed]}


def check(
    path: Path, max_regression: float, *, names: Sequence[str] | None = None, reporter: Reporter = SILENT
) -> Report:
    """Measures the workloads and compares each with the baseline, taking more samples while the answer is open.

    Args:
        path: The baseline.
        max_regression: Largest slowdown allowed, a fraction.
        names: Workloads; None: all.
        reporter: Told of progress.

    Raises:
        BadInputError: No baseline, or it holds a workload or a revision that this program does not have.
        IntegrityError: The baseline is damaged.
    """
    baseline = read_baseline(path)
    chosen = workloads(names)
    _refuse_foreign(baseline, path)
    with prepared(chosen, reporter) as pairings:
        comparisons = settle(chosen, pairings, baseline, max_regression, reporter)
    return Report(path, comparisons, _differences(baseline))


def update(path: Path, *, names: Sequence[str] | None = None, reporter: Reporter = SILENT) -> dict[str, RatioEstimate]:
    """Measures the workloads and writes them into the baseline; entries of others stay.

    Args:
        path: The baseline; made if it is absent.
        names: Workloads; None: all.
        reporter: Told of progress, and warned of an interval that stayed wide.

    Raises:
        IntegrityError: The file that is there is damaged.
        StorageError: It cannot be written.
    """
    if path.exists():
        read_baseline(path)
    chosen = workloads(names)
    with prepared(chosen, reporter) as pairings:
        _until(pairings, lambda _index, now: now.half_width <= NARROW, reporter)
        entries = {w.name: entry_of(w, p) for w, p in zip(chosen, pairings, strict=True)}
    for name, entry in entries.items():
        if entry.estimate.half_width > NARROW:
            reporter.warn(
                f"{name}: the interval is still {entry.estimate.half_width:.1%} to either side; a quieter "
                "machine gives a sharper baseline"
            )
    write_baseline(path, entries)
    return {name: entry.estimate for name, entry in entries.items()}


def settle(
    chosen: Sequence[Workload], pairings: Sequence[Pairing], baseline: Baseline, bound: float, reporter: Reporter
) -> tuple[SpeedComparison, ...]:
    """Takes batches of all workloads in turns until each has a verdict or has had as many as a workload may."""

    def verdict(index: int, now: RatioEstimate) -> SpeedComparison:
        return against(baseline, chosen[index].name, now, bound)

    def settled(index: int, now: RatioEstimate) -> bool:
        # More batches tell nothing where this processor has no entry.
        return verdict(index, now).verdict != "inconclusive" or baseline.entry(chosen[index].name, here()) is None

    estimates = _until(pairings, settled, reporter)
    return tuple(verdict(index, now) for index, now in enumerate(estimates))


def against(baseline: Baseline, name: str, now: RatioEstimate, bound: float) -> SpeedComparison:
    """A measurement against the baseline's entry of this processor; inconclusive where there is none.

    Beside that of another processor the numbers are told and not judged: the quotients of two differ by up to a third.
    """
    entry, others = baseline.entry(name, here()), baseline.workloads.get(name, ())
    if entry is not None:
        return compare(name, now, entry.estimate, bound)
    if not others:
        reason = "not in the baseline yet; --update adds it"
        return SpeedComparison(name, "inconclusive", None, None, None, bound, reason, now)
    beside = compare(name, now, others[0].estimate, bound)
    reason = f"in the baseline of other processors only ({others[0].hardware.get('cpu')}); --update adds this one"
    return replace(beside, verdict="inconclusive", reason=reason)


def here() -> Processor:
    """The processor of this machine."""
    return processor_of(hardware.describe().as_dict())


def entry_of(workload: Workload, pairing: Pairing) -> BaselineEntry:
    """What the baseline keeps of a measurement."""
    now = pairing.estimate()
    return BaselineEntry(
        revision=workload.revision,
        reference=workload.reference.name,
        reference_revision=workload.reference.revision,
        ratio=now.ratio,
        low=now.low,
        high=now.high,
        batches=now.batches,
        pairs=now.pairs,
        contention=now.contention,
        work_ms=round(1000 * median(pairing.work_seconds), 3),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware=hardware.describe().as_dict(),
        libraries=hardware.library_versions(),
    )


@contextmanager
def prepared(chosen: Sequence[Workload], reporter: Reporter = SILENT) -> Iterator[list[Pairing]]:
    """The workloads ready to be timed on this thread, warm, for the length of the block."""
    steady_memory()
    with scratch() as folder, one_thread(), OwnTime() as clock:
        pairings = []
        with reporter.task("preparing", len(chosen)) as advance:
            for workload in chosen:
                pairings.append(_pairing(workload, folder, clock))
                advance(1, workload.name)
        yield pairings


def _pairing(workload: Workload, folder: Path, clock: OwnTime) -> Pairing:
    place = folder / workload.name
    place.mkdir()
    work = _repeated(workload.make(place), workload.calls)
    reference = _repeated(workload.reference.make(), workload.reference_calls)
    pairing = Pairing(work, reference, CHAIN.make(), clock)
    pairing.warm_up()
    return pairing


def _repeated(work: Work, calls: int) -> Work:
    def block() -> None:
        for _ in range(calls):
            work()

    return block


def _until(
    pairings: Sequence[Pairing], settled: Callable[[int, RatioEstimate], bool], reporter: Reporter
) -> list[RatioEstimate]:
    """Takes turns over whole looks, so that a disturbance of some seconds spoils few batches of each."""
    open_ones = list(range(len(pairings)))
    for look in LOOKS:
        done = len(pairings[open_ones[0]].batches)
        with reporter.task(f"measuring, batches {done + 1} to {look}", (look - done) * len(open_ones)) as advance:
            for _ in range(look - done):
                for index in open_ones:
                    pairings[index].take()
                    advance(1, "")
        open_ones = [i for i in open_ones if not settled(i, pairings[i].estimate())]
        if not open_ones:
            break
    return [pairing.estimate() for pairing in pairings]


def _refuse_foreign(baseline: Baseline, path: Path) -> None:
    known = {workload.name: workload for workload in workloads()}
    for name, entry in ((name, entry) for name, entries in baseline.workloads.items() for entry in entries):
        if name not in known:
            raise BadInputError(
                f"unknown workload {name!r}", where=path, fix=f"remove it from the file; {near(name, known)}"
            )
        mine = known[name]
        if (mine.revision, mine.reference.name, mine.reference.revision) != (
            entry.revision,
            entry.reference,
            entry.reference_revision,
        ):
            raise BadInputError(
                f"{name} was measured by another definition (revision {entry.revision} on {entry.reference} "
                f"{entry.reference_revision}, now {mine.revision} on {mine.reference.name} {mine.reference.revision})",
                where=path,
                fix="measure it again with --update",
            )


def _differences(baseline: Baseline) -> str:
    """What differs from where the baseline was made: told, not judged."""
    mine, versions = here(), hardware.library_versions()
    found: dict[str, None] = {}
    for name, entries in baseline.workloads.items():
        entry = baseline.entry(name, mine) or entries[0]
        if entry.processor != mine:
            found[f"made on {entry.hardware.get('cpu')}, this is {mine[0]}"] = None
        for library in sorted({*entry.libraries, *versions}):
            then, now = entry.libraries.get(library), versions.get(library)
            if then != now:
                found[f"{library} {then or 'absent'} then, {now or 'absent'} now"] = None
    return "; ".join(found)
