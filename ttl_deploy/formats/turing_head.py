"""A graph without fp32 matrix products, which TensorRT for RTX does not build for Turing: they become 1x1 convolutions.

The numbers stay (the same products are summed, in the engine's order), and the rewritten graph is the one that parity
is judged on and that is shipped. There is a second form without convolutions, for where the first does not build.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Product:
    """A matrix product with constant weights.

    Attributes:
        name: Of the node, from which all new names are made.
        source: Name of the (N, K) input.
        result: Name of the (N, M) output.
        weight: (M, K).
        bias: (M,); None: none.
    """

    name: str
    source: str
    result: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None


Parts = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]
"""Nodes and the constants they read."""


def as_convolution(product: Product) -> Parts:
    """Reshape to (N, K, 1, 1), convolve with (M, K, 1, 1), reshape to (N, M)."""
    rows, columns = product.weight.shape
    name, constants = product.name, {}
    constants[f"{name}.kernel"] = product.weight[:, :, None, None]
    constants[f"{name}.column"] = np.array([0, columns, 1, 1], np.int64)
    constants[f"{name}.row"] = np.array([0, rows], np.int64)
    biased = [f"{name}.bias"] if product.bias is not None else []
    if product.bias is not None:
        constants[f"{name}.bias"] = product.bias
    nodes = [
        helper.make_node("Reshape", [product.source, f"{name}.column"], [f"{name}.in"], name=f"{name}.in"),
        helper.make_node("Conv", [f"{name}.in", f"{name}.kernel", *biased], [f"{name}.out"], name=name),
        helper.make_node("Reshape", [f"{name}.out", f"{name}.row"], [product.result], name=f"{name}.out"),
    ]
    return nodes, _tensors(constants)


def as_sum(product: Product) -> Parts:
    """Multiply (N, 1, K) with (M, K), sum over K, add the bias."""
    name, constants = product.name, {}
    constants[f"{name}.rows"] = product.weight
    constants[f"{name}.lifted"] = np.array([0, 1, product.weight.shape[1]], np.int64)
    constants[f"{name}.axis"] = np.array([2], np.int64)
    summed = product.result if product.bias is None else f"{name}.summed"
    nodes = [
        helper.make_node("Reshape", [product.source, f"{name}.lifted"], [f"{name}.in"], name=f"{name}.in"),
        helper.make_node("Mul", [f"{name}.in", f"{name}.rows"], [f"{name}.products"], name=name),
        helper.make_node("ReduceSum", [f"{name}.products", f"{name}.axis"], [summed], name=f"{name}.sum", keepdims=0),
    ]
    if product.bias is not None:
        constants[f"{name}.bias"] = product.bias
        nodes.append(helper.make_node("Add", [summed, f"{name}.bias"], [product.result], name=f"{name}.out"))
    return nodes, _tensors(constants)


FORMS: Mapping[str, Callable[[Product], Parts]] = {"1x1 convolution": as_convolution, "multiply and sum": as_sum}
"""What stands for a product, the first to be tried first."""


def rewritten(proto: onnx.ModelProto, form: str) -> onnx.ModelProto:
    """A copy of a graph in which another form stands for every fp32 matrix product with constant weights.

    Args:
        proto: In opset 13 or newer, weights inside.
        form: Of `FORMS`.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    graph = made.graph
    products = _products(made)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        product = products.get(node.output[0])
        parts, constants = ([node], []) if product is None else FORMS[form](product)
        nodes += parts
        graph.initializer.extend(constants)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    _drop_unused(graph)
    graph.ClearField("value_info")
    return onnx.shape_inference.infer_shapes(made)


def _products(proto: onnx.ModelProto) -> dict[str, Product]:
    """The products, by the name of their result."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.value_info, *graph.input)}
    found = (product for node in graph.node for product in _product(node, constants, ranks))
    return {product.result: product for product in found}


def _product(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], ranks: Mapping[str, int]
) -> Iterator[Product]:
    if node.op_type not in ("Gemm", "MatMul") or ranks.get(node.input[0]) != 2:
        return
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if given.get("transA", 0) or given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1:
        return
    others = [constants.get(name) for name in node.input[1:] if name]
    if any(other is None or other.data_type != TensorProto.FLOAT for other in others):
        return
    weight, *rest = (numpy_helper.to_array(other) for other in others if other is not None)
    if weight.ndim != 2:
        return
    # A copy in the order of a convolution's weights: the file is the same, however the array came.
    weight = np.ascontiguousarray(weight if given.get("transB", 0) else weight.T)
    bias = np.ascontiguousarray(np.broadcast_to(rest[0].reshape(-1), len(weight))) if rest else None
    yield Product(node.name or node.output[0], node.input[0], node.output[0], weight, bias)


def _tensors(constants: Mapping[str, NDArray[np.generic]]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(array, name) for name, array in constants.items()]


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = {tensor.name: tensor for tensor in graph.initializer if tensor.name in used}
    last = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept.values()]
    del graph.initializer[:]
    graph.initializer.extend(last)
