"""Keeps an IR in float32 whoever compiles it: on a processor with bfloat16, OpenVINO's default is to compute in that.

An IR cannot set the inference precision: of its `runtime_options` the CPU plugin reads those of key-value caches and of
dynamic quantisation alone (`Config::applyRtInfo` in its sources). What it honours is a mark on an operation, `precise`.
The mark is lost where the plugin replaces an operation by another, so operations are written in the form that it keeps:
fused as its own passes would fuse them, means and maxima as the pooling they become, and a linear layer as a
convolution of one position, which it is.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np

_MARK = {"name": "precise", "version": "0"}
_UNMARKED = ("Parameter", "Result")
_SPACE = [2, 3]
"""Axes of height and width."""


def keep_form(model: Any) -> None:
    """Writes a model's operations in the form that the CPU plugin keeps, in place; what they compute stays.

    Args:
        model: An `openvino.Model` in float32.
    """
    from openvino._offline_transformations import apply_moc_transformations

    apply_moc_transformations(model, False)
    rewrites = {"ReduceMean": _pooled, "MaxPool": _older_max_pool, "MatMul": _convolved}
    for operation in model.get_ordered_ops():
        rewrite = rewrites.get(operation.get_type_name())
        written = rewrite(operation) if rewrite is not None else None
        if written is not None:
            for target in operation.output(0).get_target_inputs():
                target.replace_source_output(written.output(0))
    model.validate_nodes_and_infer_types()


def mark_precise(path: Path) -> None:
    """Marks every operation of an IR on disk; OpenVINO's Python API cannot set the attribute.

    Args:
        path: The XML.
    """
    tree = ET.parse(path)  # noqa: S314,RUF100 - written by OpenVINO a moment ago
    for layer in tree.getroot().iterfind("layers/layer"):
        if layer.get("type") not in _UNMARKED:
            ET.SubElement(_notes(layer), "attribute", _MARK)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _notes(layer: ET.Element) -> ET.Element:
    """The runtime information of a layer, which stands before its ports."""
    found = layer.find("rt_info")
    if found is None:
        found = ET.Element("rt_info")
        ports = [place for place, child in enumerate(layer) if child.tag in ("input", "output")]
        layer.insert(ports[0] if ports else len(layer), found)
    return found


def _pooled(mean: Any) -> Any:
    """A mean over all positions as an average pooling; None for other means."""
    from openvino import opset13

    axes, shape = mean.input_value(1).get_node(), mean.input_value(0).get_partial_shape()
    if axes.get_type_name() != "Constant" or not mean.get_attributes()["keep_dims"] or len(shape) != 4:
        return None
    known = all(shape[axis].is_static for axis in _SPACE)
    if sorted(int(axis) % 4 for axis in np.ravel(axes.data)) != _SPACE or not known:
        return None
    kernel = [shape[axis].get_length() for axis in _SPACE]
    return opset13.avg_pool(mean.input_value(0), [1, 1], [0, 0], [0, 0], kernel, True, name=mean.get_friendly_name())


def _older_max_pool(pool: Any) -> Any:
    """The first version of the operation, which has no indices; None where those are asked for."""
    from openvino import opset1

    facts = pool.get_attributes()
    indices = pool.get_output_size() > 1 and pool.output(1).get_target_inputs()
    if indices or set(facts.get("dilations", [1])) != {1}:
        return None
    names = ("strides", "pads_begin", "pads_end", "kernel", "rounding_type", "auto_pad")
    if facts["rounding_type"] == "ceil_torch":
        return None
    return opset1.max_pool(pool.input_value(0), *(facts[name] for name in names), name=pool.get_friendly_name())


def _convolved(product: Any) -> Any:
    """A product of (N, features) and a constant matrix as one position of a convolution; None for other products."""
    from openvino import opset13

    weight, facts = product.input_value(1).get_node(), product.get_attributes()
    plain = len(product.input_value(0).get_partial_shape()) == 2 and not facts["transpose_a"]
    if weight.get_type_name() != "Constant" or len(weight.get_output_shape(0)) != 2 or not plain:
        return None
    matrix = np.ascontiguousarray(weight.data if facts["transpose_b"] else weight.data.T)
    axes = opset13.constant(np.array(_SPACE, dtype=np.int64))
    positions, window = _unflattened(product.input_value(0), matrix.shape[1], axes)
    kernel = opset13.constant(matrix.reshape(len(matrix), *window))
    made = opset13.convolution(positions, kernel, [1, 1], [0, 0], [0, 0], [1, 1], name=product.get_friendly_name())
    return opset13.squeeze(made, axes)


def _unflattened(features: Any, count: int, axes: Any) -> tuple[Any, tuple[int, ...]]:
    """What (N, features) were before they were flattened, and its shape without the batch: (C, H, W)."""
    from openvino import opset13

    node = features.get_node()
    if node.get_type_name() in ("Reshape", "Squeeze"):
        shape = node.input_value(0).get_partial_shape()
        window = tuple(d.get_length() for d in list(shape)[1:] if d.is_static) if len(shape) == 4 else ()
        if len(window) == 3 and math.prod(window) == count:
            return node.input_value(0), window
    return opset13.unsqueeze(features, axes), (count, 1, 1)
