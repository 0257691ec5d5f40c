"""Faults to plant in an exported ONNX graph, or in the pixels that it is shown, each in several sizes.

A fault is a function from a graph (or pixels) and a size to a damaged copy. They are the mistakes that exporters,
converters and people make: a scale or a constant in the wrong place, a flipped sign, a lost channel, a zero point, rows
in another order, a rounding nobody asked for, another preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Edit = Callable[[onnx.ModelProto, float], None]
Alter = Callable[[Pixels, float], Pixels]

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Fault:
    """One kind of mistake.

    Attributes:
        name: What it is.
        sizes: How large, the largest mistake first; what a size means is in the name.
        edit: Damages a graph in place; None for a fault of the pixels.
        alter: Damages pixels (N, H, W, C); None for a fault of the graph.
        precisions: The graphs it can be planted in.
    """

    name: str
    sizes: tuple[float, ...]
    edit: Edit | None = None
    alter: Alter | None = None
    precisions: tuple[str, ...] = PRECISIONS


class Weight:
    """The weight of a layer, as float32 whatever it is stored as; writing it back keeps the type and the scales."""

    def __init__(self, proto: onnx.ModelProto, node: onnx.NodeProto) -> None:
        constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        makers = {output: maker for maker in proto.graph.node for output in maker.output}
        name = node.input[1]
        self.quantised = name not in constants
        source = makers[name] if self.quantised else None
        self.tensor = constants[source.input[0] if source else name]
        self.scales = constants[source.input[1]] if source else None
        self.biases: list[onnx.TensorProto] = []
        if len(node.input) > 2:
            maker = makers.get(node.input[2])
            # Behind a DequantizeLinear: the int32 values and their scales.
            self.biases = [constants[name] for name in (maker.input[:2] if maker else node.input[2:3])]
        self.rows = 1 if node.op_type == "MatMul" else 0
        if node.op_type == "Gemm" and not any(a.name == "transB" and a.i for a in node.attribute):
            self.rows = 1

    @property
    def values(self) -> Floats:
        """Output channels first; steps of the grid where it is int8."""
        return np.moveaxis(_floats(self.tensor), self.rows, 0).copy()

    @values.setter
    def values(self, new: Floats) -> None:
        _put(self.tensor, np.moveaxis(new, 0, self.rows))


def layers(proto: onnx.ModelProto) -> list[Weight]:
    """The layers with weights, bottom first."""
    return [Weight(proto, node) for node in proto.graph.node if node.op_type in _LAYERS]


def _floats(tensor: onnx.TensorProto) -> Floats:
    return np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)


def _put(tensor: onnx.TensorProto, values: NDArray[Any]) -> None:
    stored = numpy_helper.to_array(tensor).dtype
    if stored.kind in "iu":
        limits = np.iinfo(stored)
        values = np.clip(np.round(values), limits.min, limits.max)
    name, code = tensor.name, tensor.data_type
    raw = np.ascontiguousarray(values.astype(stored)).tobytes()
    tensor.CopyFrom(helper.make_tensor(name, code, list(values.shape), raw, raw=True))


def _behind(op: str) -> Edit:
    """A constant behind the logits: multiplied with all of them, or added to one class's."""

    def edit(proto: onnx.ModelProto, size: float, place: int = 1) -> None:
        output = proto.graph.output[0].name
        inner = f"{output}.planted"
        for node in proto.graph.node:
            node.input[:] = [inner if name == output else name for name in node.input]
            node.output[:] = [inner if name == output else name for name in node.output]
        classes = proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        value = np.full(classes, size if op == "Mul" else 0, dtype=np.float32)
        if op == "Add":
            value[place] = size
        proto.graph.initializer.append(numpy_helper.from_array(value, "planted"))
        proto.graph.node.append(helper.make_node(op, [inner, "planted"], [output], name="planted"))

    return edit


def _weights(place: Callable[[int], int], change: Callable[[Floats, float], Floats]) -> Edit:
    """A change of one layer's weights; `place` gives its position of how many there are."""

    def edit(proto: onnx.ModelProto, size: float) -> None:
        found = layers(proto)
        weight = found[place(len(found))]
        weight.values = change(weight.values, size)

    return edit


def _first(count: int) -> int:
    return 0


def _middle(count: int) -> int:
    return count // 2


def _last_convolution(count: int) -> int:
    return count - 2


def _head(count: int) -> int:
    return count - 1


