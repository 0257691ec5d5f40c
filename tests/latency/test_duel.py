"""Ratios with intervals, against constructed blocks; and workers that stay, wait and leave nothing behind."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from test_measure import FakeSession, always, measured

from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import TtlDeployError
from ttl_deploy.latency import Job, Measurement, merge
from ttl_deploy.latency.duel import _skipped, block_medians, compare_blocks, measure_in_turns, ratio_of_medians
from ttl_deploy.latency.persistent import Block, PersistentWorker
from ttl_deploy.spec import Placement

BRIEF = Block(min_samples=3, min_seconds=0.0, max_seconds=5.0)


def blocks(*medians: float) -> Measurement:
    parts = [measured(FakeSession(always(m)), min_samples=5, min_seconds=0, warmup_runs=0) for m in medians]
    return merge(parts)


def test_the_ratio_is_that_of_the_medians() -> None:
    assert block_medians(blocks(10, 11, 12)) == [10, 11, 12]
    assert ratio_of_medians([10, 11, 12, 10, 11, 12], [20, 22, 24, 20, 22, 24]) == pytest.approx((0.5, 0.5, 0.5))
    found = compare_blocks(blocks(*[13.0] * 12), blocks(*[10.0] * 12))
    assert (found.ratio, found.verdict) == (pytest.approx(1.3), "b is faster")
    assert compare_blocks(blocks(*[9.0] * 12), blocks(*[10.0] * 12)).verdict == "a is faster"


def paired(generator: np.random.Generator, blocks: int, kind: str) -> tuple[list[float], list[float]]:
    """Blocks of two things of which A takes 1.2 of B's time, on a machine that drifts for both."""
    drift = 1 + 0.05 * np.sin(np.arange(blocks))
    noise = generator.lognormal(0, 0.02, (2, blocks))
    if kind == "bursts":
        noise *= np.where(generator.random((2, blocks)) < 0.15, generator.uniform(1, 1.6, (2, blocks)), 1)
    return (12.0 * drift * noise[0]).tolist(), (10.0 * drift * noise[1]).tolist()


@pytest.mark.parametrize("kind", ["quiet", "bursts"])
@pytest.mark.parametrize("blocks", [6, 7, 8, 12, 20])
def test_the_interval_covers_the_truth_as_often_as_it_says(blocks: int, kind: str) -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _trial in range(1000):
        _ratio, low, high = ratio_of_medians(*paired(generator, blocks, kind))
        covered += low <= 1.2 <= high
    assert covered / 1000 >= 0.94


@pytest.mark.parametrize("blocks", [6, 8, 12])
def test_equal_things_are_called_equal_through_the_whole_estimator(blocks: int) -> None:
    generator = np.random.default_rng(1)
    told = []
    for _trial in range(100):
        a, b = (of_blocks(10 * generator.lognormal(0, 0.02, blocks)) for _ in "ab")
        told.append(compare_blocks(a, b, most_uncertain=10).verdict == "no difference shown")
    assert np.mean(told) >= 0.93


def of_blocks(medians: NDArray[np.float64]) -> Measurement:
    """A measurement of whose blocks only the medians matter; made from one, because a thousand would take minutes."""
    return blocks(1.0).model_copy(update={"samples_ms": tuple(medians), "rounds": (1,) * len(medians)})


def test_the_interval_is_that_of_the_signed_ranks() -> None:
    # Hollander, Wolfe and Chicken: of 6 pairs the whole range covers 1 - 2/64; of 12, W <= 13 has a chance of 0.021.
    assert [_skipped(n) for n in (6, 7, 8, 12)] == [0, 2, 3, 13]
    ratios = [1.0, 1.1, 0.9, 1.3, 1.05, 0.97]
    ratio, low, high = ratio_of_medians(ratios, [1.0] * 6)
    assert (low, high) == pytest.approx((0.9, 1.3))
    averages = [(np.log(x) + np.log(y)) / 2 for i, x in enumerate(ratios) for y in ratios[i:]]
    assert ratio == pytest.approx(np.exp(np.median(averages)))


def test_six_pairs_are_the_fewest_that_can_cover() -> None:
    with pytest.raises(ValueError, match="at least 6, got 5 and 5"):
        ratio_of_medians([1.0] * 5, [1.0] * 5)
    with pytest.raises(ValueError, match="at least 6"):
        compare_blocks(blocks(*[10.0] * 4), blocks(*[10.0] * 4))


def test_a_restless_machine_gets_no_number() -> None:
    generator = np.random.default_rng(1)
    restless = blocks(*(10 * generator.lognormal(0, 0.3, 12)))
    found = compare_blocks(restless, blocks(*(10 * generator.lognormal(0, 0.3, 12))))
    assert (found.ratio, found.verdict) == (None, "inconclusive")
    assert found.reason is not None
    assert "bound ±5.0%" in found.reason
    assert compare_blocks(restless, restless, most_uncertain=10).ratio == pytest.approx(1)


def test_blocks_must_pair() -> None:
    with pytest.raises(ValueError, match="as many blocks"):
        compare_blocks(blocks(1, 2), blocks(1, 2, 3))


def test_workers_take_turns_and_are_gone_afterwards(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    spans: list[tuple[int, float, float]] = []

    def watched(self: PersistentWorker, block: Block) -> Measurement:
        begin = time.monotonic()
        result = plain(self, block)
        order.append(self.job.label)
        spans.append((self.pid, begin, time.monotonic()))
        return result

    plain = PersistentWorker.measure
    monkeypatch.setattr(PersistentWorker, "measure", watched)
    jobs = [
        Job(label=name, artifact=str(artifact.folder), placement=Placement(runtime="onnxruntime", threads=1))
        for name in "ab"
    ]
    one, other = measure_in_turns(jobs, blocks=3, block=BRIEF)
    pids = [pid for pid, _begin, _end in spans]
    assert len(set(pids)) == 6, "every block has a process of its own, because blocks of one are one piece of evidence"
    assert order == ["a", "b", "b", "a", "a", "b"], "each goes first every other time"
    assert all(spans[i][2] <= spans[i + 1][1] for i in range(5)), "never both at once"
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert (len(one.rounds), len(other.rounds)) == (3, 3)
    assert one.runtime == "onnxruntime"


def test_an_interruption_while_the_clock_is_started_leaves_nothing_to_wait_for(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, before = threading.Timer.start, set(threading.enumerate())

    def interrupted(self: threading.Timer) -> None:
        plain(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Timer, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PersistentWorker(Job(label="mine", artifact=str(artifact.folder)))
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)


def test_a_worker_that_dies_or_hangs_is_one_line(artifact: Artifact) -> None:
    job = Job(label="mine", artifact=str(artifact.folder), placement=Placement(runtime="onnxruntime", threads=1))
    with PersistentWorker(job) as worker:
        os.kill(worker.pid, 9)
        with pytest.raises(TtlDeployError, match=r"mine: cannot be measured: .*SIGKILL"):
            worker.measure(BRIEF)
    with PersistentWorker(job) as worker:
        worker.job = job.model_copy(update={"timeout_s": 0.2})
        with pytest.raises(TtlDeployError, match=r"longer than 0\.2 s"):
            worker.measure(Block(min_samples=1, min_seconds=9.0, max_seconds=9.0))
    with pytest.raises(TtlDeployError, match="no such artifact"):
        PersistentWorker(job.model_copy(update={"artifact": str(Path(artifact.folder) / "gone")}))
