"""What an open loop tells: queries that arrive whether or not the worker is free, so that their latencies overlap.

Latencies with waiting say what a user feels. What passed, how much was answered and how steady the network was come
from the clock and from the times in the network, never from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttl_deploy.spec import Record

TAIL_SAMPLES = 10
"""How many samples must lie beyond a percentile before it is given."""

TAIL = 99
"""The percentile that must hold the bound, as in MLPerf's server scenario for image classification."""

_FALLBACKS = (99, 95, 90, 50)


class LoadTrial(Record):
    """One offered rate of the server scenario.

    Attributes:
        qps: Queries per second offered.
        tail_ms: The percentile that was known, queueing included.
        held: Whether it was within the bound; None where the queries were too few to tell.
    """

    qps: float
    tail_ms: float | None
    held: bool | None


class ServerResult(Record):
    """What the server scenario adds to a measurement, whose samples are then latencies with queueing.

    Attributes:
        offered_qps: Queries per second that arrived on average.
        completed_qps: Queries per second that were answered, from the first arrival to the last answer.
        bound_ms: The latency that the tail must not exceed.
        percentile: Which percentile `tail_ms` is: 99, or the highest that the queries suffice for.
        tail_ms: Latency at that percentile, from arrival to answer.
        held: Whether the 99th percentile is within the bound; None where the queries are too few to know.
        service_ms: Time of every query in the network alone, in order of arrival.
        utilisation: Share of the time in which the worker was busy.
        seed: Of the arrivals.
        searched: Whether the rate is the highest that holds the bound, found by search.
        trials: Every rate that was tried, in order.
        seconds: From the first arrival to the last answer; 0 in older records, where the completed rate tells it.
    """

    offered_qps: float
    completed_qps: float
    bound_ms: float
    percentile: int | None
    tail_ms: float | None
    held: bool | None
    service_ms: tuple[float, ...]
    utilisation: float
    seed: int
    searched: bool = False
    trials: tuple[LoadTrial, ...] = ()
    seconds: float = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds from the first arrival to the last answer."""
        return self.seconds or len(self.service_ms) / self.completed_qps


@dataclass(frozen=True)
class Tail:
    """The tail of some latencies against a bound.

    Attributes:
        percentile: The highest known percentile up to `TAIL`; None where the queries suffice for none.
        ms: The latency there.
        held: Whether percentile `TAIL` is within the bound; None where that cannot be told.
    """

    percentile: int | None
    ms: float | None
    held: bool | None


def percentile(samples: Sequence[float], percent: int) -> float | None:
    """A percentile, linear between samples, or None where fewer than 10/(1-p) samples make it a guess."""
    if len(samples) * (100 - percent) < 100 * TAIL_SAMPLES:
        return None
    return float(np.percentile(samples, percent))


def tail(latency_ms: Sequence[float], bound_ms: float) -> Tail:
    """Whether the tail holds a bound.

    With too few queries for the 99th percentile, a lower one that breaks the bound still settles it: the 99th is not
    below it.
    """
    for percent in _FALLBACKS:
        value = percentile(latency_ms, percent)
        if value is not None:
            broken = value > bound_ms
            return Tail(percent, value, not broken if percent == TAIL else (False if broken else None))
    return Tail(None, None, None)


def merge_servers(rounds: Sequence[ServerResult], latency_ms: Sequence[float]) -> ServerResult | None:
    """One result from several queues at one rate: what all of them answered, by the time of all of them.

    Args:
        rounds: The queues; none: the measurement had none.
        latency_ms: The latencies of all, from arrival to answer.

    Raises:
        ValueError: The rates or the bounds differ: those are different queues.
    """
    if len(rounds) < 2:
        return rounds[0] if rounds else None
    if len({(part.offered_qps, part.bound_ms) for part in rounds}) > 1:
        raise ValueError(f"queues at different rates cannot be merged: {[part.offered_qps for part in rounds]}")
    service = tuple(time for part in rounds for time in part.service_ms)
    seconds = sum(part.elapsed_s for part in rounds)
    found = tail(latency_ms, rounds[0].bound_ms)
    return rounds[0].model_copy(
        update={
            "completed_qps": len(service) / seconds,
            "percentile": found.percentile,
            "tail_ms": found.ms,
            "held": found.held,
            "service_ms": service,
            "utilisation": sum(service) / 1000 / seconds,
            "trials": tuple(trial for part in rounds for trial in part.trials),
            "seconds": seconds,
        }
    )