_PLACES: dict[str, Callable[[int], int]] = {
    "first layer": _first,
    "middle layer": _middle,
    "last convolution": _last_convolution,
    "head": _head,
}


def _flip(values: Floats, rank: float) -> Floats:
    order = np.argsort(-np.abs(values), axis=None)
    values.flat[order[min(int(rank), values.size) - 1]] *= -1
    return values


def _zero(values: Floats, channels: float) -> Floats:
    loudest = np.argsort(-np.abs(values).reshape(len(values), -1).sum(axis=1))
    values[loudest[: int(channels)]] = 0
    return values


def _swap(values: Floats, apart: float) -> Floats:
    other = min(int(apart), len(values) - 1)
    values[[0, other]] = values[[other, 0]]
    return values


def _scale(values: Floats, factor: float) -> Floats:
    return values * np.float32(factor)


def _mirror(values: Floats, _size: float) -> Floats:
    return values[..., ::-1].copy()


def _scales(place: Callable[[int], int]) -> Edit:
    """Scales of an int8 layer's weights."""

    def edit(proto: onnx.ModelProto, factor: float) -> None:
        found = layers(proto)
        scales = found[place(len(found))].scales
        assert scales is not None
        _put(scales, _floats(scales) * np.float32(factor))

    return edit


def _activations(which: str, part: int) -> Edit:
    """A scale (1) or zero point (2) of the activation that the middle layer reads."""

    def edit(proto: onnx.ModelProto, size: float) -> None:
        makers = {output: node for node in proto.graph.node for output in node.output}
        constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        node = [n for n in proto.graph.node if n.op_type in _LAYERS][len(layers(proto)) // 2]
        pair = {"DequantizeLinear": makers[node.input[0]]}
        pair["QuantizeLinear"] = makers[pair["DequantizeLinear"].input[0]]
        tensor = constants[pair[which].input[part]]
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.name = f"{tensor.name}.planted"
        _put(copy, _floats(tensor) * np.float32(size) if part == 1 else _floats(tensor) + np.float32(size))
        proto.graph.initializer.append(copy)
        pair[which].input[part] = copy.name

    return edit


def _biases(proto: onnx.ModelProto, size: float) -> None:
    """Adds to every bias of the first layer a share of its largest."""
    bias = layers(proto)[0].biases[0]
    values = _floats(bias)
    _put(bias, values + np.float32(size) * np.abs(values).max())


def _rounded(bits: float) -> Callable[[Floats], Floats]:
    if bits == 16:
        return lambda values: values.astype(np.float16).astype(np.float32)
    if bits == 15:
        return lambda values: values.astype(ml_dtypes.bfloat16).astype(np.float32)

    def to_grid(values: Floats) -> Floats:
        steps = 2 ** (bits - 1) - 1
        rows = np.abs(values).reshape(len(values), -1).max(axis=1)
        step = np.maximum(rows, 1e-12).reshape(-1, *[1] * (values.ndim - 1)) / steps
        return (np.round(values / step) * step).astype(np.float32)

    return to_grid


def _rounding(proto: onnx.ModelProto, bits: float) -> None:
    for weight in layers(proto):
        weight.values = _rounded(bits)(weight.values)


def _swap_head(proto: onnx.ModelProto, _size: float) -> None:
    head = layers(proto)[-1]
    head.values = head.values[::-1]
    for tensor in (*head.biases, head.scales):
        if tensor is not None and tensor.dims and tensor.dims[0] == len(head.values):
            _put(tensor, _floats(tensor)[::-1])


def _no_relu(proto: onnx.ModelProto, size: float) -> None:
    """Turns the last rectifiers into nothing."""
    found = [node for node in proto.graph.node if node.op_type == "Relu"][-int(size) :]
    for node in found:
        node.op_type = "Identity"


def _not_finite(proto: onnx.ModelProto, size: float) -> None:
    weight = layers(proto)[-1]
    target = weight.scales if weight.quantised else weight.tensor
    assert target is not None
    values = _floats(target)
    values.flat[0] = size
    _put(target, values)


def _stretched(pixels: Pixels, _size: float) -> Pixels:
    low, high = (edge(axis=(1, 2), keepdims=True).astype(np.float32) for edge in (pixels.min, pixels.max))
    return np.round((pixels - low) / np.maximum(high - low, 1) * 255).astype(np.uint8)


def _resized(pixels: Pixels, size: float) -> Pixels:
    """Through another size, as an image that was shrunk too far."""
    side = pixels.shape[1]
    return _each(pixels, lambda image: image.resize((int(size),) * 2, Image.Resampling.BILINEAR).resize((side, side)))


def _cropped(pixels: Pixels, margin: float) -> Pixels:
    side, edge = pixels.shape[1], int(margin)
    return _each(pixels, lambda image: image.crop((edge, edge, side - edge, side - edge)).resize((side, side)))


def _each(pixels: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in pixels])


