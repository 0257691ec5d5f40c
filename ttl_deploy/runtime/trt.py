"""TensorRT engines as sessions: refused on another GPU or version than they were built for, run by `trt_engine_run`.

Two runtimes, so that a latency always says which it was: `tensorrt` enqueues every call, `tensorrt-cuda-graph` replays
a recorded one. Copies to and from the GPU are part of a call, pinned, as a caller pays for them. Imports tensorrt when
a session is opened, and never torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ttl_deploy import hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import BadInputError, IntegrityError, MissingDependencyError
from ttl_deploy.runtime.base import RUNTIMES, Runtime
from ttl_deploy.runtime.cuda_driver import Cuda, Device
from ttl_deploy.runtime.engine_session import EngineSession
from ttl_deploy.runtime.trt_engine_run import EngineRun

FORMAT = "trt"
INSTALL = "install tensorrt from NVIDIA's package index on a machine with an NVIDIA GPU"


class TrtSession(EngineSession):
    """An engine of full TensorRT; see `EngineSession` for what is refused.

    Args:
        artifact: Format `trt`.
        threads: Not used; the GPU computes.
        device: `cuda`.
        cuda_graph: Whether each batch size's work is recorded once and replayed.
    """

    def __init__(self, artifact: Artifact, *, threads: int, device: str, cuda_graph: bool = False) -> None:
        self._cuda_graph = cuda_graph
        self._version = str(import_tensorrt().__version__)
        runtime = "tensorrt-cuda-graph" if cuda_graph else "tensorrt"
        super().__init__(artifact, runtime=runtime, threads=threads, device=device)

    def _choose(self, artifact: Artifact, device: Device) -> Path:
        refuse_foreign(artifact.manifest.details.get("engine", {}), device, self._version, artifact.folder)
        return artifact.model_path

    def _load(self, artifact: Artifact, plan: Path, cuda: Cuda) -> EngineRun:
        manifest = artifact.manifest
        return EngineRun(
            plan.read_bytes(),
            cuda,
            input=manifest.input_name,
            output=manifest.output_name,
            cuda_graph=self._cuda_graph,
            host_code=bool(manifest.details["engine"]["profile"]["version_compatible"]),
        )


def refuse_foreign(details: Mapping[str, Any], device: Device, version: str, where: Path) -> None:
    """Refuses an engine that was built for another GPU or another TensorRT.

    Args:
        details: `engine` in the manifest's details.
        device: The GPU that is here.
        version: The TensorRT that is here.
        where: The artifact.

    Raises:
        IntegrityError: The manifest does not say what the engine was built for.
        BadInputError: It does not run here; the error says how to build it again.
    """
    try:
        profile, built, gpu = details["profile"], details["tensorrt"], details["gpu"]
        capability, level = details["compute_capability"], profile["hardware"]
        compatible = bool(profile["version_compatible"])
    except (KeyError, TypeError) as error:
        raise IntegrityError(f"its manifest does not tell the engine's {error}", where=where) from error
    again = "build it here: ttl-deploy export RUN --format trt --overwrite, or python build_engine.py in its kit"
    if not (_numbers(version) == _numbers(built) or (compatible and _numbers(version) > _numbers(built))):
        raise BadInputError(f"was built by TensorRT {built}, here is {version}", where=where, fix=again)
    runs = {
        "none": device == Device(gpu, capability),
        "same-compute-capability": device.compute_capability == capability,
        "ampere-plus": _numbers(device.compute_capability) >= (8, 0),
    }
    if not runs.get(level, False):
        raise BadInputError(
            f"was built for {gpu} (compute capability {capability}), here is {device.name} "
            f"({device.compute_capability})",
            where=where,
            fix=again,
        )


def import_tensorrt() -> Any:
    """TensorRT's Python package.

    Raises:
        MissingDependencyError: It cannot be imported; the error says why.
    """
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"tensorrt cannot be imported ({error})", fix=INSTALL) from error


def available() -> str | None:
    """The reason why TensorRT cannot be used here, without importing it, or None."""
    if not hardware.describe().gpus:
        return "no NVIDIA GPU is here"
    if importlib.util.find_spec("tensorrt") is None:
        return f"tensorrt is not installed ({INSTALL})"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version: builds of one release read each other's engines."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


RUNTIMES.register("tensorrt", Runtime("tensorrt", (FORMAT,), ("cuda",), available, TrtSession, rank=10))
RUNTIMES.register(
    "tensorrt-cuda-graph",
    Runtime("tensorrt-cuda-graph", (FORMAT,), ("cuda",), available, partial(TrtSession, cuda_graph=True), rank=20),
)
