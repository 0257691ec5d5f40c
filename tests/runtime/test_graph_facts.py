"""What a model file says of itself, against what onnx's own helpers and OpenVINO wrote into it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from ttl_deploy.runtime.graph_facts import GraphFacts, Port, graph_facts, of_onnx, of_openvino
from ttl_deploy.runtime.ov_core import core

CODES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def linear(precision: str = "fp32", *nodes: Any, output: str = "scores", batch: Any = "batch") -> onnx.ModelProto:
    """Casts, multiplies by twelve weights, casts back; more nodes may follow."""
    code = CODES[precision]
    weight = helper.make_tensor("weight", code, [4, 3], np.arange(12, dtype=np.float32))
    first = [
        helper.make_node("Cast", ["pixels"], ["inner"], to=code),
        helper.make_node("MatMul", ["inner", "weight"], ["product"]),
        helper.make_node("Cast", ["product"], ["scores"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        [*first, *nodes],
        "linear",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [batch, 4])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"ttl_deploy.classes": json.dumps(["a", 'b"\n<é']), "other": "not ours"})
    return model


def quantised() -> onnx.ModelProto:
    """A float weight behind a Q/DQ pair of int8."""
    nodes = [
        helper.make_node("QuantizeLinear", ["scores", "scale", "zero"], ["whole"]),
        helper.make_node("DequantizeLinear", ["whole", "scale", "zero"], ["back"]),
    ]
    model = linear("fp32", *nodes, output="back")
    scale, zero = np.array(0.1, np.float32), np.array(0, np.int8)
    model.graph.initializer.extend([numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(zero, "zero")])
    return model


def facts(model: onnx.ModelProto, engine: str) -> GraphFacts:
    """The same graph as ONNX, or as the IR that OpenVINO makes of it."""
    if engine == "onnx":
        return of_onnx(model)
    return of_openvino(core().read_model(model.SerializeToString()))


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_ports_numbers_and_metadata_are_the_files_own(precision: str, engine: str) -> None:
    found = facts(linear(precision), engine)
    assert found.inputs == (Port(("pixels",), "uint8", (None, 4)),)
    (output,) = found.outputs
    assert ("scores" in output.names, output.type, output.shape) == (True, "float32", (None, 3))
    assert found.precision == precision
    assert found.numbers[{"fp32": "float32", "fp16": "float16"}[precision]] == 12
    assert {key: json.loads(value) for key, value in found.metadata.items()} == {"classes": ["a", 'b"\n<é']}


def test_bfloat16_weights_are_bf16() -> None:
    assert of_onnx(linear("bf16")).precision == "bf16"


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_pair_that_quantises_makes_a_graph_int8(engine: str) -> None:
    assert facts(quantised(), engine).precision == "int8"


def test_weights_in_constant_nodes_count_like_initialisers() -> None:
    model = linear("fp16")
    (weight,) = model.graph.initializer
    model.graph.node.insert(0, helper.make_node("Constant", [], ["weight"], value=weight))
    del model.graph.initializer[:]
    found = of_onnx(model)
    assert (found.precision, found.numbers) == ("fp16", {"float16": 12})


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("operator", ["Softmax", "Sigmoid"])
def test_what_a_graph_ends_in_is_told_behind_casts_too(operator: str, engine: str) -> None:
    last = [helper.make_node(operator, ["scores"], ["chances"]), helper.make_node("Identity", ["chances"], ["end"])]
    assert facts(linear("fp32", *last, output="end"), engine).activation == operator.lower()
    assert facts(linear(), engine).activation == "none"


def test_a_fixed_batch_is_a_number() -> None:
    assert of_onnx(linear(batch=1)).inputs[0].shape == (1, 4)


def test_what_is_no_graph_has_no_facts(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    assert graph_facts(path, "onnx") is None
    assert graph_facts(path, "openvino") is None
    assert graph_facts(path, "torchscript") is None


def test_reading_facts_imports_no_torch(tmp_path: Path) -> None:
    onnx.save(linear(), tmp_path / "model.onnx")
    openvino.save_model(core().read_model(linear().SerializeToString()), tmp_path / "model.xml")
    code = (
        "from pathlib import Path; import sys; from ttl_deploy.runtime.graph_facts import graph_facts\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "print(graph_facts(folder / 'model.onnx', 'onnx').precision, "
        "graph_facts(folder / 'model.xml', 'openvino').precision, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # OpenVINO stores float32 weights in half unless told not to.
    assert done.stdout.split() == ["fp32", "fp16", "False"]
