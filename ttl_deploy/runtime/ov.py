"""OpenVINO on CPU, reading its own IR or the ONNX file of ONNX Runtime: usually the fastest on an x86 processor.

Imports openvino when a session is opened, and never torch; nothing is cached on disk and nothing is sent.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import IntegrityError, TtlDeployError
from ttl_deploy.runtime.base import RUNTIMES, Runtime, Session, of_manifest
from ttl_deploy.runtime.binding import differences, refuse
from ttl_deploy.runtime.graph_facts import of_openvino
from ttl_deploy.runtime.graph_size import openvino_bytes, refuse_many, refuse_oversized
from ttl_deploy.runtime.ov_core import core, import_openvino


class OpenVinoSession(Session):
    """A graph compiled by OpenVINO for latency.

    Args:
        artifact: A format OpenVINO reads.
        threads: Inference threads.
        device: `cpu`.

    Raises:
        IntegrityError: OpenVINO refuses the model, or it is not what the manifest says.
    """

    def __init__(self, artifact: Artifact, *, threads: int, device: str) -> None:
        super().__init__(runtime="openvino", device=device, threads=threads, **of_manifest(artifact.manifest))
        self._tensor = import_openvino().Tensor
        self._model = artifact.model_path
        self._network = _read(artifact)
        self._wanted = (device.upper(), settings(artifact.manifest.precision, threads))
        self._name = artifact.manifest.output_name
        quantised = artifact.manifest.precision == "int8"
        self._fixable = not quantised or fixable(self._network)
        self._fixed: dict[int, tuple[Any, Any]] = {}
        # A quantised graph rounds some values otherwise where its shape is not fixed: no answer may hang on how many
        # images are asked for together.
        self._any = None if quantised and self._fixable else self._request(self._network)
        if self._any is None:
            self.expect(1)

    def expect(self, images: int) -> None:
        """Compiles the graph for just so many inputs, which takes a fraction of a second; see `Session`."""
        if self._fixable and images not in self._fixed:
            network = self._network.clone()
            network.reshape([images, *self.input_shape])
            self._fixed[images] = self._request(network)

    def _request(self, network: Any) -> tuple[Any, Any]:
        """A compiled network's request, and which of its outputs holds the logits."""
        try:
            compiled = core().compile_model(network, *self._wanted)
        except Exception as error:
            raise IntegrityError(f"OpenVINO refuses it: {_last_line(error)}", where=self._model) from error
        output = next(put for put in compiled.outputs if self._name in put.get_names())
        return compiled.create_infer_request(), output

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        if len(batch) in self._fixed:
            return self._infer(*self._fixed[len(batch)], batch)
        if self._any is not None:
            return self._infer(*self._any, batch)
        return np.concatenate(list(self._in_parts(batch)))

    def _in_parts(self, batch: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """The outputs of a batch for whose size there is no graph, by the largest graphs that there are."""
        start = 0
        while start < len(batch):
            size = max(size for size in self._fixed if size <= len(batch) - start)
            yield self._infer(*self._fixed[size], batch[start : start + size])
            start += size

    def _infer(self, request: Any, output: Any, batch: NDArray[Any]) -> NDArray[Any]:
        try:
            # Where the batch lies: the request neither copies it nor holds it longer than its next call.
            request.set_input_tensor(self._tensor(batch, shared_memory=True))
            request.infer()
        except Exception as error:
            raise IntegrityError(f"OpenVINO cannot run it: {_last_line(error)}", where=self._model) from error
        # The request owns its output buffer and overwrites it in the next call.
        return np.array(request.get_tensor(output).data)

    def _close(self) -> None:
        del self._any, self._fixed, self._network


def settings(precision: str, threads: int) -> dict[str, str]:
    """OpenVINO's properties for an artifact of a precision.

    Every artifact is told its precision: left alone, OpenVINO computes anything in bfloat16 on a processor that has
    it, and loses about three decimal digits. It does so too where float16 is asked of a processor without it, so fp16
    artifacts, whose weights are float16, are computed in fp32; likewise what is not quantised in an int8 one.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }


def _read(artifact: Artifact) -> Any:
    try:
        if artifact.manifest.format == "onnx":
            refuse_oversized(artifact.model_path, quick=True)
        network = core().read_model(artifact.model_path)
        facts = of_openvino(network)
        for put in (put for operation in network.get_ops() for put in operation.outputs()):
            refuse_many(put.get_node().get_friendly_name(), openvino_bytes(put), artifact.model_path)
    except TtlDeployError:
        raise
    except Exception as error:
        raise IntegrityError(f"OpenVINO refuses it: {_last_line(error)}", where=artifact.model_path) from error
    refuse(artifact, differences(artifact.manifest, facts))
    return network


def fixable(network: Any) -> bool:
    """Whether a quantised graph may be compiled for a fixed shape.

    Not where it lays rounded features side by side, as DenseNet's for ONNX Runtime does: OpenVINO 2026.4 crashes. What
    is restored from rounding comes out of a multiplication by its scale.
    """
    rank = len(network.input(0).partial_shape)
    return not any(
        put.get_source_output().get_node().get_type_name() == "Multiply"
        for operation in network.get_ops()
        if operation.get_type_name() == "Concat" and len(operation.output(0).partial_shape) == rank
        for put in operation.inputs()
    )


def _last_line(error: Exception) -> str:
    """OpenVINO prints where in its sources it failed, line by line, and the reason last."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _available() -> str | None:
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed (pip install openvino)"
    return None


_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
RUNTIMES.register(
    "openvino",
    Runtime(
        "openvino",
        ("openvino", "onnx"),
        ("cpu",),
        _available,
        OpenVinoSession,
        rank=20,
        quick={"int8": _INT8},
    ),
)
