"""Ratios with intervals, against constructed blocks; and workers that stay, wait and leave nothing behind."""

import os
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from test_measure import FakeSession, always, measured

from ttl_deploy.artifact import Artifact
from ttl_deploy.bench import Job, Measurement, merge
from ttl_deploy.bench.duel import block_medians, compare_blocks, measure_in_turns, ratio_of_medians
from ttl_deploy.bench.persistent import Block, PersistentWorker
from ttl_deploy.errors import TtlDeployError

BRIEF = Block(min_samples=3, min_seconds=0.0, max_seconds=5.0)


def blocks(*medians: float) -> Measurement:
    parts = [measured(FakeSession(always(m)), min_samples=5, min_seconds=0, warmup_runs=0) for m in medians]
    return merge(parts)


def test_the_ratio_is_that_of_the_medians() -> None:
    assert block_medians(blocks(10, 11, 12)) == [10, 11, 12]
    assert ratio_of_medians([10, 11, 12], [20, 22, 24]) == pytest.approx((0.5, 0.5, 0.5))
    found = compare_blocks(blocks(*[13.0] * 12), blocks(*[10.0] * 12))
    assert (found.ratio, found.verdict) == (pytest.approx(1.3), "b is faster")
    assert compare_blocks(blocks(*[9.0] * 12), blocks(*[10.0] * 12)).verdict == "a is faster"


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        drift = 1 + 0.05 * np.sin(np.arange(12))
        a, b = (scale * drift * generator.lognormal(0, 0.02, 12) for scale in (12.0, 10.0))
        _ratio, low, high = ratio_of_medians(a.tolist(), b.tolist(), seed=trial)
        covered += low <= 1.2 <= high
    assert covered / 200 > 0.9


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
    pids: list[int] = []
    spans: list[tuple[int, float, float]] = []

    def watched(self: PersistentWorker, block: Block) -> Measurement:
        begin = time.monotonic()
        result = plain(self, block)
        spans.append((self.pid, begin, time.monotonic()))
        return result

    plain = PersistentWorker.measure
    monkeypatch.setattr(PersistentWorker, "measure", watched)
    jobs = [Job(label=name, artifact=str(artifact.folder), runtime="onnxruntime", threads=1) for name in "ab"]
    one, other = measure_in_turns(jobs, blocks=5, block=BRIEF)
    pids = [pid for pid, _begin, _end in spans]
    a, b = pids[:2]
    assert pids[:8] == [a, b, b, a, a, b, b, a], "each keeps its process, and goes first every other time"
    assert len({a, b, *pids[8:]}) == 4, "after some blocks there are new processes"
    assert all(spans[i][2] <= spans[i + 1][1] for i in range(9)), "never both at once"
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert (len(one.rounds), len(other.rounds)) == (5, 5)
    assert one.runtime == "onnxruntime"


def test_a_worker_that_dies_or_hangs_is_one_line(artifact: Artifact) -> None:
    job = Job(label="mine", artifact=str(artifact.folder), runtime="onnxruntime", threads=1)
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
