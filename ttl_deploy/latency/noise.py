"""When a measurement is too disturbed to give a number, and in which words.

The rule, from the record alone: a measurement is inconclusive if the medians of its rounds differ by more than 10 %
(of one round: those of its four quarters), if the hypervisor stole more than 3 % of the time, if other processes
took more than 15 % of the cores that the measurement needed, if a thermal limit was hit, or if it never became warm.
Rounds shorter than 0.2 s say nothing about others: the system counts their time in hundredths of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from ttl_deploy.latency.machine import MachineState
from ttl_deploy.spec import Record

_QUARTERS = 4
_LEAST = 5
"""Samples from which a part's median says something about drift."""

_LEAST_SECONDS = 0.2


class NoiseBounds(Record):
    """What is tolerated.

    Attributes:
        spread: Largest minus smallest median of the rounds, as a share of the median of all samples.
        steal_percent: Share of the time that the hypervisor gave away.
        contention: Processor time that others took beyond the cores left free, as a share of the threads measured.
    """

    spread: float = 0.10
    steal_percent: float = 3.0
    contention: float = 0.15


DEFAULT = NoiseBounds()


def judge(
    rounds: Sequence[Sequence[float]],
    machine: Sequence[MachineState],
    threads: int,
    *,
    warm: bool = True,
    bounds: NoiseBounds = DEFAULT,
) -> str | None:
    """Why a measurement is inconclusive, with the numbers and their bounds; None if it is not.

    Args:
        rounds: Samples of each round, in order of time.
        machine: The machine's state during each round.
        threads: Threads of the measurement.
        warm: Whether every warm-up became stable.
        bounds: What is tolerated.
    """
    long = [state for state in machine if state.seconds >= _LEAST_SECONDS]
    reasons = [
        None if warm else "the warm-up never became stable",
        _spread_reason(rounds, bounds),
        _steal_reason(long, bounds),
        _contention_reason(long, threads, bounds),
        *(_heat_reason(state) for state in machine),
    ]
    told = dict.fromkeys(reason for reason in reasons if reason)
    return "; ".join(told) or None


def spread(rounds: Sequence[Sequence[float]]) -> float | None:
    """Largest minus smallest median of the rounds, as a share of the median of all; None where samples are too few.

    One round alone is judged by its four quarters.
    """
    parts = list(rounds)
    if len(parts) == 1:
        whole, size = parts[0], len(parts[0]) // _QUARTERS
        parts = [whole[k * size : (k + 1) * size] for k in range(_QUARTERS)]
    if min(map(len, parts), default=0) < _LEAST:
        return None
    medians = [median(part) for part in parts]
    middle = median([sample for part in rounds for sample in part])
    return (max(medians) - min(medians)) / middle if middle > 0 else None


def contention(state: MachineState, threads: int) -> float:
    """Processor time that others took from the measurement, as a share of what its threads needed, at least."""
    free = max(0, state.cores - threads)
    return max(0.0, (state.others_cores or 0.0) - free) / threads


def _spread_reason(rounds: Sequence[Sequence[float]], bounds: NoiseBounds) -> str | None:
    found = spread(rounds)
    if found is None or found <= bounds.spread:
        return None
    parts = "rounds" if len(rounds) > 1 else "quarters"
    return f"medians of its {parts} differ by {found:.0%}, bound {bounds.spread:.0%}"


def _steal_reason(machine: Sequence[MachineState], bounds: NoiseBounds) -> str | None:
    worst = max((state.steal_percent or 0.0 for state in machine), default=0.0)
    if worst <= bounds.steal_percent:
        return None
    return f"the hypervisor took {worst:.1f} % of the time, bound {bounds.steal_percent:g} %"


def _contention_reason(machine: Sequence[MachineState], threads: int, bounds: NoiseBounds) -> str | None:
    worst = max(machine, key=lambda state: contention(state, threads), default=None)
    if worst is None or contention(worst, threads) <= bounds.contention:
        return None
    return (
        f"other processes took {contention(worst, threads):.0%} of the cores it needed, bound {bounds.contention:.0%}"
        f" ({worst.busy_processes} busy)"
    )


def _heat_reason(state: MachineState) -> str | None:
    if state.throttled:
        return "the processor was throttled by heat"
    if state.gpu and state.gpu.slowed:
        return f"the GPU was held back: {', '.join(state.gpu.slowed)}"
    return None
