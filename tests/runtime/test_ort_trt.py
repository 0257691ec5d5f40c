"""ONNX Runtime's TensorRT provider: what it is told, and how it is refused. No session of it can be opened here."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from ttl_deploy import hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import IntegrityError, MissingDependencyError
from ttl_deploy.runtime import RUNTIMES, load, ort_trt
from ttl_deploy.runtime.ort_trt import NAME, PROVIDER, OrtTrtSession, provider_options
from ttl_deploy.spec import Placement

REAL_SESSION = onnxruntime.InferenceSession


class FakeSession:
    """Records how ONNX Runtime was asked, and answers with a provider list, the graph's own ends and zeros."""

    asked: dict[str, Any] = {}  # noqa: RUF012 - reset by the fixture
    providers = (PROVIDER, "CUDAExecutionProvider")
    fails: str | None = None

    def __init__(self, path: Path, options: Any, *, providers: list[Any], enable_fallback: int) -> None:
        FakeSession.asked = {
            "providers": providers,
            "enable_fallback": enable_fallback,
            "cpu": options.get_session_config_entry("session.disable_cpu_ep_fallback"),
        }
        if self.fails:
            raise RuntimeError(self.fails)
        real = REAL_SESSION(path, providers=["CPUExecutionProvider"])
        self.get_inputs, self.get_outputs = real.get_inputs, real.get_outputs
        self.get_modelmeta = real.get_modelmeta

    def get_providers(self) -> list[str]:
        return list(self.providers)

    def run(self, names: list[str], feeds: dict[str, Any]) -> list[NDArray[np.float32]]:
        FakeSession.asked.setdefault("batches", []).append(len(feeds["images"]))
        return [np.zeros((len(feeds["images"]), 3), np.float32)]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime that starts its TensorRT provider."""
    monkeypatch.setattr(ort_trt, "_missing_library", lambda: None)
    monkeypatch.setattr(ort_trt, "_preload_tensorrt", lambda: None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDER, "CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)


def test_a_session_asks_for_tensorrt_and_never_for_the_cpu(
    machine: None, artifact: Artifact, images: NDArray[np.float32]
) -> None:
    with OrtTrtSession(artifact, threads=1, device="cuda") as session:
        session.run(np.concatenate([images] * 14))
    asked = FakeSession.asked
    assert asked["batches"] == [32, 32, 6]
    assert [name for name, _ in asked["providers"]] == [PROVIDER, "CUDAExecutionProvider"]
    assert (asked["enable_fallback"], asked["cpu"]) == (0, "1")


def test_a_graph_that_is_not_the_manifests_is_refused(machine: None, make_artifact: Callable[..., Artifact]) -> None:
    with pytest.raises(IntegrityError, match="is float32 in the graph, the manifest says uint8"):
        OrtTrtSession(make_artifact(input_type="uint8"), threads=1, device="cuda")


def test_the_profile_and_the_caches_are_said(artifact: Artifact) -> None:
    options = provider_options(artifact)
    assert options["trt_profile_min_shapes"] == "images:1x3x8x8"
    assert options["trt_profile_max_shapes"] == "images:32x3x8x8"
    assert artifact.manifest.files["model.onnx"].sha256[:16] in options["trt_engine_cache_path"]
    assert not {"trt_fp16_enable", "trt_int8_enable"} & set(options)


def test_every_option_is_one_the_provider_knows(artifact: Artifact) -> None:
    """Option names are text in the provider's library; one it does not know would be an error on the target."""
    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    if not library.exists():
        pytest.skip("this onnxruntime has no TensorRT provider")
    content = library.read_bytes()
    for name in provider_options(artifact):
        assert b"\0" + name.encode() + b"\0" in content, name


def test_a_provider_that_does_not_start_is_no_cpu_session(
    machine: None, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSession, "providers", ("CPUExecutionProvider",))
    with pytest.raises(MissingDependencyError, match=f"cannot start its {PROVIDER}"):
        OrtTrtSession(artifact, threads=1, device="cuda")
    monkeypatch.setattr(FakeSession, "fails", "graph nodes are assigned to the default CPU EP")
    with pytest.raises(IntegrityError, match="assigned to the default CPU EP"):
        OrtTrtSession(artifact, threads=1, device="cuda")


def test_the_missing_tensorrt_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ort_trt._missing_tensorrt(b"...libnvinfer.so.97\0...") == (
        "it needs libnvinfer.so.97 (TensorRT 97), which is not here"
    )
    (tmp_path / "libnvinfer.so.97").touch()
    wheel = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: wheel if name == "tensorrt_libs" else None)
    assert ort_trt._missing_tensorrt(b"...libnvinfer.so.97\0...") is None
    assert "not installed" in (ort_trt._missing_library() or "")


def test_it_is_refused_here_and_says_why(artifact: Artifact) -> None:
    if hardware.describe().gpus:
        pytest.skip("this machine has a GPU")
    assert RUNTIMES.get(NAME).available() == "no NVIDIA GPU is here"
    with pytest.raises(MissingDependencyError, match="no NVIDIA GPU is here"):
        load(artifact, Placement(runtime=NAME, device="cuda"))
    if ort_trt._missing_library():
        with pytest.raises(MissingDependencyError, match=PROVIDER):
            OrtTrtSession(artifact, threads=1, device="cuda")
    assert "tensorrt_libs" not in sys.modules
