"""`ttl-deploy verify`: exit codes, bounds, the report and what is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ttl_deploy.cli.main import run
from ttl_deploy.parity import Verdict


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
