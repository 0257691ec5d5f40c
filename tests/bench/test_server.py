"""The server scenario on a clock of its own: worked out by hand, and against the theory of the M/D/1 queue."""

import numpy as np
import pytest

from ttl_deploy.bench import server
from ttl_deploy.bench.server import Answers, arrivals, best, highest_rate, serve, tail, too_many_late


class Clock:
    """Time that passes only by sleeping, waiting and answering."""

    def __init__(self, service_ms: float = 0.0) -> None:
        self.now = 5_000_000_000
        self.service = round(service_ms * 1e6)

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)

    def answer(self, _number: int) -> None:
        self.now += self.service


@pytest.fixture(autouse=True)
def _exact_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """This clock's sleep ends on time, so that there is nothing to spin for."""
    monkeypatch.setattr(server, "_SPIN_S", 0.0)


def simulated(times: np.ndarray, service_ms: float, **more: object) -> Answers:
    clock = Clock(service_ms)
    return serve(clock.answer, times, clock=clock, sleep=clock.sleep, **more)  # type: ignore[arg-type]


def test_a_queue_worked_out_by_hand() -> None:
    # 10 ms each; arrivals at 0, 4, 8, 40 and 45 ms: they start at 0, 10, 20, 40 and 50.
    found = simulated(np.array([0.0, 0.004, 0.008, 0.040, 0.045]), 10.0)
    assert found.latency_ms == pytest.approx([10, 16, 22, 10, 15], abs=0.01)
    assert found.service_ms == pytest.approx([10] * 5, abs=0.01)
    assert found.seconds == pytest.approx(0.060, abs=1e-5)
    assert found.utilisation == pytest.approx(50 / 60, abs=1e-3)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_waiting_is_that_of_the_m_d_1_queue(load: float) -> None:
    service_ms, queries = 10.0, 40_000
    found = simulated(arrivals(load * 1000 / service_ms, queries, seed=3), service_ms)
    waiting = np.mean(found.latency_ms) - service_ms
    assert waiting == pytest.approx(load * service_ms / (2 * (1 - load)), rel=0.08)  # Pollaczek-Khinchine
    assert found.utilisation == pytest.approx(load, rel=0.03)


def test_arrivals_are_poisson_and_the_same_for_a_seed() -> None:
    times = arrivals(50.0, 20_000, seed=1)
    gaps = np.diff(times, prepend=0.0)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.03), "the gaps of a Poisson process have their mean as deviation"
    per_second = np.histogram(times, bins=np.arange(0, times[-1], 1.0))[0]
    assert per_second.var() == pytest.approx(50, rel=0.2)
    assert (arrivals(50.0, 20_000, seed=1) == times).all()
    assert arrivals(100.0, 20_000, seed=1) == pytest.approx(times / 2)
    assert (arrivals(50.0, 20_000, seed=2) != times).any()


def test_the_tail_needs_queries_enough_to_hold() -> None:
    known = tail((5.0,) * 1000, 10)
    assert (known.percentile, known.ms, known.held) == (99, 5.0, True)
    assert tail((5.0,) * 980 + (20.0,) * 20, 10).held is False
    few = tail((5.0,) * 300, 10)
    assert (few.percentile, few.held) == (95, None), "300 queries cannot show that the 99th percentile holds"
    assert tail((5.0,) * 150 + (20.0,) * 50, 10).held is False, "but a broken 95th shows that it does not"
    assert tail((5.0,) * 10, 10) == tail((50.0,) * 10, 10)


def test_it_gives_up_when_the_tail_is_lost() -> None:
    give_up = too_many_late(1000, 15.0)
    found = simulated(np.zeros(1000), 10.0, give_up=give_up)
    # Everything but the first is late; the 99th percentile of 1000 is lost with the 11th.
    assert len(found.latency_ms) == 12
    late = np.sort(np.r_[np.full(989, 1.0), np.full(11, 99.0)])
    assert np.percentile(late, 99) > 15 > np.percentile(np.r_[late[1:-1], 1.0, 1.0], 99)


def test_the_highest_rate_is_found() -> None:
    service_ms, queries, bound = 10.0, 4000, 30.0

    def attempt(qps: float) -> tuple[float, ...]:
        return simulated(arrivals(qps, queries, 0), service_ms).latency_ms

    trials = highest_rate(attempt, queries, service_ms, bound)
    rate = best(trials)
    assert rate is not None
    assert tail(attempt(rate), bound).held
    assert tail(attempt(rate * 1.1), bound).held is False
    assert [trial.held for trial in trials].count(False) >= 1
    assert best(highest_rate(attempt, queries, service_ms, 9.0)) is None
