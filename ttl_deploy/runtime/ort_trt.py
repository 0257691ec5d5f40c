"""ONNX Runtime's TensorRT provider: a second way to run an ONNX artifact with TensorRT, the engine built on first use.

Precision is the graph's. What TensorRT leaves over runs in the CUDA provider, and a graph of which anything would land
on the CPU is refused, as its latency would be neither's. Imports onnxruntime when a session is opened, and never torch.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import MissingDependencyError
from ttl_deploy.runtime.base import RUNTIMES, Runtime, Session, of_manifest
from ttl_deploy.runtime.binding import differences, refuse
from ttl_deploy.runtime.graph_facts import of_onnxruntime
from ttl_deploy.runtime.native import refuse_context
from ttl_deploy.runtime.ort import open_graph

NAME = "onnxruntime-tensorrt"
PROVIDER = "TensorrtExecutionProvider"
LARGEST_BATCH = 32

_LIBRARY = "libonnxruntime_providers_tensorrt.so"


class OrtTrtSession(Session):
    """An ONNX graph in ONNX Runtime's TensorRT provider.

    Args:
        artifact: Format `onnx`.
        threads: For what runs outside the GPU; nothing does.
        device: `cuda`.

    Raises:
        MissingDependencyError: The provider cannot be started.
        IntegrityError: The graph is refused, holds a compiled engine, or a part of it would run on the CPU.
    """

    def __init__(self, artifact: Artifact, *, threads: int, device: str) -> None:
        super().__init__(runtime=NAME, device=device, threads=threads, **of_manifest(artifact.manifest))
        reason = _missing_library()
        if reason is not None:
            raise MissingDependencyError(f"ONNX Runtime's {PROVIDER} cannot be used: {reason}", fix="pass --device cpu")
        refuse_context(artifact)
        _preload_tensorrt()
        providers = [(PROVIDER, provider_options(artifact)), ("CUDAExecutionProvider", {})]
        self._input, self._output = artifact.manifest.input_name, artifact.manifest.output_name
        self._session = open_graph(artifact, threads, providers, {"session.disable_cpu_ep_fallback": "1"})
        refuse(artifact, differences(artifact.manifest, of_onnxruntime(self._session)))

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        parts = [
            self._session.run([self._output], {self._input: batch[start : start + LARGEST_BATCH]})[0]
            for start in range(0, len(batch), LARGEST_BATCH)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _close(self) -> None:
        del self._session


def provider_options(artifact: Artifact) -> dict[str, str]:
    """One engine for every batch up to `LARGEST_BATCH`, kept in the user's cache folder by the graph's hash.

    The provider names a cached engine after GPU and version itself.
    """
    import platformdirs

    manifest = artifact.manifest
    shape = "x".join(map(str, manifest.input_shape))
    folder = (
        Path(platformdirs.user_cache_dir("ttl-deploy")) / "tensorrt" / manifest.files[manifest.model_file].sha256[:16]
    )
    return {
        "trt_profile_min_shapes": f"{manifest.input_name}:1x{shape}",
        "trt_profile_opt_shapes": f"{manifest.input_name}:1x{shape}",
        "trt_profile_max_shapes": f"{manifest.input_name}:{LARGEST_BATCH}x{shape}",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder.parent),
    }


def _missing_library() -> str | None:
    """Why the provider's library would not load: this build has none, or its TensorRT is not here."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return "onnxruntime is not installed (pip install onnxruntime-gpu)"
    library = Path(spec.origin).parent / "capi" / _LIBRARY
    if not library.exists():
        return "this ONNX Runtime was built without it (pip install onnxruntime-gpu)"
    return _missing_tensorrt(library.read_bytes())


def _missing_tensorrt(library: bytes) -> str | None:
    """The version of TensorRT that the provider was linked with, where that is not here."""
    wanted = re.search(rb"libnvinfer\.so\.(\d+)", library)
    if wanted is None:
        return None
    name = wanted[0].decode()
    packaged = importlib.util.find_spec("tensorrt_libs")
    folders = (packaged.submodule_search_locations or []) if packaged is not None else []
    if any((Path(folder) / name).exists() for folder in folders):
        return None
    try:
        ctypes.CDLL(name)
    except OSError:
        return f"it needs {name} (TensorRT {wanted[1].decode()}), which is not here"
    return None


def _preload_tensorrt() -> None:
    """Loads TensorRT from its wheel, which the dynamic linker does not search."""
    if importlib.util.find_spec("tensorrt_libs") is not None:
        importlib.import_module("tensorrt_libs")


def _available() -> str | None:
    return "no NVIDIA GPU is here" if not hardware.describe().gpus else _missing_library()


RUNTIMES.register(NAME, Runtime(NAME, ("onnx",), ("cuda",), _available, OrtTrtSession, rank=30))
