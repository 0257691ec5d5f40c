"""OpenVINO on CPU, reading its own IR or the ONNX file of ONNX Runtime: usually the fastest on an x86 processor.

Imports openvino when a session is opened, and never torch; nothing is cached on disk and nothing is sent.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import IntegrityError, TtlDeployError
from ttl_deploy.runtime.base import RUNTIMES, Runtime, Session, of_manifest
from ttl_deploy.runtime.binding import differences, refuse
from ttl_deploy.runtime.graph_facts import of_openvino
from ttl_deploy.runtime.graph_size import openvino_bytes, refuse_many, refuse_oversized
from ttl_deploy.runtime.ov_core import core


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
        self._model = artifact.model_path
        compiled = _compile(artifact, threads, device)
        self._output = next(put for put in compiled.outputs if artifact.manifest.output_name in put.get_names())
        self._request = compiled.create_infer_request()

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        # The request owns its output buffer and overwrites it in the next call.
        try:
            results = self._request.infer([batch], share_inputs=True, share_outputs=True)
        except Exception as error:
            raise IntegrityError(f"OpenVINO cannot run it: {_last_line(error)}", where=self._model) from error
        return np.array(results[self._output])

    def _close(self) -> None:
        del self._request, self._output


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


def _compile(artifact: Artifact, threads: int, device: str) -> Any:
    try:
        if artifact.manifest.format == "onnx":
            refuse_oversized(artifact.model_path, quick=True)
        model = core().read_model(artifact.model_path)
        facts = of_openvino(model)
        for put in (put for operation in model.get_ops() for put in operation.outputs()):
            refuse_many(put.get_node().get_friendly_name(), openvino_bytes(put), artifact.model_path)
        compiled = core().compile_model(model, device.upper(), settings(artifact.manifest.precision, threads))
    except TtlDeployError:
        raise
    except Exception as error:
        raise IntegrityError(f"OpenVINO refuses it: {_last_line(error)}", where=artifact.model_path) from error
    refuse(artifact, differences(artifact.manifest, facts))
    return compiled


def _last_line(error: Exception) -> str:
    """OpenVINO prints where in its sources it failed, line by line, and the reason last."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _available() -> str | None:
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed (pip install openvino)"
    return None


RUNTIMES.register("openvino", Runtime("openvino", ("openvino", "onnx"), ("cpu",), _available, OpenVinoSession, rank=20))
