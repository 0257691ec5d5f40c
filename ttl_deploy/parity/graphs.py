"""Where two ONNX graphs part: every tensor that both compute is compared on a few images, in the order of computation.

Graphs run operator by operator, as written: an engine's fusions would hide what is inside. No torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.errors import IntegrityError
from ttl_deploy.runtime.ov_core import core
from ttl_deploy.spec import Record

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float64]
Engine = Literal["as written", "onnxruntime", "openvino"]
ENGINES: tuple[Engine, ...] = ("as written", "onnxruntime", "openvino")

_QUIET = 4
_SMALLEST = 1e-6
"""Below this a tensor counts as zero, and its error is taken against this."""


class NodeDifference(Record):
    """One tensor of both graphs.

    Attributes:
        node: Name of the candidate's node that computes it, or its output's name where it has none.
        op: Operator.
        tensor: The candidate's tensor.
        partner: The reference's tensor.
        shape: Its shape, batch included.
        error: Largest absolute difference over the largest absolute value of the reference; None where the candidate
            is not finite.
        inputs: The node's constants, where a wrong weight would be.
    """

    node: str
    op: str
    tensor: str
    partner: str
    shape: tuple[int, ...]
    error: float | None
    inputs: tuple[str, ...]

    def exceeds(self, tolerance: float) -> bool:
        """Whether the two differ by more."""
        return self.error is None or self.error > tolerance


class GraphComparison(Record):
    """The tensors of two graphs.

    Attributes:
        matched: `name`, or `order` where the names do not fit and the k-th operator of a type stands for the k-th.
        tolerance: The error from which on a tensor differs.
        first: The first tensor, in the order of computation, that differs; None where none does.
        nodes: All that were compared, in that order.
    """

    matched: Literal["name", "order"]
    tolerance: float
    first: NodeDifference | None
    nodes: tuple[NodeDifference, ...]

    @property
    def sentence(self) -> str:
        """The finding in words."""
        how = "by name" if self.matched == "name" else "by the order of their operators, because their names differ"
        compared = f"{len(self.nodes)} tensors matched {how}"
        if self.first is None:
            return f"no tensor inside differs by more than {self.tolerance:g} of its range ({compared})"
        size = "is not finite" if self.first.error is None else f"differs by {self.first.error:.2g} of its range"
        shape = "x".join(map(str, self.first.shape))
        constants = f", constants {', '.join(self.first.inputs)}" if self.first.inputs else ""
        return f"first at node {self.first.node} ({self.first.op}, {shape}{constants}): {size} ({compared})"


def compare_graphs(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    inputs: NDArray[np.float32],
    *,
    tolerance: float,
    engine: Engine = "as written",
) -> GraphComparison:
    """Finds the first tensor on which two graphs differ.

    Args:
        reference: A graph with one input; run as written.
        candidate: Another, of the same input.
        inputs: (N, *input shape), a few images.
        tolerance: The error from which on a tensor differs, as a fraction of its range.
        engine: What runs the candidate.
    """
    pairs, matched = _pairs(reference, candidate)
    values = tensors(reference, inputs, [partner for _node, partner in pairs])
    others = tensors(candidate, inputs, [node.output[0] for node, _partner in pairs], engine)
    constants = {tensor.name for tensor in candidate.graph.initializer}
    nodes = tuple(
        _difference(node, partner, values[partner], others[node.output[0]], constants)
        for node, partner in pairs
        if values[partner].shape == others[node.output[0]].shape and values[partner].size
    )
    first = next((node for node in nodes if node.exceeds(tolerance)), None)
    return GraphComparison(matched=matched, tolerance=tolerance, first=first, nodes=nodes)


def tensors(
    model: onnx.ModelProto, inputs: NDArray[np.float32], names: Sequence[str], engine: Engine = "as written"
) -> dict[str, NDArray[Any]]:
    """Values of a graph's tensors.

    Args:
        model: A graph with one input.
        inputs: Its input.
        names: The tensors.
        engine: What runs it. Tensors that are asked for cannot be fused away.
    """
    wanted = list(dict.fromkeys(names))
    content = _exposing(model, wanted)
    batch: NDArray[Any] = inputs.astype(_input_type(model), copy=False)
    if engine == "openvino":
        return _openvino(content, batch, wanted)
    return _onnxruntime(content, model.graph.input[0].name, batch, wanted, optimise=engine == "onnxruntime")


def logits(model: onnx.ModelProto, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a graph, run as written, makes of its input: its first output, (N, classes)."""
    name = model.graph.output[0].name
    return np.asarray(tensors(model, inputs, [name])[name], dtype=np.float32)


