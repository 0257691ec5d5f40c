"""TensorRT for RTX: the edition of TensorRT for workstation and consumer cards, whose engines are built on any machine.

The artifact is an ONNX artifact with engines inside, of which the one for this GPU's compute capability is run. What
the library compiles on the card is kept in the user's cache folder. Imports it when it is asked for, and never torch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

from ttl_deploy import files, hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import BadInputError, IntegrityError, MissingDependencyError, TtlDeployError
from ttl_deploy.runtime.base import RUNTIMES, Runtime
from ttl_deploy.runtime.cuda_driver import Cuda, Device
from ttl_deploy.runtime.engine_session import EngineSession
from ttl_deploy.runtime.stored_samples import SAMPLES_FILE
from ttl_deploy.runtime.trt_engine_run import EngineRun

INSTALL = "pip install 'ttl-deploy[rtx]'"

DETAILS = "rtx"
"""Where an artifact's details say what engines of this library it holds."""

MODULES = ("tensorrt_rtx_bindings", "tensorrt_rtx")
"""Names under which the library is installed: by its wheels, and by NVIDIA's archive."""


class RtxSession(EngineSession):
    """The engine for this GPU; see `EngineSession` for what is refused.

    Args:
        artifact: Of format `trt-rtx`.
        threads: Not used; the GPU computes.
        device: `cuda`.
        cuda_graph: Whether each batch size's work is recorded once and replayed.
    """

    def __init__(self, artifact: Artifact, *, threads: int, device: str, cuda_graph: bool = False) -> None:
        self._cuda_graph = cuda_graph
        self._trt = import_rtx()
        self._kept: Path | None = None
        self._known = b""
        runtime = "tensorrt-rtx-cuda-graph" if cuda_graph else "tensorrt-rtx"
        super().__init__(artifact, runtime=runtime, threads=threads, device=device)
        self._keep_kernels()

    def _choose(self, artifact: Artifact, device: Device) -> Path:
        engines, built = _recorded(artifact)
        here = str(self._trt.__version__)
        if built != here:
            # Engines run on the very release that built them, and on no other.
            raise BadInputError(
                f"its engines were built by TensorRT for RTX {built}, here is {here}",
                where=artifact.folder,
                fix=f"install that version, or export again here ({INSTALL})",
            )
        architecture = f"sm{device.compute_capability.replace('.', '')}"
        if architecture not in engines:
            raise BadInputError(
                f"holds engines for {', '.join(engines)}, here is {device.name} ({architecture})",
                where=artifact.folder,
                fix=f"`ttl-deploy export RUN --format trt-rtx --for {architecture}`; its graph runs in onnxruntime",
            )
        return artifact.folder / engines[architecture]

    def _load(self, artifact: Artifact, plan: Path, cuda: Cuda) -> EngineRun:
        record = artifact.manifest.files[plan.name]
        self._kept = kernel_folder() / f"{record.sha256[:32]}-{self._trt.__version__}.kernels"
        with contextlib.suppress(OSError):
            self._known = self._kept.read_bytes()
        return EngineRun(
            plan.read_bytes(),
            cuda,
            input=artifact.manifest.input_name,
            output=artifact.manifest.output_name,
            cuda_graph=self._cuda_graph,
            trt=self._trt,
            kernels=self._known,
        )

    def _keep_kernels(self) -> None:
        """A full or read-only disk costs the next process time, and this one nothing."""
        assert self._engine is not None
        compiled = self._engine.kernels()
        if self._kept is not None and compiled and compiled != self._known:
            with contextlib.suppress(OSError, TtlDeployError):
                self._kept.parent.mkdir(parents=True, exist_ok=True)
                files.write_bytes(self._kept, compiled)
                self._known = compiled


def _recorded(artifact: Artifact) -> tuple[dict[str, str], str]:
    """The engines' files by architecture, and the version that built them."""
    manifest = artifact.manifest
    details = manifest.details.get(DETAILS)
    if details is None:
        raise BadInputError(
            "holds no engine of TensorRT for RTX",
            where=artifact.folder,
            fix="`ttl-deploy export RUN --format trt-rtx` makes some",
        )
    try:
        engines = {str(name): str(engine["file"]) for name, engine in details["engines"].items()}
        built = str(details["tensorrt_rtx"])
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"its manifest does not tell the engines' {error}", where=artifact.folder) from error
    for name in (*engines.values(), SAMPLES_FILE):
        if name not in manifest.files:
            raise IntegrityError(f"does not list {name!r}", where=artifact.folder, fix="export again")
    return engines, built


def kernel_folder() -> Path:
    """Where kernels that were compiled on a card are kept."""
    import platformdirs

    return platformdirs.user_cache_path("ttl-deploy") / "tensorrt-rtx"


def available() -> str | None:
    """The reason why engines cannot be run here, without importing the library, or None."""
    return missing() if hardware.describe().gpus else "no NVIDIA GPU is here"


def import_rtx() -> Any:
    """TensorRT for RTX's Python package.

    Raises:
        MissingDependencyError: It is not installed or cannot be imported; the error says why.
    """
    name = _installed()
    if name is None:
        raise MissingDependencyError("TensorRT for RTX is not installed", fix=INSTALL)
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingDependencyError(f"{name} cannot be imported ({error})", fix=INSTALL) from error


def missing() -> str | None:
    """The reason why the library cannot be imported here, without importing it, or None."""
    return None if _installed() else f"TensorRT for RTX is not installed ({INSTALL})"


def _installed() -> str | None:
    return next((name for name in MODULES if importlib.util.find_spec(name) is not None), None)


def _register(name: str, rank: int, **more: Any) -> None:
    opened = partial(RtxSession, **more)
    # `trt-rtx` is the exporter's name; what it writes is an ONNX artifact whose engines are its part.
    RUNTIMES.register(name, Runtime(name, ("onnx", "trt-rtx"), ("cuda",), available, opened, rank=rank, part=DETAILS))


_register("tensorrt-rtx", 5)
_register("tensorrt-rtx-cuda-graph", 6, cuda_graph=True)
