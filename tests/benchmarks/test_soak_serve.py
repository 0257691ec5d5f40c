"""The soak script, for five seconds: its verdict is good, and it counted every kind of request."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak_serve.py"


@pytest.mark.slow
def test_five_seconds_of_mixed_requests(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    # So short a run still fills buffers; the bound on memory is for the long one.
    bounds = ["--seconds", "5", "--clients", "3", "--max-growth", "0.5", "--out", str(out)]
    command = [sys.executable, str(SCRIPT), str(trained / "onnx-fp32"), *bounds]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text())
    assert record["passed"]
    assert record["wrong"] == []
    assert record["requests"] == sum(record["answers"].values()) > 20
    assert {answer.split()[-1] for answer in record["answers"]} >= {"200", "400", "404"}
    assert len(record["memory_mib"]) > 5
    assert record["p50_ms"] <= record["p99_ms"]
