"""Which engines only read numbers and names of an artifact, and which run native code that it brings.

A graph of ONNX or OpenVINO is data: the engine computes known operators from it, and `torch_guard` makes the same sure
of PyTorch's programs and scripts before PyTorch sees them. Engines of TensorRT and packages of AOTInductor were
compiled; whoever made one can have it do whatever its user may do, and no reader can tell. They run only where somebody
answers for them: the key that signed the artifact, the user's word, or this process, which made it itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import IntegrityError

_ENGINE = "a TensorRT engine, which is compiled and may bring libraries"

NATIVE: Mapping[str, str | None] = {
    "onnxruntime": None,
    "onnxruntime-tensorrt": None,
    "openvino": None,
    "torch": None,
    "torch-aot": "an AOTInductor package, which is a shared library",
    "torch-tensorrt": "a program with TensorRT engines inside, which are compiled",
    "tensorrt": _ENGINE,
    "tensorrt-cuda-graph": _ENGINE,
    "tensorrt-rtx": _ENGINE,
    "tensorrt-rtx-cuda-graph": _ENGINE,
}
"""By the runtime's name: what native code of an artifact it runs, None where an artifact is data to it.

A runtime that is not here, such as another package's, is taken to run native code. An ONNX graph can hold a finished
engine too, as an `EPContext`; no runtime here opens such a one.
"""

CONTEXT = b"EPContext"
"""The ONNX operator whose attribute is a compiled engine, or the path of one; its name stands in the file as it is."""


def native_code(runtime: str) -> str | None:
    """What native code of an artifact a runtime runs, in words; None where an artifact is data to it."""
    return NATIVE.get(runtime, "what its maker alone knows")


def refuse_native(artifact: Artifact, runtime: str) -> None:
    """Raises `IntegrityError` where a runtime would run native code of an artifact for which nobody answers."""
    what = native_code(runtime)
    if what is not None and not artifact.trusted:
        raise IntegrityError(
            f"runtime {runtime} would run native code: {what}",
            where=artifact.folder,
            fix="pass --key k.pub.pem if its maker has signed it, or --trust if you know where it comes from",
        )


def refuse_context(artifact: Artifact) -> None:
    """Raises `IntegrityError` where an ONNX graph holds a compiled engine; exports of this program never do."""
    if CONTEXT in artifact.model_path.read_bytes():
        raise IntegrityError(
            "holds a compiled engine (EPContext), which is native code", where=artifact.model_path, fix="export again"
        )
