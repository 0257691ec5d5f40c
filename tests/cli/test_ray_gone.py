"""A Ray cluster that goes away in the middle of a command: one line, exit code 2, and a process that lives on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ttl_deploy.cli.main import run
from ttl_deploy.cut_search import ray_driver
from ttl_deploy.cut_search.engines import open_engine
from ttl_deploy.errors import BadInputError
from ttl_deploy.prediction import cluster
from ttl_deploy.prediction import file as prediction_file

for _part in ("ray", "pandas", "pyarrow"):
    pytest.importorskip(_part, reason=f"Ray Data needs {_part}, which is not installed")

PATIENCE_S = 240
"""Seconds that a slow machine may take to start a cluster of its own and work on it."""


def _caught() -> list[str]:
    """The signals that this process handles, as the kernel writes them down."""
    return [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("SigCgt")]


def _below() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.Error:
        return ""


def _kill_head(under_way: Callable[[], bool]) -> None:
    """Kills the cluster's head as soon as the work is under way."""
    end = time.monotonic() + PATIENCE_S
    while not under_way() and time.monotonic() < end:
        time.sleep(0.05)
    for process in _below():
        if "gcs_server" in _command_line(process):
            process.kill()


def _loses_its_head(arguments: list[str | Path], under_way: Callable[[], bool]) -> int:
    killer = threading.Thread(target=_kill_head, args=[under_way], daemon=True)
    killer.start()
    code = run([str(argument) for argument in arguments])
    killer.join()
    return code


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray waits a minute for its head before it ends its process.
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "2")


@pytest.mark.slow
def test_a_search_whose_cluster_goes_says_so_in_one_line(
    synthetic: Path, pixel_cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = _caught()
    out = tmp_path / "found"
    command = ["search", synthetic, "--backbone", "resnet18", "--weights", "random", "--image-size", "32"]
    command += ["--strategy", "exhaustive", "--max-params", "100k", "--no-latency", "--device", "cpu"]
    command += ["--epochs", "2000", "--patience", "2000", "--batch-size", "16", "--threads", "1", "--engine", "ray"]
    command += ["--cache", pixel_cache, "--out", out]
    assert _loses_its_head(command, lambda: any(out.glob("trials/*/last.ckpt"))) == 2
    said = capfd.readouterr().err
    assert said.count("error: ") == 1
    assert "error: the Ray cluster has gone" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert _caught() == before


@pytest.mark.slow
def test_a_prediction_whose_cluster_goes_says_so_in_one_line_and_keeps_its_file(
    trained: Path,
    synthetic: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster, "PORTION", 2)  # each starts the actors again: there is time to lose the head
    monkeypatch.setattr(prediction_file, "_FLUSH_ROWS", 1)
    out = tmp_path / "answers.csv"
    command = ["predict", trained / "onnx-fp32", synthetic / "lesion", "--engine", "ray", "--out", out]
    command += ["--threads", "1", "--workers", "1"]

    def begun() -> bool:
        return out.exists() and len(out.read_text().splitlines()) > 1

    assert _loses_its_head(command, begun) == 2
    said = capfd.readouterr().err
    assert said.count("error: ") == 1
    assert "error: the Ray cluster has gone" in said.splitlines()[-1]
    assert "Traceback" not in said
    written = out.read_text().splitlines()
    assert written
    assert run([*map(str, command[:3]), "--out", str(out), "--threads", "1"]) == 0
    assert out.read_text().splitlines()[: len(written)] == written


def test_an_address_where_nothing_listens_is_refused_before_ray_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_driver, "_start", None)
    with (
        pytest.raises(BadInputError, match=r"127\.0\.0\.1:1: no Ray cluster can be reached: .*refused; start one with"),
        open_engine("ray", threads=1, address="127.0.0.1:1"),
    ):
        pass
