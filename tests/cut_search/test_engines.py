"""Trials on a Ray cluster of two workers: the local engine's numbers, also when a worker is killed."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import NETWORK, TRIALS, but

from ttl_deploy.cut_search.engines import LocalEngine, TrialEngine, open_engine
from ttl_deploy.cut_search.search import search
from ttl_deploy.cut_search.trial import Ended, Trial, run_trial
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Data
from ttl_deploy.spec.search import Budget, SearchOptions

Opt = Callable[..., SearchOptions]


@pytest.fixture(scope="module")
def cluster() -> Iterator[TrialEngine]:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        # Workers import this module to find its functions, and kernels by one thread as the local engine's.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        with open_engine("ray", threads=1, workers=2) as engine:
            yield engine


def trial_killed_once(trial: Trial) -> Ended:
    """A trial whose process kills itself, as the kernel's memory killer would, after its first epoch."""
    marker = trial.folder.with_suffix(".killed")
    if not marker.exists():

        def kill() -> None:
            while not (trial.folder / "last.ckpt").exists():
                time.sleep(0.002)
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
    return run_trial(trial)


class KillingEngine:
    """An engine that runs every trial as one whose worker is lost."""

    def __init__(self, engine: TrialEngine) -> None:
        self._engine = engine

    def map(self, function, tasks, done):  # type: ignore[no-untyped-def]
        return self._engine.map(trial_killed_once if function is run_trial else function, tasks, done)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, of its own dependencies
def test_ray_gives_the_local_engines_numbers_to_the_last_bit_even_after_sigkill(
    cluster: TrialEngine, data: Data, options_of: Opt, tmp_path: Path
) -> None:
    options = options_of(strategy="exhaustive", budget=Budget(parameters=100_000))
    engines = {"local": LocalEngine(), "ray": cluster, "killed": KillingEngine(cluster)}
    for name, engine in engines.items():
        search(data, NETWORK, but(TRIALS, epochs=4), tmp_path / name, options=options, engine=engine)
    assert {path.name for path in (tmp_path / "killed" / "trials").glob("*.killed")} == {"stem.killed", "layer1.killed"}
    for name in ("ray", "killed"):
        for cut in ("stem", "layer1.0"):
            ours, theirs = (tmp_path / which / "trials" / cut for which in (name, "local"))
            assert (ours / "history.jsonl").read_bytes() == (theirs / "history.jsonl").read_bytes()
            assert (ours / "predictions.csv").read_bytes() == (theirs / "predictions.csv").read_bytes()
            mine, reference = load_file(ours / "best.safetensors"), load_file(theirs / "best.safetensors")
            assert all(torch.equal(mine[key], reference[key]) for key in reference)
            records = [json.loads((tmp_path / w / "records" / f"{cut}@4.json").read_text()) for w in (name, "local")]
            assert records[0]["resamples"] == records[1]["resamples"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_error_in_a_worker_is_the_users_error(cluster: TrialEngine) -> None:
    with pytest.raises(BadInputError, match="unknown backbone"):
        cluster.map(_fail, [1], lambda _result: None)


def _fail(_task: int) -> int:
    raise BadInputError("unknown backbone 'x'")


def test_results_come_in_the_order_of_the_tasks_and_are_told_as_they_come() -> None:
    told: list[int] = []
    assert LocalEngine().map(abs, [-3, 2, -1], told.append) == [3, 2, 1]
    assert told == [3, 2, 1]


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(BadInputError, match="valid: local, ray"), open_engine("slurm", threads=1):
        pass
