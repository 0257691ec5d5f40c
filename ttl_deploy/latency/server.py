"""The server scenario: queries arrive at random, wait for the one worker, and are answered; in real time.

Arrivals are a Poisson process (MLPerf Inference, LoadGen's server scenario) whose gaps come from a seed; a query's
latency runs from its arrival, not from its turn, so that a queue shows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.latency.measure import Clock
from ttl_deploy.latency.open_loop import TAIL, LoadTrial, Tail, tail

_SPIN_S = 0.002
"""The last milliseconds before an arrival are spent reading the clock: a sleep may end late by that much."""
_PRECISION = 0.05
_LOWEST = 0.1
"""Share of the busiest rate below which the search gives up."""


@dataclass(frozen=True)
class Answers:
    """What became of the queries, in order of arrival.

    Attributes:
        latency_ms: From arrival to answer.
        service_ms: In the network alone.
        seconds: From the first arrival to the last answer.
    """

    latency_ms: tuple[float, ...]
    service_ms: tuple[float, ...]
    seconds: float

    @property
    def utilisation(self) -> float:
        """Share of the time in which the worker was busy."""
        return sum(self.service_ms) / 1000 / self.seconds if self.seconds > 0 else 0.0


def arrivals(qps: float, queries: int, seed: int) -> NDArray[np.float64]:
    """Arrival times of a Poisson process, the first after one gap.

    The gaps of one seed are the same for every rate but for their scale, so that a higher rate is never luckier.

    Args:
        qps: Mean arrivals per second.
        queries: How many.
        seed: Of the generator.

    Returns:
        (queries,) seconds, ascending.
    """
    return np.asarray(np.cumsum(np.random.default_rng(seed).exponential(1.0, queries)) / qps, dtype=np.float64)


def serve(
    answer: Callable[[int], object],
    times: NDArray[np.float64],
    *,
    give_up: Callable[[float], bool] | None = None,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Answers:
    """Answers queries as they arrive, first come first served, by one worker.

    The queue needs no thread: whatever has arrived while a query was answered is simply late when its turn comes.

    Args:
        answer: Answers query number i.
        times: Arrival of each query, seconds from now, ascending.
        give_up: Told every latency, milliseconds; whether to leave the rest unanswered.
        clock: Nanoseconds.
        sleep: Waits some seconds.
    """
    begin = clock()
    latency, service = [], []
    end = begin
    for number, arrival in enumerate(begin + np.round(times * 1e9).astype(np.int64)):
        _wait_until(int(arrival), clock, sleep)
        start = clock()
        answer(number)
        end = clock()
        service.append((end - start) / 1e6)
        latency.append((end - int(arrival)) / 1e6)
        if give_up is not None and give_up(latency[-1]):
            break
    first = begin + round(float(times[0]) * 1e9)
    return Answers(tuple(latency), tuple(service), (end - first) / 1e9)


def too_many_late(queries: int, bound_ms: float) -> Callable[[float], bool]:
    """Tells, from latencies one by one, when so many broke the bound that the tail of all `queries` must.

    Args:
        queries: How many there will be.
        bound_ms: The bound.
    """
    late, most = 0, queries - math.floor(TAIL / 100 * (queries - 1))

    def told(latency_ms: float) -> bool:
        nonlocal late
        late += latency_ms > bound_ms
        return late >= most

    return told


def highest_rate(
    attempt: Callable[[float], tuple[float, ...]], queries: int, service_ms: float, bound_ms: float
) -> list[LoadTrial]:
    """Tries rates by halving the range from none to a worker without pause, until it is known to 5 %.

    Args:
        attempt: Serves queries at a rate and gives their latencies, milliseconds; fewer than `queries` of them
            where it gave up because the bound was broken.
        queries: How many a trial serves.
        service_ms: Mean time of a query alone: at a rate of one in that time the queue grows without end.
        bound_ms: The bound on the tail.

    Returns:
        Every trial in order. One with too few queries to tell raises the rate like one that held.
    """
    low, high = 0.0, 1000 / service_ms
    floor, trials = high * _LOWEST, list[LoadTrial]()
    while high - low > _PRECISION * high and high > floor:
        rate = (low + high) / 2
        latencies = attempt(rate)
        found = Tail(None, None, False) if len(latencies) < queries else tail(latencies, bound_ms)
        trials.append(LoadTrial(qps=rate, tail_ms=found.ms, held=found.held))
        low, high = (low, rate) if found.held is False else (rate, high)
    return trials


def best(trials: Sequence[LoadTrial]) -> float | None:
    """The highest rate that did not break the bound; None where each did."""
    return max((trial.qps for trial in trials if trial.held is not False), default=None)


def _wait_until(moment: int, clock: Clock, sleep: Callable[[float], None]) -> None:
    while (left := (moment - clock()) / 1e9) > 0:
        if left > _SPIN_S:
            sleep(left - _SPIN_S)
