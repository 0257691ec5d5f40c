"""Several things measured in turns, block by block, and what their times say of each other.

Each has its own process that waits while another runs, so that a machine that drifts drifts for all of them alike, and
for every block a new one, because where a process happens to lie in memory is worth several per cent for as long as it
lives: blocks of one process are one piece of evidence. A ratio comes with an interval, and a ratio that the machine was
too restless for is withheld.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from ttl_deploy.latency.isolate import Job
from ttl_deploy.latency.measure import Measurement, merge
from ttl_deploy.latency.persistent import Block, PersistentWorker
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import Record

LEAST_BLOCKS = 6
"""Of five pairs even the whole range covers the truth in 15 of 16 cases only, which is less than 95 %."""
CONFIDENCE = 0.95
MOST_UNCERTAIN = 0.05
"""Half the width of the interval, as a share of the ratio, above which a ratio is withheld."""


class Ratio(Record):
    """How long A takes relative to B.

    Attributes:
        a: Label of A.
        b: Label of B.
        ratio: A's time by B's, see `ratio_of_medians`; below 1, A is faster. None where it is inconclusive.
        low: Lower end of the interval of 95 %.
        high: Upper end.
        blocks: Pairs of blocks.
        verdict: `a is faster`, `b is faster`, `no difference shown`, or `inconclusive`.
        reason: The interval's width and its bound, where it is inconclusive.
    """

    a: str
    b: str
    ratio: float | None
    low: float
    high: float
    blocks: int
    verdict: str
    reason: str | None = None


def measure_in_turns(
    jobs: Sequence[Job], *, blocks: int, block: Block, reporter: Reporter = SILENT
) -> list[Measurement]:
    """Measures jobs in turns, A B, B A, A B …, each block in a process of its own.

    Args:
        jobs: What to measure; all of them are held in memory.
        blocks: Blocks of each.
        block: How long one is.
        reporter: Told of every block.

    Returns:
        One measurement per job in the order of `jobs`; its `rounds` are the blocks.

    Raises:
        TtlDeployError: A worker failed; all of them are ended.
    """
    parts: list[list[Measurement]] = [[] for _ in jobs]
    with reporter.task("measuring in turns", blocks * len(jobs)) as advance:
        for turn in range(blocks):
            with contextlib.ExitStack() as stack:
                workers = [stack.enter_context(PersistentWorker(job)) for job in jobs]
                pairs = list(zip(workers, parts, strict=True))
                # Whoever always runs second finds the caches and the clock that the first has left.
                for worker, measured in pairs if turn % 2 == 0 else reversed(pairs):
                    measured.append(worker.measure(block))
                    advance(1, worker.job.label)
    return [merge(measured) for measured in parts]


def compare_blocks(a: Measurement, b: Measurement, *, most_uncertain: float = MOST_UNCERTAIN) -> Ratio:
    """The ratio of two things measured in turns.

    Args:
        a: The one.
        b: The other, with as many blocks.
        most_uncertain: Half the interval's width, as a share of the ratio, from which it is withheld.

    Raises:
        ValueError: They differ in their number of blocks, or have fewer than `LEAST_BLOCKS`.
    """
    ratio, low, high = ratio_of_medians(block_medians(a), block_medians(b))
    half = (high - low) / 2 / ratio
    fields: dict[str, Any] = {"a": a.label, "b": b.label, "low": low, "high": high, "blocks": len(a.rounds)}
    if half > most_uncertain:
        reason = (
            f"the 95 % interval {low:.3f} to {high:.3f} is ±{half:.1%} wide, bound ±{most_uncertain:.1%}; "
            "let the machine come to rest or measure more blocks"
        )
        return Ratio(ratio=None, verdict="inconclusive", reason=reason, **fields)
    verdict = "a is faster" if high < 1 else "b is faster" if low > 1 else "no difference shown"
    return Ratio(ratio=ratio, verdict=verdict, **fields)


def ratio_of_medians(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """A's time by B's with its interval of 95 %, from pairs of blocks.

    Each pair has a ratio; the middle of them, on the logarithmic scale, is Hodges and Lehmann's, and the interval is
    that of Wilcoxon's signed ranks (Hollander, Wolfe and Chicken 2014, section 3.3): it covers in at least 95 % of
    cases whatever the distribution, if a pair is as likely to be off one way as the other, and one pair in a few that
    was disturbed moves it little. A bootstrap of so few pairs covers less than it says.

    Args:
        a: The median of each block.
        b: As many, measured beside those of `a`: what disturbs both halves of a pair cancels.

    Returns:
        The ratio, and the lower and upper end of the interval.

    Raises:
        ValueError: They differ in number, or there are fewer than `LEAST_BLOCKS`.
    """
    if len(a) != len(b) or len(a) < LEAST_BLOCKS:
        raise ValueError(f"a ratio needs as many blocks of both, at least {LEAST_BLOCKS}, got {len(a)} and {len(b)}")
    ratios = np.log(np.asarray(a, dtype=np.float64) / np.asarray(b, dtype=np.float64))
    averages = np.sort([(x + y) / 2 for i, x in enumerate(ratios) for y in ratios[i:]])
    skip = _skipped(len(ratios))
    low, high = averages[skip], averages[-1 - skip]
    return float(np.exp(np.median(averages))), float(np.exp(low)), float(np.exp(high))


def _skipped(pairs: int) -> int:
    """How many of the sorted averages of two pairs to leave out at either end, for at least 95 %.

    The sum of the signed ranks is that of the ranks 1 to n, each with probability one half.
    """
    chances = np.ones(1)
    for rank in range(1, pairs + 1):
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    return int((2 * np.cumsum(chances) <= 1 - CONFIDENCE).sum()) - 1


def block_medians(measured: Measurement) -> list[float]:
    """Median of each block, milliseconds."""
    ends = np.cumsum(measured.rounds).tolist()
    return [median(measured.samples_ms[end - count : end]) for end, count in zip(ends, measured.rounds, strict=True)]
