"""ONNX Runtime on CPU and CUDA: the default engine, and the lightest to start.

Imports onnxruntime when a session is opened, and never torch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import IntegrityError, MissingDependencyError, TtlDeployError
from ttl_deploy.runtime.base import RUNTIMES, Runtime, Session, of_manifest
from ttl_deploy.runtime.binding import differences, refuse
from ttl_deploy.runtime.graph_facts import of_onnxruntime
from ttl_deploy.runtime.graph_size import refuse_oversized

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
"""TF32 has ten bits of mantissa, and would be called fp32."""
_LOG_FATAL_ONLY = 4


class OrtSession(Session):
    """An ONNX graph in ONNX Runtime, every graph optimisation on.

    Args:
        artifact: Format `onnx`.
        threads: Threads inside an operator; operators run one after the other.
        device: `cpu` or `cuda`.

    Raises:
        MissingDependencyError: `cuda` was asked for and its provider cannot be used.
        IntegrityError: ONNX Runtime refuses the model, or it is not what the manifest says.
    """

    def __init__(self, artifact: Artifact, *, threads: int, device: str) -> None:
        super().__init__(runtime="onnxruntime", device=device, threads=threads, **of_manifest(artifact.manifest))
        self._input, self._output = artifact.manifest.input_name, artifact.manifest.output_name
        self._model = artifact.model_path
        self._session = open_graph(artifact, threads, [(_PROVIDERS[device], _OPTIONS[device])])
        refuse(artifact, differences(artifact.manifest, of_onnxruntime(self._session)))

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        with told(self._model):
            logits: NDArray[Any] = self._session.run([self._output], {self._input: batch})[0]
        return logits

    def _close(self) -> None:
        del self._session


@contextlib.contextmanager
def told(model: Path) -> Iterator[None]:
    """What ONNX Runtime raises when it runs a graph, as one error that names it.

    Raises:
        TtlDeployError: There is too little memory.
        IntegrityError: The graph cannot be computed.
    """
    try:
        yield
    except Exception as error:
        said = _first_line(error)
        if isinstance(error, MemoryError) or "allocate" in said.lower() or "out of memory" in said.lower():
            fix = "lower the batch size, or take a larger machine"
            raise TtlDeployError(f"out of memory when it was run: {said}", where=model, fix=fix) from error
        raise IntegrityError(f"ONNX Runtime cannot run it: {said}", where=model) from error


def open_graph(
    artifact: Artifact,
    threads: int,
    providers: Sequence[tuple[str, dict[str, str]]],
    entries: Mapping[str, str] | None = None,
) -> Any:
    """An ONNX Runtime session whose first provider is in use, or an error that says why it is not.

    Args:
        artifact: Format `onnx`.
        threads: Threads inside an operator.
        providers: Names and options, most wanted first.
        entries: Session configuration entries.

    Raises:
        MissingDependencyError: The first provider cannot be used.
        IntegrityError: ONNX Runtime refuses the model.
    """
    import onnxruntime

    provider = providers[0][0]
    # Whatever fails comes as an exception or a missing provider; on stderr it would be said twice.
    onnxruntime.set_default_logger_severity(_LOG_FATAL_ONLY)
    if provider not in onnxruntime.get_available_providers():
        raise MissingDependencyError(
            f"this ONNX Runtime has no {provider}", fix="install onnxruntime-gpu, or pass --device cpu"
        )
    if provider != _PROVIDERS["cpu"]:
        _preload_cuda(onnxruntime)
    options = cpu_options(onnxruntime, threads)
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    refuse_oversized(artifact.model_path, quick=True)
    try:
        # Silent fallback to the CPU would be measured and reported as the GPU.
        session = onnxruntime.InferenceSession(
            _readable(artifact.model_path), options, providers=list(providers), enable_fallback=0
        )
    except Exception as error:  # noqa: BLE001,RUF100 - ONNX Runtime's errors share no base class but this
        raise IntegrityError(f"ONNX Runtime refuses it: {_first_line(error)}", where=artifact.model_path) from error
    if session.get_providers()[0] != provider:
        raise MissingDependencyError(
            f"ONNX Runtime cannot start its {provider} here (no GPU, driver or CUDA libraries)",
            fix="pass --device cpu",
        )
    return session


def _readable(model: Path) -> Path | bytes:
    """The file as ONNX Runtime takes it: its path is UTF-8, or the model comes as bytes."""
    try:
        str(model).encode()
    except UnicodeEncodeError:
        return model.read_bytes()
    return model


def cpu_options(onnxruntime: Any, threads: int) -> Any:
    """Session options of a graph, every optimisation on.

    Args:
        onnxruntime: The module.
        threads: Inside an operator.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _LOG_FATAL_ONLY
    return options


def _preload_cuda(onnxruntime: Any) -> None:
    """Loads CUDA and cuDNN from their wheels, which the dynamic linker does not search; it prints what it misses."""
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls(directory="")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _available() -> str | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed (pip install onnxruntime)"
    return None


# Its CPU provider has no bfloat16 convolution; OpenVINO computes such a graph.
RUNTIMES.register(
    "onnxruntime",
    Runtime("onnxruntime", ("onnx",), tuple(_PROVIDERS), _available, OrtSession, rank=10, lacks=(("cpu", "bf16"),)),
)
