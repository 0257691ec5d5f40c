"""Says what TensorRT would refuse in an ONNX graph, before anything is sent to a machine with a GPU.

The list of operators and data types is data (`trt_operators.json`, which names its source); restrictions that the list
states in words are functions here. A clean graph is no promise: only a build is. No TensorRT is needed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ttl_deploy.errors import BadInputError

_TABLE = Path(__file__).with_name("trt_operators.json")
_IO_TYPES = ("FLOAT", "FLOAT16", "BFLOAT16", "INT32", "INT64", "INT8", "UINT8", "BOOL")


@dataclass(frozen=True)
class Finding:
    """Something TensorRT does not take: which node, its operator, and what is wrong with it."""

    node: str
    operator: str
    problem: str

    def __str__(self) -> str:
        return f"{self.operator} {self.node}: {self.problem}"


@dataclass(frozen=True)
class OperatorTable:
    """TensorRT's list: where it was read, the range of opsets, the element types of every supported operator."""

    source: str
    opsets: tuple[int, int]
    types: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Scope:
    """What is known of a graph's tensors: element types by name, and the constant values by name; and of the target."""

    types: dict[str, str] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    turing: bool = False


@functools.cache
def table() -> OperatorTable:
    """Reads the list once."""
    content = json.loads(_TABLE.read_text())
    types = {name: frozenset(group["types"]) for group in content["supported"] for name in group["operators"]}
    return OperatorTable(content["source"], (content["opsets"][0], content["opsets"][1]), types)


def lint(proto: onnx.ModelProto, *, turing: bool = False) -> list[Finding]:
    """What TensorRT would refuse; empty where nothing is known against the graph.

    Args:
        proto: The model, weights inside.
        turing: Also what TensorRT for RTX refuses to build for Turing (sm75) alone.
    """
    opsets = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    version, (lowest, highest) = opsets.get("ai.onnx", 0), table().opsets
    found = []
    if not lowest <= version <= highest:
        found.append(Finding("the model", "opset", f"is {version}, TensorRT reads {lowest} to {highest}"))
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=False)
    found += [
        Finding(value.name, "input or output", f"is {kind}, which TensorRT does not bind")
        for value in (*proto.graph.input, *proto.graph.output)
        if (kind := _name(value.type.tensor_type.elem_type)) not in _IO_TYPES
    ]
    found += _shared_names(proto.graph)
    return found + list(_lint_graph(inferred.graph, Scope(turing=turing), version))


def refuse_unsupported(proto: onnx.ModelProto, *, turing: bool = False) -> None:
    """Raises where TensorRT would refuse the graph.

    Args:
        proto: The model, weights inside.
        turing: As for `lint`.

    Raises:
        BadInputError: With the first findings and their number.
    """
    found = lint(proto, turing=turing)
    if found:
        listed = "; ".join(map(str, found[:3])) + ("; …" if len(found) > 3 else "")
        raise BadInputError(f"TensorRT does not take {len(found)} parts of the graph: {listed}")


def _lint_graph(graph: onnx.GraphProto, outer: Scope, opset: int) -> Iterator[Finding]:
    scope = Scope({**outer.types, **_types_of(graph)}, {**outer.constants, **_constants_of(graph)}, outer.turing)
    for node in graph.node:
        problem = _problem(node, scope, opset)
        if problem is not None:
            yield Finding(node.name or (node.output[0] if node.output else "without a name"), node.op_type, problem)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                yield from _lint_graph(inner, scope, opset)


def _shared_names(graph: onnx.GraphProto) -> Iterator[Finding]:
    """The parser names its layers after the nodes, and of these two kinds it refuses a second one of a name."""
    seen: set[str] = set()
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.name:
            if node.name in seen:
                yield Finding(node.name, node.op_type, "has the name of another, which TensorRT's parser refuses")
            seen.add(node.name)


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _problem(node: onnx.NodeProto, scope: Scope, opset: int) -> str | None:
    """The first thing wrong with a node, or None."""
    if node.domain not in ("", "ai.onnx"):
        return f"is of the domain {node.domain}; TensorRT knows the standard operators only"
    allowed = table().types.get(node.op_type)
    if allowed is None:
        return "TensorRT has no such operator"
    for kind in _main_types(node, scope, opset):
        if kind not in allowed:
            return f"computes {kind}, TensorRT takes {', '.join(sorted(allowed))}"
    check = RESTRICTIONS.get(node.op_type)
    problem = check(node, scope) if check is not None else None
    return problem or (_of_turing(node, scope) if scope.turing else None)


def _of_turing(node: onnx.NodeProto, scope: Scope) -> str | None:
    """What the builder refuses for sm75: it said so of such graphs itself (1.7.1)."""
    if scope.types.get(node.input[0] if node.input else "") != "FLOAT":
        return None
    if node.op_type in ("Gemm", "MatMul", "Einsum"):
        return "is a matrix product in fp32, which TensorRT for RTX does not build for Turing"
    weight = scope.constants.get(node.input[1]) if node.op_type in ("Conv", "ConvTranspose") else None
    if weight is not None and len(weight.dims) == 5:
        return "is a convolution over three axes in fp32, which TensorRT for RTX does not build for Turing"
    return None


