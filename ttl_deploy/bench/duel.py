"""Several things measured in turns, block by block, and what their times say of each other.

Each has its own process that waits while another runs, so that a machine that drifts drifts for all of them alike, and
after some blocks a new one, because where a process happens to lie in memory is worth several per cent for as long as
it lives. A ratio comes with an interval, and a ratio that the machine was too restless for is withheld.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ttl_deploy.bench.isolate import Job
from ttl_deploy.bench.measure import Measurement, merge
from ttl_deploy.bench.persistent import Block, PersistentWorker
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import Record

BLOCKS_PER_PROCESS = 4
CONFIDENCE = 0.95
RESAMPLES = 4000
MOST_UNCERTAIN = 0.05
"""Half the width of the interval, as a share of the ratio, above which a ratio is withheld."""


class Ratio(Record):
    """How long A takes relative to B.

    Attributes:
        a: Label of A.
        b: Label of B.
        ratio: Median of A's blocks by the median of B's; below 1, A is faster. None where it is inconclusive.
        low: Lower end of the interval of 95 %, by bootstrap over pairs of blocks.
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
    """Measures jobs in turns, A B, B A, A B …, each in processes that stay for `BLOCKS_PER_PROCESS` blocks.

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
        for first in range(0, blocks, BLOCKS_PER_PROCESS):
            with contextlib.ExitStack() as stack:
                workers = [stack.enter_context(PersistentWorker(job)) for job in jobs]
                pairs = list(zip(workers, parts, strict=True))
                for turn in range(first, min(blocks, first + BLOCKS_PER_PROCESS)):
                    # Whoever always runs second finds the caches and the clock that the first has left.
                    for worker, measured in pairs if turn % 2 == 0 else reversed(pairs):
                        measured.append(worker.measure(block))
                        advance(1, worker.job.label)
    return [merge(measured) for measured in parts]


def compare_blocks(a: Measurement, b: Measurement, *, most_uncertain: float = MOST_UNCERTAIN, seed: int = 0) -> Ratio:
    """The ratio of two things measured in turns.

    Args:
        a: The one.
        b: The other, with as many blocks.
        most_uncertain: Half the interval's width, as a share of the ratio, from which it is withheld.
        seed: Of the bootstrap.

    Raises:
        ValueError: They differ in their number of blocks, or have fewer than two.
    """
    if len(a.rounds) != len(b.rounds) or len(a.rounds) < 2:
        raise ValueError(f"a ratio needs as many blocks of both, at least 2, got {len(a.rounds)} and {len(b.rounds)}")
    ratio, low, high = ratio_of_medians(block_medians(a), block_medians(b), seed=seed)
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


def ratio_of_medians(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> tuple[float, float, float]:
    """Median of A by median of B with its interval of 95 %, by bootstrap over the pairs.

    Args:
        a: One number per block.
        b: As many, measured beside those of `a`: what disturbed one pair is drawn or left together.
        seed: Of the bootstrap.

    Returns:
        The ratio, and the lower and upper end of the percentile interval.
    """

    def statistic(first: NDArray[np.float64], second: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.asarray(np.median(first, axis=axis) / np.median(second, axis=axis))

    one, other = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    with warnings.catch_warnings():
        # Blocks that are all alike leave no spread, which SciPy warns of and which is a fine interval of no width.
        warnings.simplefilter("ignore")
        interval = stats.bootstrap(
            (one, other),
            statistic,
            paired=True,
            vectorized=True,
            method="percentile",
            confidence_level=CONFIDENCE,
            n_resamples=RESAMPLES,
            random_state=seed,
        ).confidence_interval
    return float(statistic(one, other)), float(interval.low), float(interval.high)


def block_medians(measured: Measurement) -> list[float]:
    """Median of each block, milliseconds."""
    ends = np.cumsum(measured.rounds).tolist()
    return [median(measured.samples_ms[end - count : end]) for end, count in zip(ends, measured.rounds, strict=True)]
