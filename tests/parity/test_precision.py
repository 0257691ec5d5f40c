"""The bounds follow what a graph is: its tensors decide, not its manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from ttl_deploy.artifact import Artifact, write_artifact
from ttl_deploy.parity.precision import judged_precision, precision_of
from ttl_deploy.runtime.ov_core import core

CODES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
Fields = Callable[..., dict]


def dense(precision: str, *, activations: bool = False) -> onnx.ModelProto:
    """images -> one matrix product, its weights in a precision; int8: behind a DequantizeLinear."""
    code = CODES.get(precision, TensorProto.FLOAT)
    weight = np.linspace(-1, 1, 24).reshape(8, 3).astype(np.float32)
    nodes, constants, name, source = [], [], "weight", "images"
    if precision == "int8":
        constants += [
            numpy_helper.from_array(np.round(127 * weight).astype(np.int8), "rounded"),
            numpy_helper.from_array(np.float32(1 / 127), "step"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", ["rounded", "step"], ["weight"]))
    elif precision == "fp32":
        constants.append(numpy_helper.from_array(weight, "weight"))
    else:
        constants.append(helper.make_tensor("weight", code, weight.shape, weight.ravel()))
        nodes.append(helper.make_node("Cast", ["images"], ["cast"], to=code))
        source = "cast"
    if activations:
        constants += [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(128), "z")]
        nodes.append(helper.make_node("QuantizeLinear", [source, "s", "z"], ["q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]))
        source = "dq"
    nodes.append(helper.make_node("MatMul", [source, name], ["product"]))
    nodes.append(helper.make_node("Cast", ["product"], ["logits"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


@pytest.fixture
def made(tmp_path: Path, artifact: Artifact) -> Callable[..., Artifact]:
    """An artifact of any format around a file that `write` makes."""

    def make(format: str, said: str, write: Callable[[Path], str]) -> Artifact:
        kept = artifact.manifest.model_dump(exclude={"files", "model_file", "parity", "format", "precision"})
        return write_artifact(tmp_path / f"{format}-{said}", {**kept, "format": format, "precision": said}, write)

    return make


def as_onnx(proto: onnx.ModelProto) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        return "model.onnx"

    return write


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_the_weights_of_an_onnx_graph_tell(made: Callable[..., Artifact], precision: str) -> None:
    assert precision_of(made("onnx", "x", as_onnx(dense(precision)))) == precision


def test_float_weights_with_a_rounded_input_are_int8(made: Callable[..., Artifact]) -> None:
    assert precision_of(made("onnx", "int8", as_onnx(dense("fp32", activations=True)))) == "int8"


@pytest.mark.parametrize(("precision", "halved"), [("fp32", False), ("fp16", True), ("int8", False)])
def test_the_constants_of_an_openvino_model_tell(made: Callable[..., Artifact], precision: str, halved: bool) -> None:
    def write(folder: Path) -> str:
        proto = dense("fp32" if halved else precision, activations=precision == "int8")
        model = core().read_model(proto.SerializeToString())
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=halved)
        return "model.xml"

    assert precision_of(made("openvino", "x", write)) == precision


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_weights_of_an_exported_program_tell(made: Callable[..., Artifact], precision: str) -> None:
    from ttl_deploy.formats.program import DTYPES

    layer = torch.nn.Linear(8, 3).to(DTYPES[precision]).eval()

    def write(folder: Path) -> str:
        with torch.no_grad():
            program = torch.export.export(layer, (torch.zeros(2, 8, dtype=DTYPES[precision]),))
        torch.export.save(program, folder / "model.pt2")
        return "model.pt2"

    assert precision_of(made("pt2", "x", write)) == precision


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning", "ignore:.*deprecated:DeprecationWarning")
def test_the_constants_of_a_frozen_script_tell(made: Callable[..., Artifact]) -> None:
    def write(folder: Path) -> str:
        with torch.no_grad():
            traced = torch.jit.trace(torch.nn.Linear(8, 3).eval(), torch.zeros(2, 8))
            torch.jit.save(torch.jit.freeze(traced), folder / "model.pt")
        return "model.pt"

    assert precision_of(made("torchscript", "x", write)) == "fp32"


def test_an_engine_shows_no_tensors_and_its_manifest_stands(made: Callable[..., Artifact]) -> None:
    def write(folder: Path) -> str:
        (folder / "model.engine").write_bytes(b"plan")
        return "model.engine"

    assert judged_precision(made("trt", "fp16", write)) == ("fp16", None)


@pytest.mark.parametrize("said", ["fp16", "bf16", "int8"])
def test_a_float_graph_is_judged_as_one_whatever_its_manifest_says(made: Callable[..., Artifact], said: str) -> None:
    judged, note = judged_precision(made("onnx", said, as_onnx(dense("fp32"))))
    assert judged == "fp32"
    assert note == f"judged as fp32: the manifest says {said}, the graph's weights are fp32"


@pytest.mark.parametrize("found", ["fp16", "bf16", "int8"])
def test_a_manifest_that_promises_more_is_held_to_it(made: Callable[..., Artifact], found: str) -> None:
    assert judged_precision(made("onnx", "fp32", as_onnx(dense(found))))[0] == "fp32"


def test_openvino_computes_its_float_weights_in_bfloat16_where_the_session_asks_for_it(
    made: Callable[..., Artifact],
) -> None:
    def write(folder: Path) -> str:
        model = core().read_model(dense("fp32").SerializeToString())
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
        return "model.xml"

    assert judged_precision(made("openvino", "bf16", write)) == ("bf16", None)
    assert judged_precision(made("openvino", "fp16", write))[0] == "fp32"