def _main_types(node: onnx.NodeProto, scope: Scope, opset: int) -> Iterator[str]:
    """Element types that the list speaks of: of the first input and all that share its type, or of what has none."""
    if not node.input:
        yield from (scope.types[name] for name in node.output if name in scope.types)
        return
    if not onnx.defs.has(node.op_type, opset, ""):
        return
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    formal = [schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in range(len(node.input))]
    for name, kind in zip(node.input, formal, strict=True):
        if kind == formal[0] and name in scope.types:
            yield scope.types[name]


def _types_of(graph: onnx.GraphProto) -> dict[str, str]:
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: _name(value.type.tensor_type.elem_type) for value in values}
    return found | {tensor.name: _name(tensor.data_type) for tensor in graph.initializer}


def _constants_of(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    return constants


def _name(element_type: int) -> str:
    name: str = TensorProto.DataType.Name(element_type)
    return name


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _convolution(node: onnx.NodeProto, scope: Scope) -> str | None:
    """1D convolutions are lifted to 2D by the parser; four spatial axes are not."""
    weight = scope.constants.get(node.input[1])
    if weight is not None and len(weight.dims) > 5:
        return f"has {len(weight.dims) - 2} spatial axes, TensorRT takes 2 or 3"
    return None


def _pool(node: onnx.NodeProto, scope: Scope) -> str | None:
    attributes = _attributes(node)
    if len(attributes.get("kernel_shape", ())) not in (2, 3):
        return f"pools over {len(attributes.get('kernel_shape', ()))} axes, TensorRT over 2 or 3"
    if set(attributes.get("dilations", ())) - {1}:
        return "is dilated, which TensorRT does not do"
    if len([name for name in node.output if name]) > 1:
        return "gives indices, which TensorRT does not do"
    return None


def _zero_point(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Quantisation must be symmetric, and signed: an 8-bit unsigned tensor lives at the network's border only."""
    if len(node.input) < 3 or not node.input[2]:
        signed = node.op_type == "DequantizeLinear" or _attributes(node).get("output_dtype", 0) == TensorProto.INT8
        return None if signed else "has no zero point, so its result is unsigned"
    zero = scope.constants.get(node.input[2])
    if zero is None:
        return "has a zero point that is no constant"
    if _name(zero.data_type) not in ("INT8", "INT4", "FLOAT8E4M3FN", "FLOAT4E2M1"):
        return f"quantises to {_name(zero.data_type)}, TensorRT to INT8, INT4, FLOAT8E4M3FN or FLOAT4E2M1"
    if np.any(numpy_helper.to_array(zero).astype(np.float32)):
        return "has a zero point other than 0, TensorRT quantises symmetrically only"
    return None


def _constant(node: onnx.NodeProto, scope: Scope) -> str | None:
    for name in ("sparse_value", "value_string", "value_strings"):
        if name in _attributes(node):
            return f"has the attribute {name}, which TensorRT does not take"
    return None


def _constant_input(position: int, what: str) -> Callable[[onnx.NodeProto, Scope], str | None]:
    def check(node: onnx.NodeProto, scope: Scope) -> str | None:
        given = node.input[position] if len(node.input) > position else ""
        return None if not given or given in scope.constants else f"its {what} is no constant"

    return check


def _resize(node: onnx.NodeProto, scope: Scope) -> str | None:
    attributes = _attributes(node)
    if attributes.get("antialias", 0):
        return "smooths (antialias), which TensorRT does not do"
    mode = attributes.get("mode", b"nearest").decode()
    return None if mode in ("nearest", "linear") else f"interpolates by {mode}, TensorRT by nearest or linear"


def _first_output_only(node: onnx.NodeProto, scope: Scope) -> str | None:
    more = [name for name in node.output[1:] if name]
    return f"gives more than one result ({', '.join(more)}), TensorRT the first only" if more else None


def _no_reduction(node: onnx.NodeProto, scope: Scope) -> str | None:
    reduction = _attributes(node).get("reduction", b"none").decode()
    return None if reduction == "none" else f"reduces by {reduction}, which TensorRT does not do"


RESTRICTIONS: dict[str, Callable[[onnx.NodeProto, Scope], str | None]] = {
    "AveragePool": _pool,
    "MaxPool": _pool,
    "LpPool": _pool,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "QuantizeLinear": _zero_point,
    "DequantizeLinear": _zero_point,
    "Constant": _constant,
    "Resize": _resize,
    "LayerNormalization": _first_output_only,
    "ScatterND": _no_reduction,
    "CumSum": _constant_input(1, "axis"),
    "OneHot": _constant_input(1, "depth"),
    "Squeeze": _constant_input(1, "list of axes"),
    "Unsqueeze": _constant_input(1, "list of axes"),
    **{
        f"Reduce{kind}": _constant_input(1, "list of axes")
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
}
"""What the list says in words, as far as a graph of the zoo or of timm can meet it; by operator."""
