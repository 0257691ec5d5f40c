"""The doctor says of every format and runtime what it itself says, and names facts of this machine."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ttl_deploy import hardware
from ttl_deploy.formats.exporter import EXPORTERS
from ttl_deploy.formats.known import FORMATS
from ttl_deploy.formats.program import DTYPES
from ttl_deploy.runtime import RUNTIMES, trt_rtx
from ttl_deploy.verbs.doctor import doctor


def test_every_format_and_runtime_is_there(tmp_path: Path) -> None:
    found = doctor(cache=tmp_path)
    assert {(u.name, u.variant) for u in found.formats} == {(e.name, p) for e in EXPORTERS for p in e.precisions}
    assert {(u.name, u.variant) for u in found.runtimes} == {(r.name, d) for r in RUNTIMES for d in r.devices}
    reasons = {(u.name, u.variant): u.reason for u in (*found.formats, *found.runtimes)}
    assert reasons["onnx", "fp32"] is None
    assert reasons["onnxruntime", "cpu"] is None
    assert reasons["trt-kit", "int8"] is None
    if not hardware.describe().gpus:
        assert "--defer-build" in (reasons["trt", "fp16"] or "")
        assert "--for CARD" in (reasons["trt", "fp16"] or "")
        assert reasons["onnxruntime", "cuda"] == reasons["tensorrt", "cuda"] == "no NVIDIA GPU is here"


def test_what_is_told_without_the_exporters_is_what_they_are() -> None:
    assert {known.name for known in FORMATS} == set(EXPORTERS.names())
    assert all(isinstance(EXPORTERS.get(known.name), type(known)) for known in FORMATS)
    assert EXPORTERS.get("pt2").precisions == tuple(DTYPES)


@pytest.mark.parametrize("installed", [True, False])
def test_engines_for_rtx_cards_can_be_built_wherever_the_extra_is(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt_rtx, "_installed", lambda: "tensorrt_rtx_bindings" if installed else None)
    reasons = {u.variant: u.reason for u in doctor().formats if u.name == "trt-rtx"}
    assert set(reasons) == {"fp32", "fp16", "bf16", "int8"}
    for reason in reasons.values():
        assert reason is None if installed else "pip install 'ttl-deploy[rtx]'" in str(reason)


def test_the_licence_s_clause_is_told() -> None:
    assert "life-critical" in doctor().facts["licence of both"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else real(name))
    reasons = {(u.name, u.variant): u.reason for u in doctor().runtimes}
    assert "openvino is not installed" in (reasons["openvino", "cpu"] or "")


def test_packages_that_do_not_fit_together_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    other = {"torch": "2.9.1", "onnx": "1.18.0rc1"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: other.get(name) or real(name))
    said = doctor().facts["packages"].split("; ")
    assert "ttl-deploy needs torch<2.15,>=2.11, and 2.9.1 is installed" in said
    assert any(line.startswith("torchvision needs torch") and "2.9.1" in line for line in said)
    assert any("ttl-deploy needs onnx>=1.18, and 1.18.0rc1" in line for line in said)


def test_a_package_that_another_needs_and_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "sympy":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "torch needs sympy" in doctor().facts["packages"]


@pytest.mark.parametrize(("torch", "torchvision"), [("2.13.0+cpu", "0.28.0+cu130"), ("2.13.0", "0.28.0+cu130")])
def test_a_torchvision_for_another_build_of_pytorch_is_told_by_every_format(
    torch: str, torchvision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its operators then are not there when it is imported; of a version that says no build nothing is known."""
    import importlib.util

    versions = {"torch": torch, "torchvision": torchvision}
    for name, version in versions.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "version.py").write_text(f"__version__ = '{version}'\ncuda: Optional[str] = None\n")
    real = importlib.util.find_spec

    def found(name: str) -> object:
        return SimpleNamespace(origin=str(tmp_path / name / "__init__.py")) if name in versions else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    monkeypatch.setattr(importlib.metadata, "distribution", _unlisted)
    diagnosis = doctor()
    wrong = "torch is built for cpu and torchvision is built for cu130" if "+" in torch else None
    for format in diagnosis.formats:
        assert format.reason is None or wrong is None or wrong in format.reason
    assert (wrong or "fit together") in diagnosis.facts["packages"]


def _unlisted(name: str) -> object:
    raise importlib.metadata.PackageNotFoundError(name)


@pytest.mark.parametrize("file", ["torch/lib/libtorch_cpu.so", "torch/lib/libgone.so.12"])
def test_a_half_installed_pytorch_is_told_by_every_format(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.distribution

    def half(name: str) -> object:
        found = real(name)
        record = f"torch/version.py,sha256=x,1\n{file},sha256=x,7\n"
        return SimpleNamespace(
            version=found.version,
            locate_file=found.locate_file,
            requires=found.requires,
            read_text=lambda _: record if name == "torch" else None,
        )

    monkeypatch.setattr(importlib.metadata, "distribution", half)
    for format in doctor().formats:
        assert f"torch is damaged: {file} has " in (format.reason or "")
        assert " of 7 bytes; install torch again" in (format.reason or "")


def test_facts_are_this_machine_s(tmp_path: Path) -> None:
    facts = doctor(cache=tmp_path / "not" / "there").facts
    import torch

    assert torch.__version__.split("+")[0] in facts["torch"]
    assert (torch.version.cuda or "the CPU") in facts["torch"]
    assert str(tmp_path) in facts["cache"]
    assert hardware.describe().cpu in facts["processor"]


def test_the_command_ends_well_and_prints_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ttl_deploy", "doctor", "--json"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    assert set(content) == {"facts", "formats", "runtimes"}
    assert {"kind", "name", "variant", "reason"} == set(content["formats"][0])
