"""The load program, for a second: it counts every answer, finds them right, and tells the ratio."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "load_serve.py"


@pytest.mark.slow
def test_a_second_of_load(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    # So short a run says nothing of speed; the bound is for the long one.
    bounds = ["--seconds", "0.5", "--rounds", "1", "--clients", "2,8", "--least-ratio", "0", "--out", str(out)]
    command = [sys.executable, str(SCRIPT), str(trained / "onnx-fp32"), *bounds]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text())
    two, eight = record["clients"]["2"], record["clients"]["8"]
    assert two["answered"] > 0
    assert two["wrong"] == eight["wrong"] == []
    assert two["refused"] == eight["refused"] == 0
    assert record["ratio"] == pytest.approx(eight["per_second"] / two["per_second"], abs=2e-3)
    assert record["bare_engine"]["per_second"] > 0
