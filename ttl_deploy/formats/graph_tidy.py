"""Makes an exported ONNX graph readable and minimal: the network's own names, one pooling operator, no exporter notes.

It also counts what a graph holds, so that an export can show that only the layers that run are in the file.
"""

from __future__ import annotations

import ast
import collections
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ttl_deploy.errors import TtlDeployError
from ttl_deploy.transfer import TransferModel

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
TRAINING_LEFTOVERS = frozenset({"Dropout", "Identity"})
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Held:
    """What a graph holds.

    Attributes:
        parameters: Floating-point numbers of all initialisers.
        kept_norm_channels: Channels of batch norms that are still nodes of their own, because no convolution precedes
            them (DenseNet norms what it concatenated).
        operators: Nodes by operator.
    """

    parameters: int
    kept_norm_channels: int
    operators: Mapping[str, int]


_MASK, _TABLE, _INDEX = ".attn_mask", ".relative_position_bias_table", ".relative_position_index"
"""Ends of the names that timm and torchvision give to what attention within windows holds."""

_WITH_CONSTANTS = frozenset({"Clip", "InstanceNormalization"})


def tidy(proto: onnx.ModelProto, model: TransferModel) -> onnx.ModelProto:
    """Names and cleans the graph of an exported model, in place.

    Args:
        proto: As PyTorch's exporter gives it.
        model: What was exported.

    Raises:
        TtlDeployError: The graph holds a training leftover or more numbers than the model runs.
    """
    _pool_by_one_operator(proto)
    _name_nodes(proto, model)
    _drop_notes(proto)
    proto = onnx.shape_inference.infer_shapes(proto)
    _refuse_leftovers(proto, model)
    return proto


def held(proto: onnx.ModelProto) -> Held:
    """Counts a graph.

    The bounds of a clipped activation (ReLU6) and the factors of a resize are no parameters, nor are the ones and zeros
    of the instance norm that PyTorch's exporter writes for a group norm, nor is a single number, such as the scale of
    attention.
    """
    constants = {name for node in proto.graph.node if node.op_type in _WITH_CONSTANTS for name in node.input[1:]}
    factors = {name for node in proto.graph.node if node.op_type == "Resize" for name in node.input[1:]}
    stored = [t for t in proto.graph.initializer if t.data_type in FLOATS and t.name not in factors]
    stored = [t for t in stored if t.name not in constants or not _is_constant(t)]
    sizes = {t.name: math.prod(t.dims) for t in stored}
    norms = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    return Held(
        sum(size for size in sizes.values() if size > 1),
        sum(sizes[node.input[1]] for node in norms),
        dict(sorted(collections.Counter(node.op_type for node in proto.graph.node).items())),
    )


def _is_constant(tensor: onnx.TensorProto) -> bool:
    """A single number, or ones or zeros."""
    values = numpy_helper.to_array(tensor)
    return values.size == 1 or bool((values == values.flat[0]).all() and values.flat[0] in (0, 1))


def expected_parameters(model: nn.Module, kept_norm_channels: int) -> int:
    """Numbers in the file of a model whose batch norms were folded, all but some.

    A folded norm of C channels leaves C numbers, the convolution's bias, of its 2 C parameters and of a bias that the
    convolution had. A norm that stays a node keeps them and adds its 2 C running statistics, which `complexity` does
    not count as parameters. Of attention within windows, a table of position biases becomes what is looked up in it,
    and masks are numbers too.

    Args:
        model: The PyTorch model; where a convolution before a batch norm has a bias, both are in one sequence.
        kept_norm_channels: Channels of the norms that stay nodes.
    """
    parameters = sum(p.numel() for p in model.parameters())
    channels = sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d))
    other = _of_windows(model) - _biases_before_norms(model)
    return parameters + other - (channels - kept_norm_channels) + 2 * kept_norm_channels


def _of_windows(model: nn.Module) -> int:
    buffers = dict(model.named_buffers())
    masks = sum(buffer.numel() for name, buffer in buffers.items() if name.endswith(_MASK))
    tables = {n.removesuffix(_TABLE): table for n, table in model.named_parameters() if n.endswith(_TABLE)}
    looked_up = (buffers[place + _INDEX].numel() * table.shape[1] - table.numel() for place, table in tables.items())
    return masks + sum(looked_up)


def _biases_before_norms(model: nn.Module) -> int:
    sequences = (module for module in model.modules() if isinstance(module, nn.Sequential))
    pairs = (pair for sequence in sequences for pair in itertools.pairwise(sequence))
    return sum(
        layer.out_channels
        for layer, norm in pairs
        if isinstance(layer, nn.Conv2d | nn.Conv3d)
        and layer.bias is not None
        and isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d)
    )