def _bits(pixels: Pixels, bits: float) -> Pixels:
    step = 2 ** (8 - int(bits))
    return (pixels // step * step).astype(np.uint8)


def _moved(pixels: Pixels, size: float) -> Pixels:
    """Another mean of the normalisation, in grey levels."""
    return np.clip(pixels.astype(np.float32) + size, 0, 255).round().astype(np.uint8)


def _contrast(pixels: Pixels, factor: float) -> Pixels:
    """Another standard deviation of the normalisation."""
    return np.clip((pixels.astype(np.float32) - 124) * factor + 124, 0, 255).round().astype(np.uint8)


def _shifted(pixels: Pixels, size: float) -> Pixels:
    return np.roll(pixels, int(size), axis=2)


def _channels(pixels: Pixels, size: float) -> Pixels:
    """A channel in place of another: BGR for RGB shows on grey images only through mean and std, so tint them."""
    tinted = pixels.astype(np.float32) * np.linspace(1 - size, 1 + size, pixels.shape[-1])
    return np.clip(tinted, 0, 255).round().astype(np.uint8)


def faults() -> Sequence[Fault]:
    """All of them."""
    return [*_graph_faults(), *_pixel_faults()]


def _graph_faults() -> Iterator[Fault]:
    halves = ("fp32", "fp16", "bf16")
    yield Fault("logits multiplied by", (10, 5, 0.1, 2, 1.1, 1.03, 1.01, 1.001), _behind("Mul"))
    yield Fault("added to a class's logit", (-3, 1, 0.1, 0.01, 0.001), _behind("Add"))
    for name, place in _PLACES.items():
        yield Fault(f"sign of the weight of rank n flipped, {name}", (1, 100), _weights(place, _flip))
        if name != "head":
            yield Fault(f"n channels zeroed, {name}", (4, 1), _weights(place, _zero))
            yield Fault(f"output channels 0 and n swapped, {name}", (1,), _weights(place, _swap))
            yield Fault(f"kernels mirrored, {name}", (1,), _weights(place, _mirror))
        yield Fault(f"weights multiplied by, {name}", (2, 1.1, 1.01), _weights(place, _scale), None, halves)
        yield Fault(f"weight scales multiplied by, {name}", (2, 1.1, 1.01), _scales(place), None, ("int8",))
    yield Fault("biases of the first layer moved by a share of their largest", (1, 0.1, 0.01), _biases)
    yield Fault("rows of the head swapped", (1,), _swap_head)
    yield Fault("last n rectifiers removed", (1,), _no_relu, None, halves)
    yield Fault("a weight of the head is", (float("nan"),), _not_finite, None, halves)
    for which in ("QuantizeLinear", "DequantizeLinear"):
        yield Fault(f"zero point moved by, {which}", (64, 4, 1), _activations(which, 2), None, ("int8",))
        yield Fault(f"activation scale times, {which}", (2, 1.1, 1.02), _activations(which, 1), None, ("int8",))
    yield Fault("all weights rounded to float16", (16,), _rounding, None, ("fp32",))
    yield Fault("all weights rounded to bfloat16", (15,), _rounding, None, ("fp32", "fp16"))
    yield Fault("all weights rounded to n bits", (4, 6, 8), _rounding)


def _pixel_faults() -> Iterator[Fault]:
    yield Fault("pixels stretched to their own range", (1,), alter=_stretched)
    yield Fault("pixels through another size of n", (16, 28), alter=_resized)
    yield Fault("n pixels cropped off every edge", (4, 1), alter=_cropped)
    yield Fault("pixels of n bits", (4, 6, 7), alter=_bits)
    yield Fault("mean moved by n grey levels", (40, 3, 1), alter=_moved)
    yield Fault("std multiplied by 1/n", (2, 1.1, 1.02), alter=_contrast)
    yield Fault("pixels shifted by n", (2, 1), alter=_shifted)
    yield Fault("channels tinted by n", (0.1, 0.02), alter=_channels)
    yield Fault("pixels inverted", (1,), alter=lambda pixels, _size: 255 - pixels)


__all__ = ["PRECISIONS", "Fault", "TensorProto", "Weight", "faults", "layers"]
