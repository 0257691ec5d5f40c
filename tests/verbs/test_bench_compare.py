"""Comparing two things in turns: on a real tiny model, and what a name after an @ means."""

import json
from pathlib import Path
from typing import Any

import pytest

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Placement
from ttl_deploy.verbs.compare import compare, job_of

ONE = Placement(threads=1)
BRIEF: dict[str, Any] = {"threads": 1, "min_samples": 60, "min_seconds": 0.6, "most_uncertain": 10.0}


def test_a_thing_is_as_fast_as_itself(trained: Path, tmp_path: Path) -> None:
    name = f"{trained / 'onnx-fp32'}@onnxruntime"
    out = tmp_path / "duel.json"
    # One interval in twenty of 95 % leaves the truth out, a narrow one by a hair: a per cent is no difference.
    for _attempt in range(3):
        ratio = compare(name, name, out=out, **BRIEF).ratio
        if ratio.low <= 1.01 and ratio.high >= 0.99:
            break
    assert ratio.low <= 1.01
    assert ratio.high >= 0.99
    assert (ratio.a[-3:], ratio.b[-3:]) == ("(A)", "(B)")
    kept = json.loads(out.read_text())
    assert len(kept["a"]["rounds"]) == len(kept["b"]["rounds"]) == 12
    assert len(kept["a"]["samples_ms"]) == sum(kept["a"]["rounds"]) >= 60
    assert kept["hardware"]["cpu"]


def test_a_larger_batch_takes_longer(trained: Path) -> None:
    from ttl_deploy.latency.duel import compare_blocks, measure_in_turns
    from ttl_deploy.latency.persistent import Block

    name = f"{trained / 'onnx-fp32'}@onnxruntime"
    jobs = [job_of(name, ONE, batch=batch) for batch in (1, 32)]
    jobs = [job.model_copy(update={"label": str(job.batch)}) for job in jobs]
    one, many = measure_in_turns(jobs, blocks=6, block=Block(min_samples=5, min_seconds=0.02, max_seconds=5))
    found = compare_blocks(many, one, most_uncertain=10)
    assert (found.verdict, found.low > 2) == ("b is faster", True)


def test_engines_are_named_after_an_at(trained: Path) -> None:
    artifact = trained / "onnx-fp32"
    assert job_of(f"{artifact}@openvino", ONE).placement.runtime == "openvino"
    assert job_of(str(artifact), ONE).placement.runtime is None
    for text in (str(trained), f"{trained}@pytorch", f"{artifact}@pytorch", f"{trained}@eager"):
        job = job_of(text, ONE)
        assert (job.artifact, job.argument["run"], job.argument["variant"]) == (None, str(trained.resolve()), "eager")
    assert job_of(f"{trained}@pytorch-bf16", ONE).precision == "bf16"


def test_an_at_in_a_folders_name_is_its_own(trained: Path, tmp_path: Path) -> None:
    place = tmp_path / "mine@home"
    place.symlink_to(trained / "onnx-fp32")
    assert job_of(str(place), ONE).placement.runtime is None
    assert job_of(f"{place}@openvino", ONE).placement.runtime == "openvino"


@pytest.mark.parametrize(
    ("suffix", "message"),
    [("@openvino", "a run has no engine 'openvino'"), ("@cuda-graph", "needs an NVIDIA GPU")],
)
def test_engines_that_a_run_has_not_are_refused(trained: Path, suffix: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        job_of(f"{trained}{suffix}", ONE)


def test_too_few_blocks_are_refused(trained: Path) -> None:
    with pytest.raises(BadInputError, match=r"5 blocks give no interval.*--rounds 6"):
        compare(str(trained), str(trained), blocks=5)