def _refuse_leftovers(proto: onnx.ModelProto, model: TransferModel) -> None:
    found = held(proto)
    left = TRAINING_LEFTOVERS.intersection(found.operators)
    if left:
        raise TtlDeployError(f"PyTorch left {', '.join(sorted(left))} nodes of training in the graph of {_what(model)}")
    most = expected_parameters(model, found.kept_norm_channels)
    if found.parameters > most:
        raise TtlDeployError(
            f"the graph of {_what(model)} holds {found.parameters:,} numbers, its layers have {most:,}: "
            "layers that do not run are in it"
        )


def _what(model: TransferModel) -> str:
    return " ".join(part for part in (model.spec.backbone, model.spec.method, model.spec.cut) if part)


def _name_nodes(proto: onnx.ModelProto, model: TransferModel) -> None:
    """Nodes, values and weights get the network's own names, as in its state dict."""
    prefixes = {f"units.{unit.name.replace('.', '_')}": unit.prefix for unit in model.chain}
    renamed = {t.name: _network_name(t.name, prefixes) for t in proto.graph.initializer}
    _keep_unique(renamed)
    fixed = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    leaves = {name for name, module in model.named_modules() if not any(module.children())}
    taken: collections.Counter[str] = collections.Counter()
    for node in proto.graph.node:
        name = _node_name(node, leaves, prefixes)
        node.name = name if not taken[name] else f"{name}_{taken[name]}"
        taken[name] += 1
        renamed.update({o: node.name for o in node.output if o not in fixed})
    for node in proto.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for tensor in proto.graph.initializer:
        tensor.name = renamed[tensor.name]


def _node_name(node: onnx.NodeProto, leaves: set[str], prefixes: Mapping[str, str]) -> str:
    """The weighted layer's name; else the module's, followed by the operator where the module holds several."""
    if node.op_type in ("Conv", "Gemm", "MatMul", "BatchNormalization") and node.input[1].endswith(".weight"):
        return _network_name(node.input[1].removesuffix(".weight"), prefixes)
    scopes = ast.literal_eval(next((p.value for p in node.metadata_props if p.key == _SCOPES), "['', '']"))
    path = scopes[-2] if len(scopes) > 1 else ""
    name = _network_name(path, prefixes)
    return name if path in leaves and name else ".".join(part for part in (name, node.op_type.lower()) if part)


def _network_name(name: str, prefixes: Mapping[str, str]) -> str:
    """`units.layer3_3.conv2` becomes `layer3.3.conv2`."""
    unit = ".".join(name.split(".")[:2])
    if unit not in prefixes:
        return name
    rest = name.removeprefix(unit).removeprefix(".")
    return prefixes[unit] + rest if rest else prefixes[unit].rstrip(".")


def _keep_unique(renamed: dict[str, str]) -> None:
    """Two tensors never share a name, whatever a third-party backbone's prefixes are."""
    seen: set[str] = set()
    for old, new in renamed.items():
        renamed[old] = old if new in seen else new
        seen.add(renamed[old])


def _pool_by_one_operator(proto: onnx.ModelProto) -> None:
    """Averages over all positions become GlobalAveragePool, which every engine and quantiser knows."""
    constants = {t.name: t for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        axes = sorted(int(a) % 4 for a in numpy_helper.to_array(constants[node.input[1]]))
        kept = all(a.i for a in node.attribute if a.name == "keepdims")
        if axes == [2, 3] and kept:
            notes = list(node.metadata_props)
            node.CopyFrom(helper.make_node("GlobalAveragePool", node.input[:1], node.output))
            node.metadata_props.extend(notes)
    _drop_unused(proto)


def _drop_unused(proto: onnx.ModelProto) -> None:
    used = {name for node in proto.graph.node for name in node.input}
    kept = [t for t in proto.graph.initializer if t.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)


def _drop_notes(proto: onnx.ModelProto) -> None:
    """Names the batch dimension and drops the exporter's notes, which hold source paths of the exporting machine."""
    symbol = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*proto.graph.input, *proto.graph.output):
        value.ClearField("metadata_props")
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == symbol:
                dimension.dim_param = "batch"
    for node in proto.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for field in ("metadata_props", "value_info"):
        proto.graph.ClearField(field)
    for tensor in proto.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    proto.graph.name = "ttl_deploy"
    proto.ClearField("functions")
