"""The rule for inconclusive measurements, on cases worked out by hand."""

import pytest

from ttl_deploy.latency.machine import GpuState, MachineState
from ttl_deploy.latency.noise import NoiseBounds, contention, judge, spread

QUIET = MachineState(seconds=2.0, cores=4, others_cores=0.1, busy_processes=0, steal_percent=0.0)


def state(**changes: object) -> MachineState:
    return QUIET.model_copy(update=changes)


def test_spread_is_the_range_of_the_rounds_medians() -> None:
    assert spread([[10.0] * 5, [11.0] * 5, [10.5] * 5]) == pytest.approx(1 / 10.5)
    assert spread([[10.0] * 5, [10.0, 10.0, 10.0, 500.0, 500.0]]) == 0, "outliers do not move a median"
    assert spread([[10.0] * 20]) == 0
    assert spread([[10.0] * 10 + [12.0] * 10]) == pytest.approx(2 / 11), "one round is judged by its quarters"
    assert spread([[10.0] * 4, [20.0] * 4]) is None, "four samples tell nothing"
    assert spread([]) is None


def test_contention_counts_only_what_the_free_cores_do_not_cover() -> None:
    assert contention(state(others_cores=2.0), threads=2) == 0
    assert contention(state(others_cores=2.5), threads=2) == pytest.approx(0.25)
    assert contention(state(others_cores=1.0), threads=4) == pytest.approx(0.25)
    assert contention(state(others_cores=None), threads=4) == 0


def test_a_quiet_measurement_gives_no_reason() -> None:
    assert judge([[10.0] * 20, [10.4] * 20], [QUIET, QUIET], 2) is None


@pytest.mark.parametrize(
    ("rounds", "machine", "warm", "words"),
    [
        ([[10.0] * 9, [12.0] * 9], QUIET, True, "rounds differ by 18%, bound 10%"),
        ([[10.0] * 9], state(steal_percent=4.2), True, "hypervisor took 4.2 % of the time, bound 3 %"),
        ([[10.0] * 9], state(others_cores=3.0, busy_processes=7), True, r"took 50% of the cores.*bound 15% \(7 busy\)"),
        ([[10.0] * 9], state(throttled=2), True, "throttled by heat"),
        ([[10.0] * 9], state(gpu=GpuState(slowed=("power brake",))), True, "held back: power brake"),
        ([[10.0] * 9], QUIET, False, "never became stable"),
    ],
)
def test_each_disturbance_is_told_with_its_bound(
    rounds: list[list[float]], machine: MachineState, warm: bool, words: str
) -> None:
    import re

    assert re.search(words, judge(rounds, [machine], 2, warm=warm) or "")


def test_a_round_too_short_to_count_others_says_nothing_of_them() -> None:
    assert judge([[1.0] * 9], [state(seconds=0.1, others_cores=4.0, steal_percent=50.0)], 4) is None


def test_the_bounds_can_be_set() -> None:
    rounds = [[10.0] * 9, [12.0] * 9]
    assert judge(rounds, [QUIET], 2, bounds=NoiseBounds(spread=0.2)) is None
