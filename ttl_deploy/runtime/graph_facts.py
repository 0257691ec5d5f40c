"""What a model file itself says: its inputs and outputs, what its numbers are stored as, what it ends in, its metadata.

A manifest can be edited without the graph; these facts cannot, so they decide where the two differ. Nothing is
executed, and no torch imported. ONNX is read with onnx, which a deployment machine need not have: an open session tells
most of it too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttl_deploy.runtime.ov_core import core

if TYPE_CHECKING:
    import onnx

PREFIX = "ttl_deploy."
"""Of the metadata that this package's exporters write."""

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
_PASSED_ON = ("Cast", "Identity", "Convert")
"""Operators that change no value: what is before them is what the graph ends in."""


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Attributes:
        names: What it is called; OpenVINO knows several names for one.
        type: NumPy's name of the type, such as `float32`.
        shape: None where a dimension is free.
    """

    names: tuple[str, ...]
    type: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class GraphFacts:
    """What a graph is.

    Attributes:
        inputs: In order.
        outputs: In order.
        metadata: What the exporter wrote into the file, without `PREFIX`.
        activation: What it ends in: `none`, `softmax` or `sigmoid`; None where its reader does not tell.
        numbers: How many numbers its constants hold, by NumPy's name of the type they are stored in; None likewise.
        quantised: Whether it quantises, by Q/DQ pairs or fake quantisers.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: Mapping[str, str]
    activation: str | None = None
    numbers: Mapping[str, int] | None = None
    quantised: bool = False

    @property
    def precision(self) -> str | None:
        """`int8` where it quantises, else the type that most of its floating-point numbers are stored in.

        OpenVINO's bf16 is a way to compute with float32 weights, so such an IR is `fp32`. None where none was counted.
        """
        if self.numbers is None:
            return None
        if self.quantised:
            return "int8"
        floats = {name: count for name, count in self.numbers.items() if name in _PRECISIONS}
        return _PRECISIONS[max(floats, key=lambda name: floats[name])] if floats else "fp32"


def graph_facts(model_file: Path, format: str) -> GraphFacts | None:
    """Reads what a model file says.

    Args:
        model_file: `model.onnx` or `model.xml`; its weights beside it are not read where they are a file of their own.
        format: Of the artifact; only `onnx` and `openvino` hold a graph that can be read without its engine.

    Returns:
        The facts; None for other formats, and where the file is no such graph (its engine says why).
    """
    reader = _READERS.get(format)
    try:
        return reader(model_file) if reader is not None else None
    except Exception:  # noqa: BLE001,RUF100 - protobuf's and OpenVINO's errors share no base class but this
        return None


def of_onnx(model: onnx.ModelProto) -> GraphFacts:
    """What an ONNX model says."""
    graph = model.graph
    initialisers = {tensor.name for tensor in graph.initializer}
    return GraphFacts(
        inputs=tuple(_onnx_port(put) for put in graph.input if put.name not in initialisers),
        outputs=tuple(_onnx_port(put) for put in graph.output),
        activation=_onnx_activation(graph),
        numbers=_total((_onnx_type(t.data_type), math.prod(t.dims)) for t in _onnx_constants(graph)),
        quantised=any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.node),
        metadata=_own({p.key: p.value for p in model.metadata_props}),
    )


def of_openvino(model: Any) -> GraphFacts:
    """What an `openvino.Model` says."""
    operations = model.get_ops()
    constants = [operation for operation in operations if operation.get_type_name() == "Constant"]
    numbers = _total((_openvino_type(c.get_element_type()), math.prod(c.get_output_shape(0))) for c in constants)
    return GraphFacts(
        inputs=tuple(map(_openvino_port, model.inputs)),
        outputs=tuple(map(_openvino_port, model.outputs)),
        activation=_openvino_activation(model),
        numbers=numbers,
        quantised=any(operation.get_type_name() == "FakeQuantize" for operation in operations) or "int8" in numbers,
        metadata=_openvino_metadata(model),
    )


def of_onnxruntime(session: Any) -> GraphFacts:
    """What an `onnxruntime.InferenceSession` says: its ends and its metadata, not what is inside."""
    return GraphFacts(
        inputs=tuple(map(_onnxruntime_port, session.get_inputs())),
        outputs=tuple(map(_onnxruntime_port, session.get_outputs())),
        metadata=_own(session.get_modelmeta().custom_metadata_map),
    )


def _read_onnx(path: Path) -> GraphFacts:
    import onnx

    return of_onnx(onnx.load(path, load_external_data=False))


def _read_openvino(path: Path) -> GraphFacts:
    return of_openvino(core().read_model(path))


_READERS: Mapping[str, Callable[[Path], GraphFacts]] = {"onnx": _read_onnx, "openvino": _read_openvino}


def _total(counted: Iterator[tuple[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for name, count in counted:
        total[name] += count
    return dict(total)


def _own(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}


def _onnxruntime_port(put: Any) -> Port:
    name = put.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else None for size in put.shape)
    return Port((put.name,), {"float": "float32", "double": "float64"}.get(name, name), shape)


def _onnx_port(put: onnx.ValueInfoProto) -> Port:
    kind = put.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return Port((put.name,), _onnx_type(kind.elem_type), dims)


def _onnx_type(code: int) -> str:
    import onnx

    name = str(onnx.TensorProto.DataType.Name(code)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _onnx_constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initialisers, and the tensors of nodes that hold a constant."""
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":
            yield from (attribute.t for attribute in node.attribute if attribute.name == "value")


def _onnx_activation(graph: onnx.GraphProto) -> str:
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name) if graph.output else None
    while node is not None and node.op_type in _PASSED_ON:
        node = makers.get(node.input[0])
    return _activation(node.op_type if node is not None else "")


def _activation(operator: str) -> str:
    return {"softmax": "softmax", "sigmoid": "sigmoid"}.get(operator.lower(), "none")


def _openvino_port(port: Any) -> Port:
    shape = tuple(d.get_length() if d.is_static else None for d in port.get_partial_shape())
    return Port(tuple(sorted(port.get_names())), _openvino_type(port.get_element_type()), shape)


def _openvino_type(element: Any) -> str:
    return {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64", "u8": "uint8", "i8": "int8"}.get(
        element.get_type_name(), str(element.get_type_name())
    )


def _openvino_activation(model: Any) -> str:
    node = model.outputs[0].get_node().input_value(0).get_node()
    while node.get_type_name() in _PASSED_ON:
        node = node.input_value(0).get_node()
    return _activation(node.get_type_name())


def _openvino_metadata(model: Any) -> dict[str, str]:
    """OpenVINO keeps an ONNX file's metadata in the section `framework`."""
    if not model.has_rt_info(["framework"]):
        return {}
    section = model.get_rt_info(["framework"]).value
    return _own({key: str(getattr(value, "value", value)) for key, value in section.items()})
