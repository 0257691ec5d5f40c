"""What precision an artifact's graph has, read from its tensors: the bounds of parity follow it, not the manifest.

A layer's precision is the narrowest type that its weights, or an int8 input, pass through on their way into it. A graph
is int8 where any layer is (layers may be left in float), else what most of its weights are. One function per format;
engines that were built for a device (TensorRT) show no tensors, and their manifest's word stands.
"""

from __future__ import annotations

import json
import math
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import IntegrityError

if TYPE_CHECKING:
    import onnx

STRICTEST_FIRST = ("fp32", "tf32", "fp16", "bf16", "int8")

Layers = Iterator[tuple[str, int]]
"""Precision and number of weights of each layer."""

_ONNX_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ONNX_INT8_LAYERS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm")
_OPENVINO_LAYERS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
_OPENVINO_TYPES = {"f64": "fp32", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}
_PT2_TYPES = {6: "fp16", 7: "fp32", 8: "fp32", 13: "bf16"}
"""`ScalarType` of torch.export's schema; integers below are the narrow ones."""
_FAR = 8
"""Operators between a constant and its layer; a longer way is no weight's."""


def precision_of(artifact: Artifact) -> str | None:
    """The precision of an artifact's graph.

    Args:
        artifact: One whose engine has opened it, so that its file can be read.

    Returns:
        `fp32`, `fp16`, `bf16` or `int8`; None where the format does not show it.

    Raises:
        IntegrityError: Its graph is of a form that no exporter writes.
    """
    reader = _READERS.get(artifact.manifest.format)
    weights: Counter[str] = Counter()
    try:
        for precision, size in reader(artifact.model_path) if reader else ():
            weights[precision] += size
    except Exception as error:
        # The libraries' errors share no base class, and a graph may have any form.
        raise IntegrityError("the precision of its weights cannot be read", where=artifact.model_path) from error
    if weights["int8"]:
        return "int8"
    return max(STRICTEST_FIRST, key=weights.__getitem__) if weights.total() else None


def judged_precision(artifact: Artifact) -> tuple[str, str | None]:
    """The precision whose bounds an artifact has to keep.

    It is the stricter of what the graph is and what the manifest says, with one exception: a bf16 artifact of OpenVINO
    holds fp32 weights, and its session's settings make OpenVINO compute in bfloat16.

    Returns:
        The precision, and a sentence where the two differ.
    """
    said, found = artifact.manifest.precision, precision_of(artifact)
    if found is None or found == said or (said == "tf32" and found == "fp32") or _computed_in_bf16(artifact, found):
        return said, None
    strict = min((said, found), key=lambda name: STRICTEST_FIRST.index(name) if name in STRICTEST_FIRST else -1)
    return strict, f"judged as {strict}: the manifest says {said}, the graph's weights are {found}"


def _computed_in_bf16(artifact: Artifact, found: str) -> bool:
    from ttl_deploy.runtime import ov

    manifest = artifact.manifest
    hint = ov.settings(manifest.precision, 1)["INFERENCE_PRECISION_HINT"]
    return manifest.format == "openvino" and (found, hint) == ("fp32", "bf16")


def _narrowest(precisions: list[str]) -> str:
    return max(precisions, key=STRICTEST_FIRST.index)


def _of_onnx(path: Path) -> Layers:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in _ONNX_INT8_LAYERS:
            yield "int8", 1
        elif node.op_type in _ONNX_LAYERS:
            found, size = _traced(node.input[1], makers, constants)
            source = makers.get(node.input[0])
            rounded = source is not None and source.op_type == "DequantizeLinear"
            if size:
                yield _narrowest([*found, *(["int8"] if rounded else [])]), size


def _traced(
    name: str, makers: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> tuple[list[str], int]:
    """The precisions on the way from a constant, and its size; 0 where it does not come from one."""
    found: list[str] = []
    for _ in range(_FAR):
        node = makers.get(name)
        if name in constants or (node is not None and node.op_type == "Constant"):
            tensor = constants[name] if node is None else node.attribute[0].t
            return [*found, _onnx_type(tensor.data_type)], math.prod(tensor.dims)
        if node is None:
            break
        if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
            found.append("int8")
        elif node.op_type == "Cast":
            found.append(_onnx_type(next(a.i for a in node.attribute if a.name == "to")))
        name = node.input[0]
    return [], 0


def _onnx_type(code: int) -> str:
    from onnx import TensorProto

    if code in (TensorProto.FLOAT, TensorProto.DOUBLE):
        return "fp32"
    return {int(TensorProto.FLOAT16): "fp16", int(TensorProto.BFLOAT16): "bf16"}.get(code, "int8")


def _of_openvino(path: Path) -> Layers:
    from ttl_deploy.runtime.ov_core import core

    for operation in core().read_model(path).get_ops():
        if operation.get_type_name() in _OPENVINO_LAYERS:
            source, weights = (operation.input_value(k).get_node() for k in (0, 1))
            precisions, size = _way(weights)
            if size:
                yield _narrowest([*precisions, *(["int8"] if _rounds(source) else [])]), size


def _rounds(node: Any) -> bool:
    """Whether a FakeQuantize lies right before: alone, or as the pair that a Q/DQ graph becomes."""
    for _ in range(_FAR):
        if node.get_type_name() == "FakeQuantize":
            return True
        if node.get_type_name() not in ("Multiply", "Subtract", "Convert", "Reshape", "Squeeze", "Transpose"):
            break
        node = node.input_value(0).get_node()
    return False


def _way(node: Any) -> tuple[list[str], int]:
    found: list[str] = []
    for _ in range(_FAR):
        kind = node.get_type_name()
        if kind == "Constant":
            type_name = node.get_element_type().get_type_name()
            return [*found, _OPENVINO_TYPES.get(type_name, "int8")], math.prod(node.get_output_shape(0))
        if kind == "FakeQuantize":
            found.append("int8")
        if not node.get_input_size():
            break
        node = node.input_value(0).get_node()
    return [], 0


def _of_pt2(path: Path) -> Layers:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("weights_config.json")]
        entries = [entry for name in names for entry in json.loads(archive.read(name))["config"].values()]
    for entry in entries:
        meta = entry["tensor_meta"]
        sizes = [size["as_int"] for size in meta["sizes"]]
        if len(sizes) > 1:
            yield _PT2_TYPES.get(meta["dtype"], "int8"), math.prod(sizes)


def _of_torchscript(path: Path) -> Layers:
    import torch

    types = {torch.float32: "fp32", torch.float64: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    with warnings.catch_warnings():
        # TorchScript is deprecated, which who runs such an artifact has decided to bear.
        warnings.simplefilter("ignore")
        script: Any = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        graph = script.inlined_graph
    frozen = [
        node.t("value")
        for node in graph.findAllNodes("prim::Constant")
        if node.hasAttribute("value") and node.kindOf("value") == "t"
    ]
    for tensor in (*script.parameters(), *frozen):
        if tensor.ndim > 1:
            yield types.get(tensor.dtype, "int8"), tensor.numel()


_READERS: dict[str, Callable[[Path], Layers]] = {
    "onnx": _of_onnx,
    "openvino": _of_openvino,
    "pt2": _of_pt2,
    "torchscript": _of_torchscript,
}
