"""What a command leaves behind in its process: a signal that comes later, such as a child's end, must not kill it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from signal_stack_check import AMX_FRAME, fault, signal_frame

TESTS = Path(__file__).parents[1]

SMALL = ["--backbone", "resnet18", "--weights", "random", "--image-size", "32"]
BRIEF = ["--epochs", "1", "--batch-size", "16"]
QUICK = ["--min-samples", "3", "--min-seconds", "0.05", "--rounds", "1", "--no-whole", "--no-roofline"]

COMMANDS: dict[str, list[str]] = {
    "cuts": ["cuts", "resnet18"],
    "doctor": ["doctor"],
    "synthetic": ["synthetic", "{work}/scans", "--images", "60", "--size", "32"],
    "train": ["train", "{data}", *SMALL, *BRIEF, "--cut", "stem", "--device", "cpu", "--out", "{work}/alone"],
    "train with workers": [
        *["train", "{data}", *SMALL, *BRIEF, "--cut", "stem", "--device", "cpu"],
        *["--workers", "2", "--out", "{work}/workers"],
    ],
    "search": [
        *["search", "{data}", *SMALL, *BRIEF, "--strategy", "exhaustive", "--max-params", "10k", "--no-latency"],
        *["--threads", "1", "--device", "cpu", "--out", "{work}/found"],
    ],
    "export to ONNX": ["export", "{run}", "--out", "{run}/onnx"],
    "export to int8": ["export", "{run}", "--precision", "int8", "--out", "{run}/int8"],
    "export to OpenVINO": ["export", "{run}", "--format", "openvino", "--out", "{run}/openvino"],
    "export to OpenVINO in bf16": [
        *["export", "{run}", "--format", "openvino", "--precision", "bf16", "--out", "{run}/bf16"]
    ],
    "export to PyTorch": ["export", "{run}", "--format", "pt2", "--out", "{run}/pt2"],
    "export to TorchScript": ["export", "{run}", "--format", "torchscript", "--out", "{run}/torchscript"],
    "export to a kit": ["export", "{run}", "--format", "trt", "--defer-build", "--out", "{run}/kit"],
    "verify": ["verify", "{run}/openvino"],
    "verify with its place": ["verify", "{run}/openvino", "--locate"],
    "verify one against another": ["verify", "{run}/openvino", "--against", "{run}/bf16"],
    "bench": ["bench", "{run}/onnx", *QUICK, "--runtime", "openvino"],
    "predict": ["predict", "{run}/openvino", "{data}"],
    "predict in OpenVINO from ONNX": ["predict", "{run}/onnx", "{data}", "--runtime", "openvino"],
    "predict to a file": ["predict", "{run}/onnx", "{data}", "--out", "{work}/answers.csv"],
    "serve": ["serve", "{run}/openvino", "--port", "0", "--sessions", "2"],
}
"""By what each shows. The quickstart, `--format auto`, ahead-of-time compilation and Torch-TensorRT run in this process
in tests of their own, which the fixture of `tests/conftest.py` watches."""

PROGRAM = """
import json, os, signal, sys, threading, time
from signal_stack_check import fault, signal_stack
from ttl_deploy.cli.main import run

def stop_when_serving(usual):
    while signal.getsignal(signal.SIGTERM) == usual:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

answers, frames = {}, json.loads(sys.argv[2])
for name, arguments in json.loads(sys.argv[1]).items():
    if name == "serve":
        threading.Thread(target=stop_when_serving, args=[signal.getsignal(signal.SIGTERM)], daemon=True).start()
    code = run(arguments)
    answers[name] = [code, *(fault(signal_stack(), frame) for frame in frames)]
signal.signal(signal.SIGUSR1, lambda *_: answers.update(handled=[0]))
os.kill(os.getpid(), signal.SIGUSR1)
print("\\n" + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def left(
    trained: Path, synthetic: Path, pixel_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[int | str | None]]:
    """One process that ran every command: exit codes, and the faults of its signal stack with each kind of frame."""
    work = tmp_path_factory.mktemp("left")
    run = shutil.copytree(trained, work / "run")
    names = {"work": str(work), "data": str(synthetic), "run": str(run)}
    keeps_pixels = {"train", "search", "export", "verify"}
    commands = {
        name: [part.format(**names) for part in parts]
        + (["--cache", str(pixel_cache)] if parts[0] in keeps_pixels else [])
        for name, parts in COMMANDS.items()
    }
    program = [sys.executable, "-c", f"import sys\nsys.path.append({str(TESTS)!r})\n{PROGRAM}"]
    done = subprocess.run(
        [*program, json.dumps(commands), json.dumps([signal_frame(), AMX_FRAME])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
    answers: dict[str, list[int | str | None]] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_leaves_a_signal_stack_that_holds_a_frame_of_this_and_of_the_largest_processor(
    left: dict[str, list[int | str | None]], name: str
) -> None:
    code, here, with_amx = left[name]
    assert code in ((0, 1) if name.startswith(("verify", "bench")) else (0,))
    assert (here, with_amx) == (None, None)


def test_after_all_commands_the_process_takes_a_signal(left: dict[str, list[int | str | None]]) -> None:
    assert left["handled"] == [0]


def test_a_stack_that_is_small_or_gone_is_found_out() -> None:
    whole = bytearray(64 * 1024)
    address = id(whole)
    assert fault(None, AMX_FRAME) is None
    assert (
        fault((address, 8192), signal_frame())
        == f"the alternate signal stack has 8192 bytes, a frame takes {signal_frame()}"
    )
    assert "no longer there" in str(fault((4096, 1024 * 1024), AMX_FRAME))
