"""OpenVINO on CPU, reading the same ONNX file as ONNX Runtime: usually the fastest on an x86 processor.

Imports openvino when a session is opened, and never torch; nothing is cached on disk and nothing is sent.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import IntegrityError
from ttl_deploy.runtime.base import RUNTIMES, Runtime, Session


class OpenVinoSession(Session):
    """A graph compiled by OpenVINO for latency.

    Args:
        artifact: A format OpenVINO reads.
        threads: Inference threads.
        device: `cpu`.

    Raises:
        IntegrityError: OpenVINO refuses the model, or its input and output are not the manifest's.
    """

    def __init__(self, artifact: Artifact, *, threads: int, device: str) -> None:
        spec = artifact.manifest.model
        super().__init__(
            runtime="openvino", device=device, threads=threads, classes=spec.classes, input_shape=spec.input_shape
        )
        compiled = _compile(artifact, threads, device)
        self._output = _output(artifact, compiled)
        self._request = compiled.create_infer_request()

    def _run(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        # The request owns its output buffer and overwrites it in the next call.
        results = self._request.infer([batch], share_inputs=True, share_outputs=True)
        return np.array(results[self._output])

    def _close(self) -> None:
        del self._request, self._output


def settings(precision: str, threads: int) -> dict[str, str]:
    """OpenVINO's properties for an artifact of a precision.

    A fp32 graph is told to stay fp32: on a processor with bfloat16, OpenVINO otherwise computes in that and loses
    about three decimal digits. Other precisions are left to the graph and to OpenVINO.
    """
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1"}
    return properties | ({"INFERENCE_PRECISION_HINT": "f32"} if precision == "fp32" else {})


def _compile(artifact: Artifact, threads: int, device: str) -> Any:
    import openvino

    try:
        core = openvino.Core()
        model = core.read_model(artifact.model_path)
        return core.compile_model(model, device.upper(), settings(artifact.manifest.precision, threads))
    except Exception as error:
        raise IntegrityError(f"OpenVINO refuses it: {_last_line(error)}", where=artifact.model_path) from error


def _output(artifact: Artifact, compiled: Any) -> Any:
    """The port of the manifest's output."""
    manifest = artifact.manifest
    inputs = [port.get_names() for port in compiled.inputs]
    for port in compiled.outputs:
        if manifest.output_name in port.get_names() and len(inputs) == 1 and manifest.input_name in inputs[0]:
            return port
    raise IntegrityError(
        f"the graph does not map {manifest.input_name} to {manifest.output_name}, as the manifest says",
        where=artifact.model_path,
    )


def _last_line(error: Exception) -> str:
    """OpenVINO prints where in its sources it failed, line by line, and the reason last."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _available() -> str | None:
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed (pip install openvino)"
    return None


RUNTIMES.register("openvino", Runtime("openvino", ("onnx",), ("cpu",), _available, OpenVinoSession, rank=20))
