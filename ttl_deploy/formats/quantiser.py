"""Static int8 quantisation of an ONNX graph: Q/DQ pairs, weights per channel, ranges from training images.

ONNX Runtime's quantiser places the pairs. On ResNets its graph was measured against NNCF's: in OpenVINO both take the
same time (`reports/int8-accuracy.md`), in ONNX Runtime this one is faster, so one file serves both engines.
Convolutions and batch norms are folded before, and residual sums are quantised too, without which a block falls back
to float between its layers. Logits are not: rounded to 256 values, many images would tie.

ONNX Runtime computes a layer in int8 only where a pair stands on both of its sides. OpenVINO does without the second
one, and computes an activation or a batch norm within the kernel of the layer before: `fused` graphs are for it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

LAYERS = ("Conv", "Gemm", "MatMul")
"""Operators with weights: the layers that may be left in float."""

# Batch norms that could not be folded and sigmoids stay float: int8 halves neither's time and costs accuracy.
_QUANTISED = (
    *LAYERS,
    *("Add", "Mul", "Concat", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten"),
)


class Quantiser:
    """A calibrated graph that can be quantised with some layers left in float, again and again.

    Args:
        plain: Float32, folded, with inferred shapes.
        ranges: What ONNX Runtime's calibrator computed.
        symmetric: Activations around zero.
        fused: No pair stands where only operators in float read it, and features laid side by side have none of their
            own.
    """

    def __init__(self, plain: onnx.ModelProto, ranges: Any, *, symmetric: bool = False, fused: bool = False) -> None:
        self.plain = plain
        self._ranges = ranges
        self._symmetric, self._fused = symmetric, fused
        self._types = tuple(name for name in _QUANTISED if not fused or name != "Concat")
        self._floats = [*_swishes(plain), *_biases(plain)]

    @classmethod
    def calibrated(
        cls,
        plain: onnx.ModelProto,
        batches: Iterable[NDArray[np.float32]],
        *,
        method: str,
        symmetric: bool = False,
    ) -> Quantiser:
        """Runs images through a graph and takes the range of every activation.

        Args:
            plain: Float32, folded.
            batches: (N, C, H, W) float32 each, consumed once.
            method: `minmax`, `entropy` or `percentile`.
            symmetric: Activations around zero.
        """
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator

        methods = {
            "minmax": CalibrationMethod.MinMax,
            "entropy": CalibrationMethod.Entropy,
            "percentile": CalibrationMethod.Percentile,
        }
        with tempfile.TemporaryDirectory() as folder, _quiet():
            path = Path(folder) / "plain.onnx"
            onnx.save_model(plain, path)
            calibrator = create_calibrator(
                path,
                list(_QUANTISED),
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=methods[method],
                extra_options={"symmetric": symmetric},
            )
            for batch in batches:
                calibrator.collect_data(_OneBatch(plain.graph.input[0].name, batch))
            ranges = calibrator.compute_data()
        return cls(plain, ranges, symmetric=symmetric)

    def for_openvino(self) -> Quantiser:
        """The same calibration for fused graphs."""
        return Quantiser(self.plain, self._ranges, symmetric=self._symmetric, fused=True)

    @functools.cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers with weights, bottom first."""
        weights = {tensor.name for tensor in self.plain.graph.initializer}
        return tuple(node.name for node in self.plain.graph.node if node.op_type in LAYERS and node.input[1] in weights)

    @functools.cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-adds of each layer for one image."""
        shapes = {t.name: tuple(t.dims) for t in self.plain.graph.initializer}
        outputs = {v.name: v for v in (*self.plain.graph.value_info, *self.plain.graph.output)}
        counted = {}
        for node in self.plain.graph.node:
            if node.name in self.layers:
                dims = [d.dim_value for d in outputs[node.output[0]].type.tensor_type.shape.dim]
                positions = math.prod(dims[1:-1] if node.op_type == "MatMul" else dims[2:])
                counted[node.name] = math.prod(shapes[node.input[1]]) * positions
        return counted

    def quantise(self, float_layers: Collection[str] = ()) -> onnx.ModelProto:
        """The graph with Q/DQ pairs around every layer but some.

        Args:
            float_layers: Names of `layers` to leave in float.
        """
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        copy = onnx.ModelProto()
        copy.CopyFrom(self.plain)
        floats = [*_left_in_float(self.plain, float_layers), *self._floats]
        with _quiet():
            quantizer = QDQQuantizer(
                copy,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QInt8 if self._symmetric else QuantType.QUInt8,
                tensors_range=self._ranges,
                nodes_to_quantize=[],
                nodes_to_exclude=floats,
                op_types_to_quantize=list(self._types),
                extra_options={
                    "ActivationSymmetric": self._symmetric,
                    "WeightSymmetric": True,
                    # TensorRT adds biases in float; int32 biases are faster everywhere else.
                    "QuantizeBias": not self._symmetric,
                    "QDQKeepRemovableActivations": self._symmetric,
                },
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        made = quantizer.model.model
        if not self._symmetric:
            _bare_outputs(made)
        if self._fused:
            _without_idle_pairs(made, lambda node: node.op_type not in self._types or node.name in floats)
        return _in_order(made)


class _OneBatch:
    """What ONNX Runtime's calibrator reads from."""

    def __init__(self, name: str, batch: NDArray[np.float32]) -> None:
        self._batches = iter([{name: batch}])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def _left_in_float(proto: onnx.ModelProto, layers: Collection[str]) -> list[str]:
    """Some layers and what belongs to them: operators of one input follow it, sums a layer that feeds them directly."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    floats, fed, names = set[str](), set[str](), []
    for node in proto.graph.node:
        inputs, outputs = [name for name in node.input if name not in constants], set(node.output)
        if node.op_type in LAYERS:
            left = fresh = node.name in layers
        elif len(inputs) == 1:
            left, fresh = inputs[0] in floats, inputs[0] in fed
        else:
            left, fresh = any(name in fed for name in inputs), False
        if left:
            names.append(node.name)
        floats |= outputs if left else set()
        fed |= outputs if fresh else set()
    return names


def _biases(proto: onnx.ModelProto) -> list[str]:
    """Sums with a constant, such as the bias of a matrix product or of a position: OpenVINO fails at one in int8."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        constants |= set(node.output) if constants.issuperset(node.input) else set()
    return [node.name for node in proto.graph.node if node.op_type == "Add" and constants.intersection(node.input)]


