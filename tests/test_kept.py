"""A run and an artifact of schema version 1 are read, checked, exported and repeated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ttl_deploy.artifact import open_artifact
from ttl_deploy.cli.main import run as call
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.parity.verify import verify
from ttl_deploy.runtime import load
from ttl_deploy.training.run import finished_run, read_predictions, run_data
from ttl_deploy.training.train import load_model, predict_fp32

KEPT = Path(__file__).parent / "kept"
DATA = KEPT / "data.npz"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT / "run-v1", tmp_path / "run"))


def test_the_run_and_the_artifact_are_of_version_1() -> None:
    assert "schema_version: 1\n" in (KEPT / "run-v1" / "config.yaml").read_text()
    assert json.loads((KEPT / "run-v1" / "onnx-fp32" / "manifest.json").read_text())["schema_version"] == 1


def test_its_files_are_those_that_were_evaluated() -> None:
    run = finished_run(KEPT / "run-v1")
    assert run.metrics()["test"]["auroc"] == 1.0
    assert run.operating_point is None


def test_todays_network_computes_what_was_recorded(pixel_cache: Path) -> None:
    run = finished_run(KEPT / "run-v1")
    prepared = run_data(run, data=DATA, cache=pixel_cache)
    said = predict_fp32(load_model(run), prepared, "test", run.config)
    np.testing.assert_allclose(said.logits, read_predictions(run).side("test").logits, rtol=0, atol=1e-5)


def test_the_artifact_passes_the_check(pixel_cache: Path) -> None:
    found = verify(KEPT / "run-v1" / "onnx-fp32", data=DATA, cache=pixel_cache)
    assert found.verdict.result == "pass"
    assert found.notes == ()


def test_the_artifact_runs(pixel_cache: Path) -> None:
    opened = open_artifact(KEPT / "run-v1" / "onnx-fp32")
    with load(opened) as session:
        assert session.classes == ("healthy", "ill")
        assert session.run(np.zeros((2, 1, 32, 32), dtype=np.float32)).shape == (2, 2)


def test_the_run_is_exported_again_to_a_model_that_agrees_with_the_old_one(kept: Path, pixel_cache: Path) -> None:
    made = export_run(kept, out=kept / "again", data=DATA, cache=pixel_cache)
    found = verify(made.folder, against=KEPT / "run-v1" / "onnx-fp32", data=DATA, cache=pixel_cache)
    assert found.verdict.result == "pass"


def test_its_configuration_repeats_it(kept: Path, tmp_path: Path, pixel_cache: Path) -> None:
    """The old weights were learnt on another processor perhaps, so nothing is said of the last bit."""
    again = ["--config", str(kept / "config.yaml"), "--out", str(tmp_path / "again"), "--cache", str(pixel_cache)]
    assert call(["train", str(DATA), *again]) == 0
    before, after = finished_run(kept), finished_run(tmp_path / "again")
    assert after.config.model == before.config.model
    assert after.config.data_digest == before.config.data_digest
    assert len(after.history()) == len(before.history())
