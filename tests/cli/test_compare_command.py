"""`compare` on the command line: what it prints for people and machines, what it refuses, and Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ttl_deploy.cli.main import run
from ttl_deploy.latency import worker

pytestmark = pytest.mark.usefixtures("measured_here")

BRIEF = ("--min-samples", "3", "--min-seconds", "0.01", "--threads", "1")
ACCEPT = "--allow-inconclusive"


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: str | Path, code: int = 0) -> str:
        assert run(["compare", *map(str, arguments)]) == code
        shown = capsys.readouterr()
        return shown.out if code == 0 else shown.err

    return call


def test_a_comparison_for_people_and_machines(trained: Path, printed: Callable[..., str]) -> None:
    pair = (f"{trained / 'onnx-fp32'}@onnxruntime", f"{trained / 'onnx-fp32'}@openvino")
    found = json.loads(printed(*pair, *BRIEF, "--rounds", "6", "--max-uncertainty", "1000", "--json"))
    assert found["comparison"]["low"] <= found["comparison"]["ratio"] <= found["comparison"]["high"]
    assert found["a"]["runtime"] == "onnxruntime"
    words = printed(*pair, *BRIEF, "--rounds", "6", "--max-uncertainty", "0", ACCEPT)
    assert "inconclusive: the 95 % interval" in words
    assert "A takes" not in words


def test_a_comparison_that_cannot_tell_is_exit_code_1_unless_allowed(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttl_deploy.latency.duel import Ratio
    from ttl_deploy.verbs import compare as room

    inconclusive = Ratio(a="a", b="b", ratio=None, low=0.5, high=2, blocks=6, verdict="inconclusive", reason="restless")
    monkeypatch.setattr(room, "compare_blocks", lambda *_, **__: inconclusive)
    pair = ["compare", *[f"{trained / 'onnx-fp32'}@onnxruntime"] * 2, *BRIEF, "--rounds", "6"]
    monkeypatch.setattr(room, "measure_in_turns", lambda jobs, **_: [worker.measure(job) for job in jobs])
    assert run(pair) == 1
    assert run([*pair, ACCEPT]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("RUN", "nowhere"), "nowhere"),
        (("RUN", "RUN@opnvino"), "a run has no engine 'opnvino'"),
        (("RUN", "RUN", "--rounds", "5"), "5 blocks give no interval of 95 %; pass --rounds 6 or more"),
        (("RUN", "RUN", "--batch", "1,2"), "'--batch': Input should be a valid integer"),
        (("RUN", "RUN", "--threads", "0"), "'--threads': Input should be greater than or equal to 1"),
        (("RUN", "RUN", "--device", "tpu"), "unknown device 'tpu'"),
        (("RUN/onnx-fp32", "RUN/onnx-fp32", "--key", "nowhere.pem"), "nowhere.pem"),
    ],
)
def test_wrong_options_are_one_line(
    trained: Path, printed: Callable[..., str], arguments: tuple[str, ...], words: str
) -> None:
    (line,) = printed(*(a.replace("RUN", str(trained)) for a in arguments), code=2).splitlines()
    assert words in line


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process table of Linux")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interruption_leaves_no_worker(trained: Path, how: signal.Signals) -> None:
    name = f"{trained / 'onnx-fp32'}@onnxruntime"
    command = [sys.executable, "-m", "ttl_deploy", "compare", name, name, "--min-seconds", "600"]
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
