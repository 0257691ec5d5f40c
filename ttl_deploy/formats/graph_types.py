"""Turns a float32 graph into a half-precision one, float16 or bfloat16, that still takes and gives float32.

Written here because the converters that engines ship know float16 only, and precision must be a property of the graph.
"""

from __future__ import annotations

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from ttl_deploy.errors import TtlDeployError

_TYPES = {"fp16": (TensorProto.FLOAT16, torch.float16), "bf16": (TensorProto.BFLOAT16, torch.bfloat16)}
HALVES = tuple(_TYPES)


def to_half(proto: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A copy of a float32 graph whose weights and arithmetic are half precision, with casts at both ends.

    Args:
        proto: One float32 input and one float32 output.
        precision: `fp16` or `bf16`.

    Raises:
        TtlDeployError: A weight is beyond the range of float16.
    """
    code, _dtype = _TYPES[precision]
    half = onnx.ModelProto()
    half.CopyFrom(proto)
    graph = half.graph
    graph.ClearField("value_info")
    # The factors of a resize are float32 whatever it resizes.
    kept = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            tensor.CopyFrom(_converted(tensor, precision))
    source, result = graph.input[0].name, graph.output[0].name
    names = {source: f"{source}.{precision}", result: f"{result}.{precision}"}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    nodes = [
        helper.make_node("Cast", [source], [names[source]], name=f"cast.{precision}", to=code),
        *graph.node,
        helper.make_node("Cast", [names[result]], [result], name="cast.fp32", to=TensorProto.FLOAT),
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    return onnx.shape_inference.infer_shapes(half)


def _converted(tensor: onnx.TensorProto, precision: str) -> onnx.TensorProto:
    code, dtype = _TYPES[precision]
    values = torch.from_numpy(numpy_helper.to_array(tensor).copy())
    converted = values.to(dtype)
    if not converted.isfinite().all():
        raise TtlDeployError(
            f"{tensor.name} holds {float(values.abs().max()):.3g}, beyond the range of {precision}",
            fix="export bf16 or fp32",
        )
    # As raw bytes, because NumPy itself has no bfloat16.
    raw = converted.contiguous().view(torch.int16).numpy().tobytes()
    return helper.make_tensor(tensor.name, code, list(tensor.dims), raw, raw=True)