def _swishes(proto: onnx.ModelProto) -> list[str]:
    """Products x * sigmoid(x): engines compute them as one operator, which a Q/DQ pair in between would prevent."""
    sigmoids = {node.output[0]: node.input[0] for node in proto.graph.node if node.op_type == "Sigmoid"}
    return [
        node.name
        for node in proto.graph.node
        if node.op_type == "Mul" and any(sigmoids.get(a) == b for a, b in (node.input[:2], node.input[1::-1]))
    ]


def _readers(proto: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The operators that read each value, as often as they do."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _pairs(
    proto: onnx.ModelProto, readers: Mapping[str, list[onnx.NodeProto]]
) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Quantisations of values, each read by one dequantisation alone, and that one."""
    quantised = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    after = [(node, readers.get(node.output[0], [])) for node in quantised]
    return [(node, found[0]) for node, found in after if [one.op_type for one in found] == ["DequantizeLinear"]]


def _bare_outputs(proto: onnx.ModelProto) -> None:
    """Takes the pair from before every output of a graph."""
    wanted = {output.name for output in proto.graph.output}
    makers = {name: node for node in proto.graph.node for name in node.output}
    for quantised, restored in _pairs(proto, _readers(proto)):
        if restored.output[0] in wanted:
            maker = makers[quantised.input[0]]
            maker.output[list(maker.output).index(quantised.input[0])] = restored.output[0]
            proto.graph.node.remove(quantised)
            proto.graph.node.remove(restored)


def _without_idle_pairs(proto: onnx.ModelProto, in_float: Callable[[onnx.NodeProto], bool]) -> None:
    """Takes out every pair that only operators in float read, which then read what was rounded."""
    readers = _readers(proto)
    for quantised, restored in _pairs(proto, readers):
        own = readers.get(restored.output[0], [])
        if own and all(map(in_float, own)):
            for node in own:
                for place, name in enumerate(node.input):
                    node.input[place] = quantised.input[0] if name == restored.output[0] else name
            proto.graph.node.remove(quantised)
            proto.graph.node.remove(restored)


def _in_order(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Initialisers by name: the quantiser's own order is a set's, which differs between processes."""
    ordered = sorted(proto.graph.initializer, key=lambda tensor: str(tensor.name))
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(ordered)
    proto.graph.ClearField("value_info")
    proto.ClearField("metadata_props")
    proto.producer_name, proto.producer_version = "ttl-deploy", ""
    return onnx.shape_inference.infer_shapes(proto)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """It recommends its own preparation on the root logger, which ours has made needless, and prints its steps."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
