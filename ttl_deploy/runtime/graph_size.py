"""How much memory an ONNX graph asks for, told from its shapes before an engine opens it.

A graph of a few hundred bytes can name a tensor of terabytes: engines compute what depends on no input when they open a
graph, and the rest at the first image. Shapes come from ONNX's own inference, for a batch of one; nothing is computed.
Where onnx is not installed, as on a small deployment machine, the engine's own error is all there is.
"""

from __future__ import annotations

import importlib.util
import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttl_deploy.errors import IntegrityError
from ttl_deploy.onnx_parts import fields

if TYPE_CHECKING:
    import onnx

MOST_BYTES = 4 * 2**30
"""Of one tensor for one image, and of all tensors together that depend on no input. So large are 256 channels of
float32 at half of the largest input there is (4096 pixels)."""

_SMALL = 4096
"""Numbers of a constant that may be a shape; larger ones are left out of the inference, which would copy them."""

_FIRST = {"start": 0, "end": 1}
"""What Shape is asked for where it tells the batch."""

_FUNCTION = "a function"
"""Stands for operators that a file defines itself."""

_SIZED = ("ConstantOfShape", "EyeLike", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample")
"""Operators whose output is as large as the numbers in an input say."""

_LOOKED_AT = frozenset({*_SIZED, "Concat", "If", "Loop", "Scan", _FUNCTION})

_MODEL_GRAPH, _MODEL_FUNCTION, _GRAPH_NODE, _NODE_OPERATOR = 7, 25, 1, 4

_DATA = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def refuse_oversized(path: Path, *, quick: bool = False) -> None:
    """Raises `IntegrityError` where an ONNX file asks for more memory than a network of its kind can need.

    A file that onnx cannot read passes: the engine says why.

    Args:
        path: The file.
        quick: Leave out graphs without an operator of `_LOOKED_AT`: importing onnx costs as much time as starting the
            engine, and the networks of the zoo but DenseNet have none. What broadcasting or padding can enlarge is then
            left to the engine.
    """
    if importlib.util.find_spec("onnx") is None or (quick and _operators(path).isdisjoint(_LOOKED_AT)):
        return
    for said in _oversized(_inferred(path)):
        raise IntegrityError(said, where=path, fix="export the run again with `ttl-deploy export --overwrite`")


def refuse_many(tensor: str, bytes: int, path: Path) -> None:
    """Raises `IntegrityError` where a tensor, for one image, is larger than allowed."""
    if bytes > MOST_BYTES:
        fix = "export the run again with `ttl-deploy export --overwrite`"
        raise IntegrityError(_too_large(f"its tensor {tensor!r:.80}", bytes), where=path, fix=fix)


def _too_large(what: str, bytes: int) -> str:
    return f"{what} would take {bytes / 2**30:,.1f} GiB for one image, more than {MOST_BYTES / 2**30:g}"


def _inferred(path: Path) -> onnx.ModelProto | None:
    """The graph with the shapes of its tensors and without its large constants; None where it cannot be read."""
    import onnx
    from onnx import inliner, shape_inference

    try:
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            if math.prod(tensor.dims) > _SMALL:
                for field in _DATA:
                    tensor.ClearField(field)
        whole = inliner.inline_local_functions(model) if model.functions else model
        # What the file says of its own tensors is not believed.
        whole.graph.ClearField("value_info")
        # Without following the values of shapes, for which onnx would make an object per element of a tensor of one
        # dimension: 140 bytes each, of as many as a graph says. A size that only they would tell is refused.
        return shape_inference.infer_shapes(whole)
    except Exception:  # noqa: BLE001,RUF100 - protobuf's and onnx's errors share no base class but this
        return None


def _operators(path: Path) -> set[str]:
    """The operators of a graph, read from the file without onnx; empty where it is no such file.

    Of the fields of `onnx.proto` a model's 7 is its graph and its 25 a function, a graph's 1 a node, a node's 4 its
    operator. Weights are passed over unread.
    """
    try:
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = set()
            for number, start, end in fields(data, 0, len(data)):
                found |= {_FUNCTION} if number == _MODEL_FUNCTION else set()
                for inner, begin, stop in fields(data, start, end) if number == _MODEL_GRAPH else ():
                    for field, first, last in fields(data, begin, stop) if inner == _GRAPH_NODE else ():
                        found |= {data[first:last].decode()} if field == _NODE_OPERATOR else set()
            return found
    except (OSError, ValueError):
        return set()


def _oversized(model: onnx.ModelProto | None) -> Iterator[str]:
    """What is too large, a phrase each."""
    if model is None:
        return
    constant = 0
    for graph in _graphs(model.graph):
        shapes = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
        fixed = _without_input(graph)
        repeated = _repeated(graph)
        for node in graph.node:
            for name in node.output:
                kind = shapes.get(name)
                if kind is None or not kind.HasField("shape"):
                    continue
                dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
                dims = repeated.get(name, dims)
                # One free dimension is the batch.
                if node.op_type in _SIZED and dims.count(None) > (0 if name in fixed else 1):
                    yield f"its {node.op_type} makes {name!r:.80} of a size that only running it would tell"
                # What is negative has passed the end of 64 bits.
                size = math.prod(1 if d is None else d if d >= 0 else 2**63 for d in dims) * _bytes(kind.elem_type)
                if size > MOST_BYTES:
                    yield _too_large(f"its {node.op_type} makes {name!r:.80}, which", size)
                constant += size if name in fixed else 0
    if constant > MOST_BYTES:
        yield _too_large("its constants together", constant)


def _repeated(graph: onnx.GraphProto) -> dict[str, list[int | None]]:
    """Shapes of constants that are repeated for every image, such as a class token, which onnx leaves unknown.

    They are expanded to a list of sizes of which the first is the batch's and the others are constants.
    """
    from onnx import numpy_helper

    held = {tensor.name: tensor for tensor in graph.initializer}
    firsts = {v.name: v.type.tensor_type.shape.dim[:1] for v in (*graph.input, *graph.value_info)}
    free = {name: dims[0].dim_param for name, dims in firsts.items() if dims and dims[0].dim_param}
    batch = {free[value.name] for value in graph.input if value.name in free}
    batches, lists = set[str](), dict[str, list[Any]]()
    found: dict[str, list[int | None]] = {}
    for node in graph.node:
        asked = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Shape" and asked == _FIRST and free.get(node.input[0]) in batch:
            batches.add(node.output[0])
        elif node.op_type == "Concat" and node.input[0] in batches and held.keys() >= {*node.input[1:]}:
            lists[node.output[0]] = [numpy_helper.to_array(held[name]) for name in node.input[1:]]
        elif node.op_type == "Expand" and node.input[1] in lists and node.input[0] in held:
            own, sizes = held[node.input[0]].dims, lists[node.input[1]]
            if len(own) == len(sizes) + 1 and own[0] == 1 and all(size.shape == (1,) for size in sizes):
                found[node.output[0]] = [None, *(max(n, int(size[0])) for n, size in zip(own[1:], sizes, strict=True))]
    return found


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its nodes."""
    left = [graph]
    while left:
        found = left.pop()
        yield found
        for node in found.node:
            for attribute in node.attribute:
                left += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _without_input(graph: onnx.GraphProto) -> set[str]:
    """Names of the tensors that depend on no input; nodes come in the order in which they are computed."""
    fixed = {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node:
        if not any(attribute.HasField("g") for attribute in node.attribute) and fixed.issuperset(node.input):
            fixed.update(node.output)
    return fixed


def _bytes(kind: int) -> int:
    """Of a number of a type; those of less than a byte count as one."""
    from onnx import helper

    try:
        return int(helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except (KeyError, TypeError):
        return 8


def openvino_bytes(put: Any) -> int:
    """Bytes of an output of an operation of OpenVINO, for one image; free dimensions count as one."""
    shape = put.get_partial_shape()
    if shape.rank.is_dynamic:
        return 0
    numbers: int = math.prod(d.get_length() if d.is_static else 1 for d in shape)
    return numbers * max(1, int(put.get_element_type().size))
