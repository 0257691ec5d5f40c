"""`ttl-deploy verify`: exit codes, bounds, the report and what is printed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from ttl_deploy import files
from ttl_deploy.artifact import open_artifact, update_manifest
from ttl_deploy.cli.main import run
from ttl_deploy.parity import Bounds, Verdict
from ttl_deploy.spec import FileRecord

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@pytest.fixture
def command(trained: Path, pixel_cache: Path) -> list[str]:
    return ["verify", str(trained / "onnx-fp32"), "--cache", str(pixel_cache)]


def test_the_table(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command) == 0
    shown = capsys.readouterr().out
    for word in ("reference", "artifact", "difference", "95 % interval", "AUROC", "AUPRC", "ECE", "Brier", "PASS"):
        assert word in shown
    assert "independent errors" in shown
    assert len(re.findall(r"\.png", shown)) == 10


def test_the_bounds_of_the_command(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    largest = content["comparison"]["max_difference"]
    assert len(content["examples"]) == len(content["worst"]) == 10
    assert content["examples"][0]["difference"] == largest > 0
    assert run([*command, "--max-logit-difference", "1e-12"]) == 1
    assert "FAIL: largest logit difference" in capsys.readouterr().out
    assert run([*command, "--preset", "mlperf-99.9", "--max-calibration-shift", "0.01"]) == 0
    reason = capsys.readouterr().out
    assert "calibration error" in reason
    assert run([*command, "--max-probability-difference", "0"]) == 1
    assert re.search(r"FAIL: largest probability difference \S+ \(at most 0\)", capsys.readouterr().out)
    assert run([*command, "--preset", "mlperf"]) == 2
    assert "valid: default, mlperf-99, mlperf-99.9" in capsys.readouterr().err


def test_inconclusive_is_1_unless_allowed(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def undecided(*_: Any) -> Verdict:
        return Verdict(result="inconclusive", measure="AUROC drop", number=0.001, bound=0.005, reason="too few images")

    monkeypatch.setattr("ttl_deploy.parity.verify.verdict", undecided)
    assert run(command) == 1
    assert "INCONCLUSIVE: too few images" in capsys.readouterr().out
    assert run([*command, "--allow-inconclusive"]) == 0


def test_the_report_is_one_file_that_needs_nothing_else(command: list[str], tmp_path: Path) -> None:
    page = tmp_path / "parity.html"
    assert run([*command, "--report", str(page)]) == 0
    text = page.read_text()
    assert "<script" not in text
    assert all(link.startswith("data:image/png") for link in re.findall(r'(?:src|href)="([^"]*)', text))
    assert text.count("data:image/png") == 10
    assert re.search(r"AUROC</td><td>0\.\d+</td><td>0\.\d+</td><td>[+-]0\.\d+</td><td>[+-]0\.\d+ to", text)
    assert run([*command, "--report", str(page)]) == 2
    assert run([*command, "--report", str(page), "--overwrite"]) == 0


@pytest.mark.parametrize("command_name", ["verify", "export"])
def test_every_bound_has_an_option_and_the_help_its_default(
    command_name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run([command_name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name in (
        *("max_probability_difference", "max_p99_difference", "max_mean_shift", "max_scale_change"),
        *("max_logit_offset", "max_calibration_shift"),
    ):
        option = "--" + name.replace("_", "-")
        defaults = re.search(rf"{option} .*?\[default: (?:\(|by precision: )*([^)\]]*)", shown)
        assert defaults is not None, shown
        numbers = {precision: float(number) for precision, number in re.findall(r"(\w+) ([\d.]+)", defaults[1])}
        assert numbers == {precision: getattr(Bounds.for_precision(precision), name) for precision in PRECISIONS}


def test_preprocessing_that_differs_needs_a_word(
    trained: Path, tmp_path: Path, pixel_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = open_artifact(Path(shutil.copytree(trained / "onnx-fp32", tmp_path / "other")))
    rule = other.manifest.preprocess.model_copy(update={"crop": "none"})
    proto = onnx.load(other.model_path)
    words = {prop.key: prop.value for prop in proto.metadata_props}
    helper.set_model_props(proto, words | {"ttl_deploy.preprocess": rule.model_dump_json()})
    other.model_path.write_bytes(proto.SerializeToString())
    record = FileRecord(sha256=files.sha256(other.model_path), size=other.model_path.stat().st_size)
    hashes = {**other.manifest.files, other.manifest.model_file: record}
    update_manifest(other, preprocess=rule, files=hashes)
    call = ["verify", str(other.folder), "--against", str(trained), "--cache", str(pixel_cache)]
    assert run(call) == 1
    assert "FAIL: preprocessing differs: crop is none in the artifact and center" in capsys.readouterr().out
    assert run([*call, "--allow-other-preprocessing", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert "which is meant" in content["verdict"]["reason"]
    assert content["precision"] == "fp32"
