"""What this machine is, against the operating system's own words."""

import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ttl_deploy import hardware


@pytest.fixture(autouse=True)
def _look_again() -> None:
    hardware.describe.cache_clear()


def test_it_agrees_with_the_operating_system() -> None:
    machine = hardware.describe()
    assert machine.logical_cores == psutil.cpu_count()
    assert machine.usable_cores <= machine.logical_cores
    assert machine.memory_gib == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.1)
    assert platform.python_version() in machine.system
    if Path("/proc/cpuinfo").exists() and platform.machine() == "x86_64":
        assert machine.cpu in Path("/proc/cpuinfo").read_text()


def test_gpus_are_named_as_the_driver_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, "Quadro RTX 6000, 24576, 535.54\nNVIDIA H200, 143771, 570.1\n")

    monkeypatch.setattr(hardware.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(hardware.subprocess, "run", answer)
    machine = hardware.describe()
    assert [gpu.name for gpu in machine.gpus] == ["Quadro RTX 6000", "NVIDIA H200"]
    assert machine.gpus[0].memory_mib == 24576
    assert machine.name.endswith("+ Quadro RTX 6000 + NVIDIA H200")


def test_a_driver_that_does_not_answer_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 20)

    monkeypatch.setattr(hardware.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(hardware.subprocess, "run", silent)
    assert hardware.describe().gpus == ()


def test_versions_are_those_installed() -> None:
    import numpy
    import onnx

    versions = hardware.library_versions()
    assert versions["numpy"] == numpy.__version__
    assert versions["onnx"] == onnx.__version__


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["/opt/somewhere/bin/ttl-deploy", "train", "my x-rays"], "ttl-deploy train 'my x-rays'"),
        (["/opt/somewhere/ttl_deploy/__main__.py", "report", "run"], "ttl-deploy report run"),
        (["/home/me/study.py", "--seed", "1"], "study.py --seed 1"),
    ],
)
def test_a_command_is_what_was_typed_and_not_where_its_program_lies(
    argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert hardware.command() == said
