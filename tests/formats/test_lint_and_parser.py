"""Our lint of graphs against the real parser and builder of TensorRT for RTX, over the graphs of `test_trt_lint`.

What lint calls clean must be built. Where lint refuses what the library builds, `STRICTER` says why it stays so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from test_trt_lint import QDQ, REFUSED, graph, node

from ttl_deploy.formats.kit.build_engine import BuildError, Settings, configure, parse, serialise
from ttl_deploy.formats.trt_lint import lint
from ttl_deploy.runtime import trt_rtx

pytestmark = pytest.mark.skipif(trt_rtx.missing() is not None, reason=str(trt_rtx.missing()))

STRICTER = {
    "double": "the library computes it in fp32, so the engine would not be the graph",
    "double at the border": "the same; and full TensorRT binds no such tensor by its list",
    "old opset": "full TensorRT's list begins with 9",
    "1D pooling": "full TensorRT's list has two or three axes",
    "unsigned quantisation": "full TensorRT quantises to signed types alone",
    "unsigned by default": "the same",
}
"""What lint refuses and this edition builds, by name in `REFUSED`, with why lint keeps refusing it."""

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
KERNEL = {"w": np.ones((4, 3, 3, 3), np.float32)}
CLEAN: dict[str, onnx.ModelProto] = {
    "convolution": graph([node("Conv", "x w")], KERNEL),
    "half precision with casts": graph(
        [node("Cast", "x", "h", to=HALF), node("Conv", "h w", "c"), node("Cast", "c", "y", to=FLOAT)],
        {"w": np.ones((4, 3, 1, 1), np.float16)},
    ),
    "symmetric int8": graph(
        [
            node("QuantizeLinear", "x s z", "q"),
            node("DequantizeLinear", "q s z", "d"),
            onnx.helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="of_the_weight", axis=0),
            node("Conv", "d wd"),
        ],
        QDQ,
    ),
    "convolution over one axis": graph(
        [node("Conv", "x w")], {"w": np.ones((4, 3, 3), np.float32)}, shape=("batch", 3, 8)
    ),
    "convolution over three axes": graph(
        [node("Conv", "x w")], {"w": np.ones((4, 3, 3, 3, 3), np.float32)}, shape=("batch", 3, 8, 8, 8)
    ),
    "matrix product": graph(
        [node("Flatten", "x", "f"), node("Gemm", "f w b")],
        {"w": np.ones((192, 4), np.float32), "b": np.ones(4, np.float32)},
    ),
    "pooling and flattening": graph([node("GlobalAveragePool", "x", "p"), node("Flatten", "p")]),
    "linear resizing": graph(
        [onnx.helper.make_node("Resize", ["x", "", "s"], ["y"], name="r", mode="linear")],
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "softmax": graph([node("Softmax", "x", axis=1)]),
    "activations": graph(
        [node("HardSwish", "x", "a"), node("Sigmoid", "a", "b"), node("Clip", "b lo hi")],
        {"lo": np.float32(0), "hi": np.float32(6)},
    ),
    "mean over constant axes": graph([node("ReduceMean", "x i", keepdims=0)], {"i": np.array([2, 3], np.int64)}),
    "8-bit pixels": graph(
        [node("Cast", "x", "f", to=FLOAT), node("Transpose", "f", perm=[0, 3, 1, 2])],
        shape=("batch", 8, 8, 3),
        kind=TensorProto.UINT8,
    ),
}
"""Graphs that lint has nothing against."""


def built(proto: onnx.ModelProto, architecture: str) -> str | None:
    """What the library says against a graph, or None where it gives an engine."""
    trt = trt_rtx.import_rtx()
    shape = tuple(dim.dim_value or 2 for dim in proto.graph.input[0].type.tensor_type.shape.dim) or (1,)
    try:
        parsed = parse(trt, proto.SerializeToString())
        config = configure(parsed, Settings("fp32", "x", shape, shape, shape, optimization_level=None))
        config.num_compute_capabilities = 1
        assert config.set_compute_capability(getattr(trt.ComputeCapability, architecture), 0)
        return None if serialise(parsed, config) else "an engine without a byte"
    except BuildError as error:
        return str(error)


@pytest.mark.parametrize("name", CLEAN)
def test_what_lint_calls_clean_is_built(name: str) -> None:
    assert lint(CLEAN[name]) == []
    assert built(CLEAN[name], "SM86") is None


@pytest.mark.parametrize("name", CLEAN)
def test_what_lint_calls_clean_for_turing_is_built_for_turing(name: str) -> None:
    said = built(CLEAN[name], "SM75")
    if lint(CLEAN[name], turing=True) == []:
        assert said is None
    else:
        assert name in ("matrix product", "convolution over three axes", "convolution over one axis")


@pytest.mark.parametrize("name", REFUSED)
def test_what_lint_refuses_is_refused_or_the_reason_is_known(name: str) -> None:
    proto, _ = REFUSED[name]
    assert (built(proto, "SM86") is None) == (name in STRICTER)


def test_every_exception_is_of_a_graph() -> None:
    assert set(STRICTER) <= set(REFUSED)


def parts(found: list[Any]) -> list[str]:
    return [finding.operator for finding in found]


@pytest.mark.parametrize(("name", "operator"), [("matrix product", "Gemm"), ("convolution over three axes", "Conv")])
def test_lint_tells_for_turing_what_the_library_refuses_for_turing(name: str, operator: str) -> None:
    assert parts(lint(CLEAN[name], turing=True)) == [operator]
    assert built(CLEAN[name], "SM75") is not None
