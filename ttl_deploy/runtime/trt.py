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

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import BadInputError, IntegrityError, MissingDependencyError
from ttl_deploy.runtime.base import RUNTIMES, Runtime, Session, of_manifest
from ttl_deploy.runtime.binding import port_differences
from ttl_deploy.runtime.cuda_driver import Cuda, CudaError, Device
from ttl_deploy.runtime.graph_facts import Port
from ttl_deploy.runtime.trt_engine_run import EngineError, EngineRun

FORMAT = "trt"
INSTALL = "install tensorrt from NVIDIA's package index on a machine with an NVIDIA GPU"


class TrtSession(Session):
    """An engine on the first visible GPU.

    Args:
        artifact: Format `trt`.
        threads: Not used; the GPU computes.
        device: `cuda`.
        cuda_graph: Whether each batch size's work is recorded once and replayed.

    Raises:
        MissingDependencyError: There is no driver, GPU or TensorRT.
        BadInputError: The engine was built for another GPU or another TensorRT.
        IntegrityError: TensorRT refuses the engine, or it is not what the manifest says.
    """

    def __init__(self, artifact: Artifact, *, threads: int, device: str, cuda_graph: bool = False) -> None:
        manifest = artifact.manifest
        super().__init__(
            runtime="tensorrt-cuda-graph" if cuda_graph else "tensorrt",
            device=device,
            threads=threads,
            **of_manifest(manifest),
        )
        details = manifest.details.get("engine", {})
        version = import_tensorrt().__version__
        self._cuda = open_cuda()
        try:
            refuse_foreign(details, self._cuda.device(), version, artifact.folder)
            self._engine = EngineRun(
                artifact.model_path.read_bytes(),
                self._cuda,
                input=manifest.input_name,
                output=manifest.output_name,
                cuda_graph=cuda_graph,
                host_code=bool(details["profile"]["version_compatible"]),
            )
            _refuse_other_ends(artifact, self._engine)
        except EngineError as error:
            self._cuda.close()
            raise IntegrityError(str(error), where=artifact.model_path) from error
        except BaseException:
            self._cuda.close()
            raise

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        largest = self._engine.largest
        # The engine has a largest batch and a caller knows none: a longer one is run in parts.
        parts = [self._run_part(batch[start : start + largest]) for start in range(0, len(batch), largest)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run_part(self, part: NDArray[Any]) -> NDArray[np.float32]:
        try:
            return self._engine.run(part)
        except EngineError as error:
            raise BadInputError(str(error), fix="export the run again with another profile") from error

    def _close(self) -> None:
        self._engine.close()
        self._cuda.close()


def _refuse_other_ends(artifact: Artifact, engine: EngineRun) -> None:
    manifest = artifact.manifest
    inputs, outputs = engine.shapes
    found = (
        Port((manifest.input_name,), engine.input_type.name, (None, *inputs)),
        Port((manifest.output_name,), "float32", (None, *outputs)),
    )
    differing = list(port_differences(manifest, found[:1], found[1:]))
    if differing:
        engine.close()
        raise IntegrityError(f"is not what its manifest says: {differing[0]}", where=artifact.model_path)


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


def open_cuda() -> Cuda:
    """The first visible GPU.

    Raises:
        MissingDependencyError: There is no driver or no GPU.
    """
    try:
        return Cuda()
    except CudaError as error:
        raise MissingDependencyError(f"CUDA cannot be used: {error}") from error


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
