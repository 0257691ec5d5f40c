from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from ttl_deploy import hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.cores import usable_cores
from ttl_deploy.errors import TtlDeployError
from ttl_deploy.latency import Job, Measurement, measure_session, merge, run_all, run_isolated
from ttl_deploy.latency.isolate import environment
from ttl_deploy.latency.measure import peak_rss_mib, standard_batch
from ttl_deploy.latency.open_loop import percentile
from ttl_deploy.runtime import Session
from ttl_deploy.spec import Placement
from ttl_deploy.tasks import Multiclass

QUICK: dict[str, Any] = {"min_samples": 4, "min_seconds": 0.0, "max_seconds": 5.0}


class FakeSession(Session):
    """A session on a clock of its own: every run takes the next duration, in ms."""

    def __init__(self, durations_ms: Iterator[float]) -> None:
        super().__init__(runtime="fake", device="cpu", threads=1, task=Multiclass(("a", "b")), input_shape=(1, 2, 2))
        self.now = 0
        self.runs = 0
        self._durations = durations_ms

    def clock(self) -> int:
        return self.now

    def _run(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        self.now += round(next(self._durations) * 1e6)
        self.runs += 1
        return np.zeros((len(batch), 2), dtype=np.float32)


def always(value: float) -> Iterator[float]:
    while True:
        yield value


def measured(session: FakeSession, images: int = 1, **more: Any) -> Measurement:
    batch = standard_batch(session, images)
    return measure_session(session, batch, label="fake", precision="fp32", clock=session.clock, **more)


def loader(argument: dict[str, Any], threads: int) -> Session:
    """What the worker calls in the tests below."""
    print("a library that talks on stdout")
    os.write(1, b"and another, below Python\n")
    if argument.get("fail"):
        raise RuntimeError(argument["fail"])
    if argument.get("die"):
        os.kill(os.getpid(), 9)
    if argument.get("not a session"):
        return None  # type: ignore[return-value]
    session = FakeSession(always(1.0))
    session.threads = int(os.environ["OMP_NUM_THREADS"]) * 100 + threads
    return session


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of `loader`, importable in a child process."""
    monkeypatch.syspath_prepend(os.path.dirname(__file__))  # noqa: PTH120
    return "test_measure:loader"


def test_pinned_threads_have_a_core_each_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_PROC_BIND", raising=False)
    assert "OMP_PROC_BIND" not in environment(2)
    assert environment(2, pinned=True)["OMP_PROC_BIND"] == "close"
    monkeypatch.setenv("OMP_PROC_BIND", "spread")
    assert environment(2, pinned=True)["OMP_PROC_BIND"] == "spread"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
def test_pytorchs_threads_do_not_share_a_core() -> None:
    program = (
        "import os, torch; torch.set_num_threads(2); x = torch.rand(600, 600); x @ x\n"
        "print(sorted(sorted(os.sched_getaffinity(int(task))) for task in os.listdir('/proc/self/task')))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(2, pinned=True), capture_output=True, text=True, check=True)
    alone = [cores for cores in json.loads(done.stdout) if len(cores) == 1]
    assert len({tuple(cores) for cores in alone}) == 2


def test_samples_are_kept_and_summed_up() -> None:
    session = FakeSession(always(4.0))
    result = measured(session, images=8, min_samples=100, min_seconds=0.1)
    assert result.samples_ms == (4.0,) * 100
    assert (result.mean_ms, result.std_ms, result.p50_ms, result.p90_ms) == (4.0, 0.0, 4.0, 4.0)
    assert result.throughput == pytest.approx(2000)
    assert (result.batch, result.rounds, result.warm) == (8, (100,), True)
    assert result.warmup_runs + 100 == session.runs
    assert result.hardware["cpu"] == hardware.describe().cpu
    assert "numpy" in result.libraries
    assert Measurement.model_validate_json(result.model_dump_json()).model_dump_json() == result.model_dump_json()


def test_it_samples_until_both_limits_are_met() -> None:
    assert len(measured(FakeSession(always(1.0)), min_samples=5, min_seconds=0.3).samples_ms) == 300
    assert len(measured(FakeSession(always(50.0)), min_samples=50, min_seconds=0.3).samples_ms) == 50


def test_it_stops_at_the_most_seconds() -> None:
    assert len(measured(FakeSession(always(1000.0)), max_seconds=3).samples_ms) == 3
    assert len(measured(FakeSession(always(9000.0)), max_seconds=3).samples_ms) == 1


def test_a_slow_start_is_warm_up_and_no_sample() -> None:
    declining = FakeSession(iter([*np.linspace(30, 2, 60), *([2.0] * 500)]))
    result = measured(declining, min_samples=30, min_seconds=0)
    assert result.warm
    assert result.warmup_runs > 60
    assert set(result.samples_ms) == {2.0}


def test_a_fast_session_is_warmed_up_for_a_fifth_of_a_second() -> None:
    assert measured(FakeSession(always(0.1)), min_samples=1, min_seconds=0).warmup_runs == 2000


def test_a_session_that_never_settles_says_so() -> None:
    doubling = FakeSession(10 * 1.2**i for i in range(60))
    result = measured(doubling, warmup_seconds=0.5, max_seconds=0.1)
    assert not result.warm
    assert result.warmup_runs < 20


def test_an_injected_slowdown_shows() -> None:
    plain = measured(FakeSession(always(10.0)))
    slow = measured(FakeSession(always(13.0)))
    assert slow.mean_ms / plain.mean_ms == pytest.approx(1.3)
    assert slow.p50_ms == pytest.approx(13.0)
    tail = measured(FakeSession(iter([10.0] * 20 + ([10.0] * 17 + [40.0] * 3) * 20)), min_samples=400, min_seconds=0)
    assert (tail.p50_ms, tail.p90_ms) == (10.0, 40.0)


@pytest.mark.parametrize(("percent", "needed"), [(50, 20), (90, 100), (95, 200), (99, 1000)])
def test_a_percentile_is_withheld_until_ten_samples_lie_beyond(percent: int, needed: int) -> None:
    samples = np.random.default_rng(0).normal(size=needed)
    assert percentile(samples[:-1].tolist(), percent) is None
    assert percentile(samples.tolist(), percent) == pytest.approx(np.quantile(samples, percent / 100))


def test_few_samples_withhold_their_tail() -> None:
    result = measured(FakeSession(always(100.0)), min_samples=50, min_seconds=0)
    assert result.p50_ms is not None
    assert (result.p90_ms, result.p95_ms, result.p99_ms) == (None, None, None)
    assert measured(FakeSession(always(1e5))).std_ms is None


def test_rounds_are_merged_from_their_samples() -> None:
    one = measured(FakeSession(always(10.0)), min_samples=60, min_seconds=0, cold_start_s=3.0)
    two = measured(FakeSession(always(20.0)), min_samples=40, min_seconds=0, cold_start_s=1.0)
    both = merge([one, two])
    assert both.samples_ms == one.samples_ms + two.samples_ms
    assert (both.rounds, both.mean_ms, both.cold_start_s) == ((60, 40), 14.0, 2.0)
    assert both.p90_ms == 20.0
    assert both.warmup_runs == one.warmup_runs + two.warmup_runs
    with pytest.raises(ValueError, match="cannot be merged"):
        merge([one, two.model_copy(update={"batch": 2})])
    with pytest.raises(ValueError, match="cannot be merged"):
        merge([])


def test_peak_memory_is_this_process_alone() -> None:
    ballast = np.ones(2**27 // 8)
    program = "from ttl_deploy.latency.measure import peak_rss_mib as p; print(p())"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 5 < float(child.stdout) < peak_rss_mib()
    assert peak_rss_mib() > ballast.nbytes / 2**20


def test_artifacts_are_measured_in_turn_each_in_its_own_process(artifact: Artifact) -> None:
    jobs = [
        Job(label=name, artifact=str(artifact.folder), batch=2, placement=Placement(runtime=name, threads=1), **QUICK)
        for name in ("onnxruntime", "openvino")
    ]
    seen: list[str] = []

    class Listener:
        def info(self, message: str) -> None: ...

        def warn(self, message: str) -> None: ...

        def task(self, description: str, total: float | None) -> Any:
            import contextlib

            assert total == 4
            return contextlib.nullcontext(lambda _steps, label: seen.append(label))

    results = run_all(jobs, rounds=2, reporter=Listener())
    assert seen == ["onnxruntime", "openvino"] * 2
    for job, result in zip(jobs, results, strict=True):
        assert (result.label, result.runtime, result.precision) == (job.label, job.placement.runtime, "fp32")
        assert (result.threads, result.batch) == (1, 2)
        assert len(result.rounds) == 2
        assert len(result.samples_ms) == sum(result.rounds) >= 4
        assert min(result.samples_ms) > 0
        assert result.cold_start_s is not None
        assert result.cold_start_s > 0
        assert result.peak_rss_mib > 20


def test_a_loader_gets_its_threads_and_may_talk(here: str) -> None:
    result = run_isolated(Job(label="mine", loader=here, precision="bf16", placement=Placement(threads=2), **QUICK))
    assert (result.label, result.runtime, result.precision, result.threads) == ("mine", "fake", "bf16", 202)


@pytest.mark.parametrize(
    ("argument", "match"),
    [
        ({"fail": "no such layer"}, "mine: cannot be measured: RuntimeError: no such layer"),
        ({"die": True}, "SIGKILL"),
        ({"not a session": True}, "gave NoneType, not a Session"),
    ],
)
def test_a_failing_worker_is_one_line(here: str, argument: dict[str, Any], match: str) -> None:
    with pytest.raises(TtlDeployError, match=match) as error:
        run_isolated(Job(label="mine", loader=here, argument=argument, **QUICK))
    assert "\n" not in str(error.value)


def test_an_artifact_that_is_not_there_is_one_line(artifact: Artifact) -> None:
    with pytest.raises(TtlDeployError, match="no such artifact"):
        run_isolated(Job(label="gone", artifact=str(artifact.folder / "gone")))


def test_a_worker_that_takes_too_long_is_stopped(artifact: Artifact) -> None:
    with pytest.raises(TtlDeployError, match=r"longer than 0\.01 s"):
        run_isolated(Job(label="slow", artifact=str(artifact.folder), timeout_s=0.01))


def test_a_job_has_one_source() -> None:
    with pytest.raises(ValidationError, match="either an artifact or a loader"):
        Job(label="x")
    with pytest.raises(ValidationError, match="either an artifact or a loader"):
        Job(label="x", artifact="a", loader="m:f")
    with pytest.raises(ValidationError, match="pattern"):
        Job(label="x", loader="print('hi')")