def takes_images(model: onnx.ModelProto) -> bool:
    """Whether a graph maps preprocessed images to logits, with no preprocessing or activation of its own."""
    last = next((node.op_type for node in model.graph.node if model.graph.output[0].name in node.output), "")
    return len(model.graph.input) == 1 and _input_type(model).kind == "f" and last not in ("Softmax", "Sigmoid")


def _input_type(model: onnx.ModelProto) -> np.dtype[Any]:
    import onnx

    kind = model.graph.input[0].type.tensor_type.elem_type
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))


def _exposing(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """The graph with more outputs; the caller's is left alone."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {output.name for output in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return bytes(copy.SerializeToString())


def _onnxruntime(
    content: bytes, name: str, inputs: NDArray[Any], wanted: list[str], *, optimise: bool
) -> dict[str, NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return dict(zip(wanted, session.run(wanted, {name: inputs}), strict=True))
    except Exception as error:  # ONNX Runtime's errors share no base class but this
        raise IntegrityError(f"ONNX Runtime cannot run the graph as it is written: {error}") from error


def _openvino(content: bytes, inputs: NDArray[Any], wanted: list[str]) -> dict[str, NDArray[Any]]:
    compiled = core().compile_model(core().read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled([inputs])
    return {name: np.array(results[name]) for name in wanted}


def _pairs(
    reference: onnx.ModelProto, candidate: onnx.ModelProto
) -> tuple[list[tuple[onnx.NodeProto, str]], Literal["name", "order"]]:
    """The candidate's nodes, in the order of computation, with the tensor of the reference that each should equal."""
    known = {node.output[0]: node.op_type for node in _nodes(reference)}
    named = [(node, node.output[0]) for node in _nodes(candidate) if known.get(node.output[0]) == node.op_type]
    if 2 * len(named) >= len(known):
        return named, "name"
    return list(_in_order(reference, candidate)), "order"


def _in_order(reference: onnx.ModelProto, candidate: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Pairs the k-th operator of a type with the k-th, for the types of which both have equally many."""
    first, second = _by_type(reference), _by_type(candidate)
    same = {op for op in first if len(first[op]) == len(second.get(op, ()))}
    place: dict[str, int] = defaultdict(int)
    for node in _nodes(candidate):
        if node.op_type in same:
            yield node, first[node.op_type][place[node.op_type]].output[0]
            place[node.op_type] += 1


def _by_type(model: onnx.ModelProto) -> Mapping[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in _nodes(model):
        found[node.op_type].append(node)
    return found


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """What computes a tensor, in an order of computation that the file does not decide: depth first from the output.

    Two files of one network may list its branches in any order. Constants and shapes are left out.
    """
    makers = {name: node for node in model.graph.node for name in node.output if name}
    done: set[str] = set()
    path = [model.graph.output[0].name]
    while path:
        node = makers.get(path[-1])
        waiting = [name for name in (node.input if node else ()) if name in makers and name not in done]
        if waiting and path[-1] not in done:
            path.append(waiting[0])
            continue
        name = path.pop()
        if node is None or name in done:
            continue
        done.update(node.output)
        if node.op_type not in ("Constant", "Shape"):
            yield node


def _difference(
    node: onnx.NodeProto, partner: str, reference: NDArray[Any], candidate: NDArray[Any], constants: set[str]
) -> NodeDifference:
    one, other = np.asarray(reference, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    error = None
    if np.isfinite(other).all():
        error = float(np.abs(one - other).max() / max(float(np.abs(one).max()), _SMALLEST))
    return NodeDifference(
        node=node.name or node.output[0],
        op=node.op_type,
        tensor=node.output[0],
        partner=partner,
        shape=other.shape,
        error=error,
        inputs=tuple(name for name in node.input if name in constants),
    )
