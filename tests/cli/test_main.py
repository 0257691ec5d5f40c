"""The program as a user meets it: help, version, exit codes, and what it imports on the way."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ttl_deploy
from ttl_deploy.artifact import Artifact
from ttl_deploy.cli.main import run
from ttl_deploy.errors import StorageError

WORK = ("train", "search", "export", "verify", "bench", "predict", "serve")
MEASURES = ("report", "dossier", "analyze", "compare", "ceiling", "gate", "paper")
OTHERS = (*MEASURES, "cuts", "doctor", "sign", "synthetic", "quickstart")
COMMANDS = (*WORK, *OTHERS)
HEAVY = ("torch", "numpy", "fastapi", "pydicom", "onnx", "onnxruntime", "openvino", "sklearn", "matplotlib", "PIL")


def modules_after(*arguments: str) -> set[str]:
    """All modules in memory after a command that ends well."""
    code = (
        "import sys, json\nfrom ttl_deploy.cli.main import run\n"
        f"code = run({list(arguments)!r})\n"
        "print('\\n' + json.dumps([code, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ended, names = json.loads(done.stdout.splitlines()[-1])
    assert ended == 0, done.stderr
    return set(names)


def imported_by(*arguments: str) -> set[str]:
    """Top-level modules in memory after a command that ends well."""
    return {name.partition(".")[0] for name in modules_after(*arguments)}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command: str) -> None:
    assert not imported_by(*([command] if command else []), "--help") & set(HEAVY)


def test_the_list_of_commands_imports_none_of_them() -> None:
    found = modules_after("--help")
    assert "pydantic" not in found
    assert not [name for name in found if name.startswith("ttl_deploy.cli.commands.")]


LEARNING = ("torch", "torchvision", "timm", "ptflops")
STATISTICS = ("sklearn", "scipy.stats", "pandas", "matplotlib", "asyncio")


def test_the_cuts_of_the_zoo_are_listed_without_torch() -> None:
    assert not modules_after("cuts", "ResNet50") & {*LEARNING, "numpy", "PIL"}


def test_doctor_answers_without_learning_libraries_and_engines() -> None:
    engines = {"onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx_bindings"}
    assert not modules_after("doctor") & {*LEARNING, *STATISTICS, "scipy", *engines}


def test_predict_waits_for_no_statistics_and_no_records_of_training(artifact: Artifact, tmp_path: Path) -> None:
    image = tmp_path / "scan.png"
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(image)
    without = {*LEARNING, *STATISTICS, "scipy", "yaml", "onnx", "ttl_deploy.spec.training", "ttl_deploy.spec.criteria"}
    assert not modules_after("predict", str(artifact.folder), str(image)) & without


def test_verify_waits_for_no_learning_library_and_no_scikit_learn(trained: Path, pixel_cache: Path) -> None:
    found = modules_after("verify", str(next(trained.glob("*/manifest.json")).parent), "--cache", str(pixel_cache))
    assert not found & {*LEARNING, *STATISTICS}


def test_train_waits_for_no_scikit_learn_no_statistics_and_no_pandas(
    synthetic: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    how = ("--backbone", "resnet18", "--cut", "layer1", "--weights", "random", "--image-size", "32", "--epochs", "1")
    places = ("--cache", str(pixel_cache), "--out", str(tmp_path / "run"))
    assert not modules_after("train", str(synthetic), *how, *places) & {"sklearn", "scipy.stats", "pandas"}


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_help_begins_with_the_work_in_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listed = re.findall(r"^│ ([a-z]+) ", capsys.readouterr().out.partition("Commands")[2], re.MULTILINE)
    assert tuple(listed[: len(WORK)]) == WORK
    assert set(listed) >= set(COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == ttl_deploy.__version__


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "No such command"),
        (["train", "--epoch"], "--epoch"),
        (["train", "x", "--epochs", "many"], "many"),
        (["train", "x", "--epochs", "0"], "0"),
        (["export"], "Usage"),
    ],
)
def test_a_slip_of_the_pen_is_explained(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert said in shown.err + shown.out
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "nothing was left half done"),
        (MemoryError(), 2, "end other programs"),
        (OSError(28, "No space left on device", "run/x"), 2, StorageError.REASONS[28]),
        (RuntimeError("a\nb"), 2, "unforeseen RuntimeError: a b"),
    ],
)
def test_whatever_goes_wrong_is_one_line(
    raised: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("ttl_deploy.complexity.cut_costs", fail)
    assert run(["cuts", "resnet18", "--image-size", "64"]) == code
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="unknown backbone"):
        run(["cuts", "resnet51", "--debug"])


def test_an_interruption_while_the_program_is_imported_leaves_no_traceback() -> None:
    code = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupts:
    def find_spec(self, name, *_):
        if name == "ttl_deploy.cli.main":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
runpy.run_module("ttl_deploy", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_while_a_library_is_loaded_ends_at_once(
    how: signal.Signals, code: int, tmp_path: Path
) -> None:
    """A library that is stopped half way can crash the process; here it would go on, and say so."""
    (tmp_path / "torch.py").write_text(
        "import os, time\n"
        f"os.kill(os.getpid(), {int(how)})\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('raised into the library')\n"
    )
    command = [sys.executable, "-m", "ttl_deploy", "cuts", "resnet18", "--image-size", "64"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` would have it ignored
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    signal.signal(signal.SIGINT, heard)
    assert done.returncode == code
    assert "raised" not in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: "), done.stderr


def test_the_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ttl_deploy", "cuts", "resnet51"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown backbone 'resnet51'; nearest: resnet50")
    assert done.stderr.count("\n") == 1


class TestNobodyReads:
    """A command whose reader has gone, as `| head -1` does: it ends, without a word and without blame."""

    @staticmethod
    def end_of(*arguments: str) -> tuple[int, str]:
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "ttl_deploy", *arguments]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
        os.close(writing)
        return done.returncode, done.stderr

    def test_predictions(self, artifact: Artifact, tmp_path: Path) -> None:
        image = tmp_path / "scan.png"
        Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(image)
        assert self.end_of("predict", str(artifact.folder), str(image)) == (0, "")

    def test_a_short_line(self) -> None:
        assert self.end_of("--version") == (0, "")
