"""`bench` on the command line: what it prints for people and machines, what it refuses, and Ctrl-C."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ttl_deploy.bench import ceiling as ceiling_room
from ttl_deploy.bench import worker
from ttl_deploy.cli import bench_tables
from ttl_deploy.cli.main import run

pytestmark = pytest.mark.usefixtures("measured_here")

BRIEF = ("--min-samples", "3", "--min-seconds", "0.01", "--threads", "1")
ACCEPT = "--allow-inconclusive"
ROWS = (*BRIEF, "--rounds", "1", "--no-roofline", "--no-whole", "--runtime", "onnxruntime", ACCEPT)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: str | Path, code: int = 0) -> str:
        assert run(["bench", *map(str, arguments)]) == code
        shown = capsys.readouterr()
        return shown.out if code == 0 else shown.err

    return call


def test_rows_and_estimates_as_json_and_as_a_table(trained: Path, printed: Callable[..., str]) -> None:
    artifact = trained / "onnx-fp32"
    found = json.loads(printed(artifact, *ROWS, "--batch", "1,2", "--target", "quadro-rtx-6000", "--json"))
    assert [row["measurement"]["batch"] for row in found["rows"]] == [1, 1, 2, 2]
    assert {e["label"] for e in found["estimates"]} == {"estimated, not measured"}
    table = printed(artifact, *ROWS, "--target", "quadro-rtx-6000")
    assert "quadro-rtx-6000: estimated, not measured" in table
    assert "a lower bound" in table


def test_a_disturbed_row_shows_no_number(trained: Path, printed: Callable[..., str], capsys: Any) -> None:
    from dataclasses import replace

    from ttl_deploy.workflows.bench import bench

    fast: dict[str, Any] = {"min_samples": 30, "min_seconds": 0.01, "rounds": 1, "roofline": False}
    (row,) = bench([trained], compare_whole=False, **fast)
    for noise in (None, "others were busy"):
        bench_tables.print_rows([replace(row, measurement=row.measurement.model_copy(update={"noise": noise}))])
        table = capsys.readouterr().out
        assert (f"{row.measurement.p50_ms:.2f}" in table) == (noise is None)
        assert ("inconclusive: resnet18 TTL layer1.1 pytorch: others were busy" in table) == (noise is not None)


def test_a_comparison_for_people_and_machines(trained: Path, printed: Callable[..., str]) -> None:
    pair = (f"{trained / 'onnx-fp32'}@onnxruntime", f"{trained / 'onnx-fp32'}@openvino")
    found = json.loads(printed("--compare", *pair, *BRIEF, "--rounds", "6", "--max-uncertainty", "1000", "--json"))
    assert found["comparison"]["low"] <= found["comparison"]["ratio"] <= found["comparison"]["high"]
    assert found["a"]["runtime"] == "onnxruntime"
    words = printed("--compare", *pair, *BRIEF, "--rounds", "6", "--max-uncertainty", "0", ACCEPT)
    assert "inconclusive: the 95 % interval" in words
    assert "A takes" not in words


def test_the_ceiling_is_printed(printed: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ceiling_room, "SIZE", {"cpu": 128})
    monkeypatch.setattr(ceiling_room, "_SECONDS", 0.02)
    monkeypatch.setattr(ceiling_room, "_ARRAY_BYTES", 2**20)
    monkeypatch.setattr(ceiling_room, "_measure_apart", ceiling_room.measure_here)
    table = printed("--ceiling", "--threads", "1", "--cache", tmp_path, ACCEPT)
    assert "GOP/s" in table
    (found,) = json.loads(printed("--ceiling", "--threads", "1", "--cache", tmp_path, "--json", ACCEPT))
    assert {rate["what"] for rate in found["rates"]} >= {"fp32", "bf16", "int8", "copy", "triad"}


def test_what_is_inconclusive_is_exit_code_1_unless_allowed(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ttl_deploy.workflows import bench as room

    plain = room._row
    noises = itertools.cycle(["others were busy", None])

    def disturbed(subject: Any, measured: Any) -> Any:
        return plain(subject, measured.model_copy(update={"noise": next(noises)}))

    monkeypatch.setattr(room, "_row", disturbed)
    asked = ["bench", str(trained / "onnx-fp32"), *(word for word in ROWS if word != ACCEPT), "--json"]
    assert run(asked) == 1
    assert "accept it with --allow-inconclusive" in capsys.readouterr().err
    assert run([*asked, ACCEPT]) == 0


def test_a_comparison_that_cannot_tell_is_exit_code_1_unless_allowed(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttl_deploy.bench.duel import Ratio
    from ttl_deploy.workflows import compare as room

    inconclusive = Ratio(a="a", b="b", ratio=None, low=0.5, high=2, blocks=6, verdict="inconclusive", reason="restless")
    monkeypatch.setattr(room, "compare_blocks", lambda *_, **__: inconclusive)
    pair = ["bench", "--compare", *[f"{trained / 'onnx-fp32'}@onnxruntime"] * 2, *BRIEF, "--rounds", "6"]
    monkeypatch.setattr(room, "measure_in_turns", lambda jobs, **_: [worker.measure(job) for job in jobs])
    assert run(pair) == 1
    assert run([*pair, ACCEPT]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("RUN", "--batch", "1,x"), "--batch: '1,x' is not a list of whole numbers"),
        (("RUN", "--threads", "0"), "--threads: '0' is not"),
        (("RUN", "--torch", "egaer"), "unknown PyTorch variant 'egaer'"),
        (("RUN", "--torch", "cuda-graph"), "needs an NVIDIA GPU"),
        (("RUN", "--target", "quadro"), "unknown target device 'quadro'"),
        (("RUN", "--scenario", "server"), "needs a latency bound"),
        (("RUN", "--scenario", "serve"), "unknown scenario 'serve'; valid"),
        (
            ("RUN", "--scenario", "server", "--latency-bound", "5", "--qps", "-1"),
            "'--qps': Input should be greater than or equal to 0.001",
        ),
        (("RUN", "--ceiling"), "--ceiling and paths to measure cannot be combined"),
        (("--compare", "RUN", "nowhere"), "nowhere"),
        (("--compare", "RUN", "RUN", "--rounds", "5"), "5 blocks give no interval of 95 %; pass --rounds 6 or more"),
        (("--paper-times", "--rounds", "4"), "4 blocks give no interval of 95 %; pass --rounds 6 or more"),
        (("--compare", "RUN", "RUN", "--batch", "1,2"), "--batch: takes one value here"),
        (("--json",), "nothing to measure"),
    ],
)
def test_wrong_options_are_one_line(
    trained: Path, printed: Callable[..., str], arguments: tuple[str, ...], words: str
) -> None:
    shown = printed(*(str(trained) if a == "RUN" else a for a in arguments), code=2)
    assert words in shown.splitlines()[-1]
    assert "Traceback" not in shown


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process table of Linux")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interruption_leaves_no_worker(trained: Path, how: signal.Signals) -> None:
    name = f"{trained / 'onnx-fp32'}@onnxruntime"
    command = [sys.executable, "-m", "ttl_deploy", "bench", "--compare", name, name, "--min-seconds", "600"]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path}
    # A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    program = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    with program:
        workers = _wait_for_workers(program.pid)
        program.send_signal(how)
        code = program.wait(timeout=120)
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(how, -how)
    _gone, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


def _wait_for_workers(pid: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        children = psutil.Process(pid).children()
        if len(children) == 2 and all("--blocks" in child.cmdline() for child in children):
            return children
        time.sleep(0.1)
    raise AssertionError("no workers were started")
