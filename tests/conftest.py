"""A tiny network as an artifact, built with onnx alone, and what it must compute, in NumPy."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from signal_stack_check import clear_signal_stack, fault, signal_frame, signal_stack
from small import MODEL, PROTOCOL, but

from ttl_deploy.artifact import Artifact, write_artifact
from ttl_deploy.data.synthetic import write_synthetic
from ttl_deploy.spec import ModelSpec, PreprocessSpec, SourceRun

# Tests that use OpenVINO by itself start no process that tells its maker of it.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers take the cores. OpenMP's threads wait for each other by spinning: two workers of two threads on two
    # cores trained for five times as long as two of one. Read when torch is imported, here and by children.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A worker holds millions of objects of PyTorch and others, and goes through them whenever a few more have come.
gc.set_threshold(50_000, 20, 10)

SLOW_TIMEOUT_S = 1800
"""Seconds that a test marked slow may take; on a busy machine the real thing takes many times its usual minutes."""

SIZE = 8
CLASSES = ("healthy", "ill", "unclear")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))


_EXPORTER = "torch.onnx._internal.exporter._registration"


def pytest_runtest_setup() -> None:
    """PyTorch's exporter gathers its functions once in a process, not at each export: half the time of a small one."""
    registry = getattr(sys.modules.get(_EXPORTER), "ONNXRegistry", None)
    gather = getattr(registry, "from_torchlib", None)
    if gather is not None and not hasattr(gather, "cache_info"):
        registry.from_torchlib = staticmethod(functools.cache(gather))


@pytest.fixture(autouse=True)
def _signal_stack() -> Iterator[None]:
    """A test that leaves this process unable to take a signal fails itself, not the one that the signal kills."""
    before = signal_stack()
    yield
    after = signal_stack()
    reason = None if after == before else fault(after, signal_frame())
    if reason is not None:
        clear_signal_stack()
        pytest.fail(reason)


@dataclass(frozen=True)
class TinyNet:
    """ReLU, mean over the image, one linear layer."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        pooled = np.maximum(batch.astype(np.float64), 0).mean(axis=(2, 3))
        return np.asarray(pooled @ self.weight + self.bias, dtype=np.float64)

    def proto(self, input_name: str = "images") -> onnx.ModelProto:
        nodes = [
            helper.make_node("Relu", [input_name], ["positive"]),
            helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
        ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(self.bias)])],
            [numpy_helper.from_array(self.weight, "weight"), numpy_helper.from_array(self.bias, "bias")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def manifest_fields(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "format": "onnx",
        "precision": "fp32",
        "model": ModelSpec(backbone="tiny", classes=CLASSES, image_size=SIZE),
        "preprocess": PreprocessSpec(image_size=SIZE),
        "parameters": 12,
        "macs": 9,
        "source": SourceRun(name="run", weights_sha256="0" * 64, config_digest="1" * 64),
        "tools": {"onnx": onnx.__version__},
    }
    return fields | changes


@pytest.fixture
def tiny_net() -> TinyNet:
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(3, len(CLASSES))).astype(np.float32)
    return TinyNet(weight, np.array([0.5, -1.0, 0.25], dtype=np.float32))


@pytest.fixture
def images() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(5, 3, SIZE, SIZE)).astype(np.float32)


@pytest.fixture
def make_artifact(tmp_path: Path, tiny_net: TinyNet) -> Callable[..., Artifact]:
    """Writes the tiny network as an artifact; keywords change manifest fields or the network."""

    def make(name: str = "artifact", net: TinyNet = tiny_net, **changes: Any) -> Artifact:
        def build(folder: Path) -> str:
            (folder / "model.onnx").write_bytes(net.proto().SerializeToString())
            return "model.onnx"

        return write_artifact(tmp_path / name, manifest_fields(**changes), build)

    return make


@pytest.fixture
def artifact(make_artifact: Callable[..., Artifact]) -> Artifact:
    return make_artifact()


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty synthetic images of 32 pixels, of both classes, with patients."""
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "data", images=60, size=32, seed=1)


@pytest.fixture(scope="session")
def pixel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def trained(synthetic: Path, pixel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny finished run with its ONNX artifact inside. Tests that change it work on a copy."""
    from ttl_deploy.formats.export_run import export_run
    from ttl_deploy.spec import Data
    from ttl_deploy.training.train import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    model, protocol = but(MODEL, cut="layer1.1"), but(PROTOCOL, epochs=2)
    train(Data(path=synthetic / "labels.csv", cache=pixel_cache), model, protocol, folder)
    export_run(folder, cache=pixel_cache)
    return folder


@pytest.fixture
def run_copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


class WorkerHere:
    """Stands for a `PersistentWorker`: the job's session in this process."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def __enter__(self) -> Self:
        from ttl_deploy.latency import worker

        self._opening = worker._opened(self.job)
        self._opened = self._opening.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._opening.__exit__(*reason)

    def measure(self, block: Any) -> Any:
        from ttl_deploy.latency.measure import measure_session, standard_batch

        session, precision = self._opened.session, self._opened.precision
        batch = standard_batch(session, self.job.batch)
        return measure_session(session, batch, label=self.job.label, precision=precision, **block.model_dump())


@pytest.fixture
def measured_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Latencies are taken in this process: one of its own, with PyTorch, takes seconds to start.

    Processes of their own are what `test_measure.py` and `test_duel.py` in `tests/latency` test; `cli/test_flow.py` and
    `verbs/test_bench_compare.py` measure in them too.
    """
    import torch

    from ttl_deploy.cut_search import latency as of_cuts
    from ttl_deploy.latency import duel, isolate, worker

    for module in (isolate, of_cuts):
        monkeypatch.setattr(module, "run_isolated", worker.measure)
    monkeypatch.setattr(duel, "PersistentWorker", WorkerHere)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CUDA driver library on host memory; see `tensorrt_double`."""
    from tensorrt_double import compile_driver

    return compile_driver(tmp_path_factory.mktemp("driver"))
