"""The server scenario on a clock of its own: worked out by hand, and against the theory of the M/D/1 queue."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ttl_deploy.latency import Job, Measurement, merge, server
from ttl_deploy.latency.machine import MachineState
from ttl_deploy.latency.measure import summarise
from ttl_deploy.latency.noise import spread
from ttl_deploy.latency.open_loop import tail
from ttl_deploy.latency.server import Answers, arrivals, best, highest_rate, serve, too_many_late
from ttl_deploy.latency.worker import _result
from ttl_deploy.runtime import Session
from ttl_deploy.spec import Scenario
from ttl_deploy.tasks import Multiclass


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


class Served(Session):
    """A session that only says what it is."""

    def __init__(self) -> None:
        super().__init__(runtime="fake", device="cpu", threads=1, task=Multiclass(("a", "b")), input_shape=(1, 2, 2))

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        raise NotImplementedError


def measurement(answers: Answers, qps: float, *, batch: int = 1, bound_ms: float = 30.0) -> Measurement:
    """As the worker records the queue."""
    job = Job(
        label="x",
        artifact="x",
        batch=batch,
        scenario=Scenario(kind="server", qps=qps, queries=1, latency_bound=bound_ms),
    )
    return summarise(
        Served(),
        answers.latency_ms,
        batch=batch,
        warm=True,
        machine=MachineState(seconds=answers.seconds),
        server=_result(job, qps, answers, []),
        label="x",
        precision="fp32",
        warmup_runs=1,
        cold_start_s=None,
        started="",
        scenario="server",
    )


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


def test_throughput_is_what_was_answered_by_the_time_that_passed() -> None:
    # The queue above: 5 queries of 8 images in 60 ms, though their latencies have a mean of 14.6 ms.
    answers = simulated(np.array([0.0, 0.004, 0.008, 0.040, 0.045]), 10.0)
    one = measurement(answers, 100.0, batch=8)
    for found in (one, merge([one])):
        assert found.mean_ms == pytest.approx(14.6, abs=0.01)
        assert found.throughput == pytest.approx(8 * 5 / 0.060, rel=1e-3)
        assert found.server is not None
        assert found.server.completed_qps == pytest.approx(5 / 0.060, rel=1e-3)
    # A second round of two queries, at 0 and 5 ms: 20 ms more, in which the worker never rests.
    two = merge([one, measurement(simulated(np.array([0.0, 0.005]), 10.0), 100.0, batch=8)])
    assert two.throughput == pytest.approx(8 * 7 / 0.080, rel=1e-3)
    assert two.samples_ms == pytest.approx([10, 16, 22, 10, 15, 10, 15], abs=0.01)
    assert two.server is not None
    assert two.server.completed_qps == pytest.approx(7 / 0.080, rel=1e-3)
    assert two.server.utilisation == pytest.approx(70 / 80, rel=1e-3)
    assert two.server.service_ms == pytest.approx([10] * 7, abs=0.01)


def test_a_merged_tail_is_that_of_all_queries() -> None:
    quick, slow = (
        measurement(Answers((value,) * 600, (5.0,) * 600, 6.0), 100.0, bound_ms=30.0) for value in (10.0, 90.0)
    )
    assert quick.server is not None
    assert quick.server.held is None, "600 queries cannot show that the 99th percentile holds"
    both = merge([quick, slow]).server
    assert both is not None
    assert (both.percentile, both.tail_ms, both.held) == (99, 90.0, False)
    with pytest.raises(ValueError, match="different rates"):
        merge([quick, measurement(Answers((9.0,), (9.0,), 1.0), 50.0)])


def test_waiting_is_no_noise_but_a_network_that_drifts_is() -> None:
    # Crowded arrivals at first, sparse ones later: latencies fall from some 400 ms to 10 while the network is steady.
    times = np.r_[np.arange(80) * 0.005, 2 + np.arange(80) * 0.02]
    one = measurement(simulated(times, 10.0), 100.0)
    assert (spread([one.samples_ms]) or 0) > 1, "judged by its latencies it would be noise"
    assert one.noise is None
    assert merge([one]).noise is None
    assert merge([one, measurement(simulated(times[80:], 10.0), 100.0)]).noise is None
    slower = Answers((10.0,) * 80, (10.0,) * 40 + (12.0,) * 40, 1.0)
    assert "quarters differ by 18%" in (merge([measurement(slower, 100.0)]).noise or "")


def test_a_record_without_its_time_is_merged_by_its_rate() -> None:
    answers = simulated(np.array([0.0, 0.004, 0.008, 0.040, 0.045]), 10.0)
    old = measurement(answers, 100.0)
    assert old.server is not None
    plain = old.model_dump(mode="json")
    del plain["server"]["seconds"]
    again = Measurement.model_validate(plain)
    assert merge([again, again]).throughput == pytest.approx(5 / 0.060, rel=1e-3)


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
