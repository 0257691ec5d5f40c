"""How long a processor computes each layer of a graph, as the engine that will run it says of its own kernels."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from numpy.typing import NDArray

from ttl_deploy.runtime import ov, suitable
from ttl_deploy.runtime.ort import cpu_options
from ttl_deploy.runtime.ov_core import core

RUNS = 30
"""Of one image; a kernel's time is the median of them."""
_WARM_UP = 3
_FUSED = re.compile(r"(_nchwc|_token_\d+)*_kernel_time$|/.*")
"""What engines put behind the name of the operator, or of the last of those, that a kernel computes."""

Kernel = tuple[str, float]
"""The operator that it computes, as well as the engine says, and milliseconds."""


def engine_of_int8(fused: bool) -> str | None:
    """The engine that runs an int8 graph on this machine's processor, the quick one before the others.

    Args:
        fused: The graph is for OpenVINO alone.

    Returns:
        None where it tells no times of its kernels.
    """
    engines = suitable("openvino" if fused else "onnx", "int8", "cpu")
    chosen = next((engine for engine in engines if engine.is_quick("int8")), next(iter(engines), None))
    return chosen.name if chosen is not None and chosen.name in _PROFILES else None


def layer_times(
    proto: onnx.ModelProto, layers: Collection[str], image: NDArray[np.float32], *, engine: str, threads: int
) -> dict[str, float]:
    """Milliseconds of every layer, with what is computed after it and before the next.

    Args:
        proto: In float or with Q/DQ pairs.
        layers: Names of its operators with weights.
        image: (1, ...) what it takes.
        engine: `onnxruntime` or `openvino`.
        threads: Of the engine.

    Returns:
        Of every layer; 0 where its kernel goes by the name of another's.
    """
    owner, found = _owners(proto, layers), dict.fromkeys(layers, 0.0)
    last = None
    for operator, milliseconds in _PROFILES[engine](proto, image, threads):
        # What goes by a name of the engine's own is computed with what was computed before.
        last = owner.get(operator, last)
        if last is not None:
            found[last] += milliseconds
    return found


def _owners(proto: onnx.ModelProto, layers: Collection[str]) -> Mapping[str, str]:
    """The layer to which an operator or a value belongs: itself, or the one that its first input comes from."""
    owner: dict[str, str] = {}
    for node in proto.graph.node:
        own = node.name if node.name in layers else next((owner[name] for name in node.input if name in owner), None)
        if own is not None:
            owner |= dict.fromkeys((node.name, *node.output), own)
    return owner


def _in_onnxruntime(proto: onnx.ModelProto, image: NDArray[np.float32], threads: int) -> list[Kernel]:
    import onnxruntime

    options = cpu_options(onnxruntime, threads)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for _run in range(_WARM_UP + RUNS):
            session.run(None, {proto.graph.input[0].name: image})
        events = json.loads(Path(session.end_profiling()).read_text())
    seen = [(event["name"], event["dur"] / 1e3) for event in events if event["name"].endswith("_kernel_time")]
    each = len(seen) // (_WARM_UP + RUNS)
    return _medians([seen[start : start + each] for start in range(0, len(seen), each)])


def _in_openvino(proto: onnx.ModelProto, image: NDArray[np.float32], threads: int) -> list[Kernel]:
    network = core().read_model(proto.SerializeToString())
    if ov.fixable(network):
        network.reshape(list(image.shape))
    compiled = core().compile_model(network, "CPU", {**ov.settings("int8", threads), "PERF_COUNT": "YES"})
    request = compiled.create_infer_request()

    def seen() -> Iterator[list[Kernel]]:
        for _run in range(_WARM_UP + RUNS):
            request.infer([image])
            yield [(kernel.node_name, kernel.real_time.total_seconds() * 1e3) for kernel in request.profiling_info]

    return _medians(list(seen()))


def _medians(runs: Sequence[Sequence[Kernel]]) -> list[Kernel]:
    """Of the kernels of a run, which every run has in the same order."""
    kernels = zip(*runs[_WARM_UP:], strict=True)
    return [(_FUSED.sub("", times[0][0]), median(time for _name, time in times)) for times in kernels]


_PROFILES: dict[str, Callable[[onnx.ModelProto, NDArray[np.float32], int], list[Kernel]]] = {
    "onnxruntime": _in_onnxruntime,
    "openvino": _in_openvino,
}
