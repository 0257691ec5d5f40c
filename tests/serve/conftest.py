"""A served network that needs no training, on loopback, and clients that misbehave."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ttl_deploy.artifact import write_artifact
from ttl_deploy.serve.model import ServedModel
from ttl_deploy.serve.server import Server
from ttl_deploy.spec import ModelSpec, Placement, PreprocessSpec, SourceRun

SIZE = 8
CLASSES = ("healthy", "ill", "unclear")


def _network() -> onnx.ModelProto:
    """Mean over the image and one linear layer."""
    weight = np.random.default_rng(0).normal(size=(3, len(CLASSES))).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "served",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def served_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an artifact."""

    def build(folder: Path) -> str:
        (folder / "model.onnx").write_bytes(_network().SerializeToString())
        return "model.onnx"

    fields: dict[str, Any] = {
        "format": "onnx",
        "precision": "fp32",
        "model": ModelSpec(backbone="tiny", classes=CLASSES, image_size=SIZE),
        "preprocess": PreprocessSpec(image_size=SIZE),
        "parameters": 9,
        "macs": 9,
        "source": SourceRun(name="run", weights_sha256="0" * 64, config_digest="1" * 64),
        "tools": {"onnx": onnx.__version__},
    }
    return write_artifact(tmp_path_factory.mktemp("served") / "artifact", fields, build).folder


@pytest.fixture(scope="module")
def tiny(served_artifact: Path) -> Iterator[ServedModel]:
    """The artifact, opened; its name is `tiny`."""
    with ServedModel(
        served_artifact, name="tiny", max_batch=8, decode_seconds=10.0, placement=Placement(threads=1)
    ) as opened:
        yield opened


@pytest.fixture(scope="module")
def tiny_client(tiny: ServedModel) -> Iterator[httpx.Client]:
    """A client of a server with the usual limits."""
    with Server(tiny, port=0) as running, httpx.Client(base_url=running.url, timeout=120, trust_env=False) as client:
        yield client


@pytest.fixture
def connect() -> Iterator[Callable[..., socket.socket]]:
    """Opens connections to a server that have sent something; all are closed at the end of the test."""
    lines: list[socket.socket] = []

    def one(server: Server, sent: bytes = b"") -> socket.socket:
        host, port = server.url.partition("://")[2].rsplit(":", 1)
        lines.append(socket.create_connection((host, int(port)), timeout=120))
        lines[-1].sendall(sent)
        return lines[-1]

    yield one
    for line in lines:
        line.close()


@pytest.fixture(scope="session")
def png() -> bytes:
    """A small image."""
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()
