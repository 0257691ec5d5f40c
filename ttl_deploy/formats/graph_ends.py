"""What may be added at a graph's ends: scaling and normalisation of 8-bit pixels, and softmax or sigmoid.

Both keep the names of input and output, so that a runtime finds them where it always does.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ttl_deploy.spec import PreprocessSpec

ACTIVATIONS = ("none", "softmax", "sigmoid")


def embed_preprocessing(proto: onnx.ModelProto, preprocess: PreprocessSpec) -> None:
    """Puts step 10 of `ttl_deploy.inputs.image` in front of a graph, in place: pixels in, uint8, channels last.

    The arithmetic is that of `normalise`, one multiplication and one subtraction in float32, so nothing is rounded
    differently.

    Args:
        proto: Its one input is (N, C, H, W) or (N, C, D, H, W) float32.
        preprocess: Mean and standard deviation.
    """
    graph = proto.graph
    source = graph.input[0]
    batch, channels, *sides = source.type.tensor_type.shape.dim
    inner = f"{source.name}.normalised"
    for node in graph.node:
        node.input[:] = [inner if name == source.name else name for name in node.input]
    per_channel = (1, -1, *(1,) * len(sides))
    std = np.array(preprocess.std).reshape(per_channel)
    scale = (1 / (255 * std)).astype(np.float32)
    offset = (np.array(preprocess.mean).reshape(per_channel) / std).astype(np.float32)
    steps = [
        helper.make_node("Cast", [source.name], ["preprocess.float"], name="preprocess.float", to=TensorProto.FLOAT),
        helper.make_node(
            "Transpose",
            ["preprocess.float"],
            ["preprocess.planes"],
            name="preprocess.planes",
            perm=[0, len(sides) + 1, *range(1, len(sides) + 1)],
        ),
        helper.make_node(
            "Mul", ["preprocess.planes", "preprocess.scale"], ["preprocess.scaled"], name="preprocess.scaled"
        ),
        helper.make_node("Sub", ["preprocess.scaled", "preprocess.offset"], [inner], name="preprocess.normalised"),
    ]
    nodes = [*steps, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        [numpy_helper.from_array(scale, "preprocess.scale"), numpy_helper.from_array(offset, "preprocess.offset")]
    )
    shape = [batch.dim_param or batch.dim_value, *(side.dim_value for side in (*sides, channels))]
    source.CopyFrom(helper.make_tensor_value_info(source.name, TensorProto.UINT8, shape))


def add_activation(proto: onnx.ModelProto, activation: str) -> None:
    """Puts softmax (over classes) or sigmoid (each class by itself) behind a graph, in place; `none` adds nothing.

    Args:
        proto: Its one output is (N, classes) float32 logits.
        activation: One of `ACTIVATIONS`.
    """
    if activation == "none":
        return
    graph = proto.graph
    output, inner = graph.output[0].name, f"{graph.output[0].name}.raw"
    for node in graph.node:
        node.input[:] = [inner if name == output else name for name in node.input]
        node.output[:] = [inner if name == output else name for name in node.output]
    last = helper.make_node(activation.capitalize(), [inner], [output], name=activation)
    if activation == "softmax":
        last.attribute.append(helper.make_attribute("axis", 1))
    graph.node.append(last)
