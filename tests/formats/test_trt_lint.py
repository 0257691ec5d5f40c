"""The lint against TensorRT's list: graphs of the zoo pass, and each thing TensorRT does not take is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small import small_input

from ttl_deploy.errors import BadInputError
from ttl_deploy.formats.onnx_graph import to_onnx
from ttl_deploy.formats.trt_lint import RESTRICTIONS, lint, refuse_unsupported, table
from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import build

F32, F16, I8, U8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8


def graph(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any] | None = None,
    *,
    shape: tuple[Any, ...] = ("batch", 3, 8, 8),
    kind: int = F32,
    out: int = F32,
    opset: int = 20,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", out, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    )


def node(operator: str, inputs: str, output: str = "y", **more: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), output.split(), name=f"the_{operator}", **more)


def exported(backbone: str, method: str, cut: str | None) -> onnx.ModelProto:
    spec = ModelSpec(backbone=backbone, method=method, cut=cut, classes=("a", "b"), input=small_input(backbone, 32))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return to_onnx(build(spec).eval())


@pytest.mark.parametrize(("method", "cut"), [("ttl", "block:1"), ("tf", "block:2")])
def test_a_graph_of_the_zoo_passes(method: str, cut: str) -> None:
    """Those of every backbone are linted in `test_whole_zoo.py`."""
    assert lint(exported("resnet18", method, cut)) == []


SCALE, ZERO8 = np.float32(0.1), np.int8(0)
QDQ = {
    "s": SCALE,
    "z": ZERO8,
    "w": np.ones((4, 3, 1, 1), np.int8),
    "ws": np.ones(4, np.float32),
    "wz": np.zeros(4, np.int8),
}


def test_a_symmetric_int8_graph_passes() -> None:
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="of_the_weight", axis=0),
        node("Conv", "d wd"),
    ]
    assert lint(graph(nodes, QDQ)) == []


def test_a_half_precision_graph_with_casts_passes() -> None:
    nodes = [
        node("Cast", "x", "h", to=F16),
        node("Conv", "h w", "c"),
        node("Relu", "c", "r"),
        node("Cast", "r", "y", to=F32),
    ]
    assert lint(graph(nodes, {"w": np.ones((4, 3, 1, 1), np.float16)})) == []


F64 = TensorProto.DOUBLE
REFUSED: dict[str, tuple[onnx.ModelProto, str]] = {
    "unknown operator": (graph([node("Det", "x")]), "Det the_Det: TensorRT has no such operator"),
    "another domain": (
        graph([helper.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft")], domains=("com.microsoft",)),
        "domain com.microsoft",
    ),
    "double": (graph([node("Relu", "x")], kind=F64, out=F64), "computes DOUBLE, TensorRT takes BFLOAT16, FLOAT"),
    "double at the border": (graph([node("Identity", "x")], kind=F64, out=F64), "does not bind"),
    "old opset": (graph([node("Relu", "x")], opset=8), "is 8, TensorRT reads 9 to 24"),
    "unsigned quantisation": (
        graph([node("QuantizeLinear", "x s z")], {"s": SCALE, "z": np.uint8(0)}, out=U8),
        "quantises to UINT8",
    ),
    "unsigned by default": (graph([node("QuantizeLinear", "x s")], {"s": SCALE}, out=U8), "its result is unsigned"),
    "asymmetric quantisation": (
        graph([node("QuantizeLinear", "x s z")], {"s": SCALE, "z": np.int8(3)}, out=I8),
        "zero point other than 0",
    ),
    "asymmetric channel": (
        graph([node("DequantizeLinear", "w ws wz", axis=0)], QDQ | {"wz": np.array([0, 0, 1, 0], np.int8)}),
        "zero point other than 0",
    ),
    "two of one name": (
        graph([node("DequantizeLinear", "w s", "d"), node("DequantizeLinear", "w s", "e"), node("Add", "d e")], QDQ),
        "has the name of another",
    ),
    "32-bit bias": (
        graph([node("DequantizeLinear", "b s")], {"b": np.ones(4, np.int32), "s": SCALE}),
        "computes INT32",
    ),
    "integer arithmetic": (
        graph([node("ConvInteger", "x w")], {"w": np.ones((4, 3, 1, 1), np.uint8)}, kind=U8, out=TensorProto.INT32),
        "no such operator",
    ),
    "half in an operator of another type": (
        graph([node("BitwiseNot", "x")], kind=I8, out=I8),
        "no such operator",
    ),
    "1D pooling": (graph([node("MaxPool", "x", kernel_shape=[2])], shape=("batch", 3, 8)), "pools over 1 axes"),
    "dilated pooling": (
        graph([node("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2])]),
        "is dilated",
    ),
    "indices": (graph([node("MaxPool", "x", "y i", kernel_shape=[2, 2])]), "gives indices"),
    "cubic": (
        graph([node("Resize", "x  n s", mode="cubic")], {"s": np.array([1, 1, 2, 2], np.float32)}),
        "interpolates by cubic",
    ),
    "axes from data": (
        graph([node("Shape", "x", "i"), node("ReduceMean", "x i")]),
        "its list of axes is no constant",
    ),
    "text": (graph([helper.make_node("Constant", [], ["y"], name="c", value_string="t")]), "attribute value_string"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_tensorrt_does_not_take_is_found(name: str) -> None:
    proto, problem = REFUSED[name]
    found = lint(proto)
    assert any(problem in str(finding) for finding in found), [str(f) for f in found]
    with pytest.raises(BadInputError, match="TensorRT does not take") as error:
        refuse_unsupported(proto)
    assert "\n" not in str(error.value)


def test_subgraphs_are_read_too() -> None:
    def branch(operator: str) -> onnx.GraphProto:
        inner = helper.make_node(operator, ["x"], ["z"], name=f"inner_{operator}")
        return helper.make_graph([inner], operator, [], [helper.make_tensor_value_info("z", F32, None)])

    choice = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch("Relu"), else_branch=branch("Det"))
    found = lint(graph([choice], {"c": np.array(True)}))
    assert [f.node for f in found] == ["inner_Det"]


def test_the_list_names_its_source_and_knows_the_operators() -> None:
    read = table()
    assert "onnx-tensorrt" in read.source
    assert read.opsets == (9, 24)
    assert len(read.types) == 158
    assert read.types["Conv"] == {"FLOAT", "FLOAT16", "BFLOAT16"}
    assert set(RESTRICTIONS) <= set(read.types)
    retired = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert set(read.types) - retired <= known
