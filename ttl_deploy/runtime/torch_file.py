"""PyTorch running an artifact: exported programs, AOTInductor packages, TorchScript and Torch-TensorRT programs.

No pickle is executed, and nothing else of a program or script either: both are checked by `torch_guard` before PyTorch
loads them. An AOTInductor package is machine code and a Torch-TensorRT program holds engines: they are as trustworthy
as whoever made the artifact, so somebody has to answer for it (`ttl_deploy.runtime.native`).
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import hardware
from ttl_deploy.artifact import MANIFEST, Artifact
from ttl_deploy.errors import BadInputError, IntegrityError, MissingDependencyError, TtlDeployError
from ttl_deploy.runtime.base import RUNTIMES, Runtime, Session, of_manifest
from ttl_deploy.runtime.binding import port_differences, refuse_unbound
from ttl_deploy.runtime.graph_facts import Port
from ttl_deploy.runtime.torch_guard import check_program, check_script
from ttl_deploy.spec import ArtifactManifest

TORCH_TRT = "torch-trt"

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class TorchSession(Session):
    """A program or script in PyTorch, in inference mode.

    Args:
        artifact: Format `pt2`, `torchscript` or `torch-trt`.
        threads: Threads inside an operator.
        device: `cpu` or `cuda`.
        packaged: Run the artifact's AOTInductor package instead of the program.

    Raises:
        MissingDependencyError: The device cannot be used, or torch_tensorrt is not here.
        BadInputError: The artifact has no package, or it is made for another device.
        IntegrityError: The file holds a pickle, or PyTorch refuses it.
    """

    def __init__(self, artifact: Artifact, *, threads: int, device: str, packaged: bool = False) -> None:
        import torch

        super().__init__(
            runtime=_name(artifact.manifest.format, packaged),
            device=device,
            threads=threads,
            **of_manifest(artifact.manifest),
        )
        if device == "cuda" and not torch.cuda.is_available():
            raise MissingDependencyError("PyTorch finds no GPU here", fix="pass --device cpu")
        if device == "cuda":
            # TF32 has ten bits of mantissa, and would be called fp32.
            torch.backends.cudnn.allow_tf32 = False
        torch.set_num_threads(threads)
        refuse_unbound(artifact)
        self._call = _load(artifact, device, packaged)
        if packaged or artifact.manifest.format == "torchscript":
            self._try_one(artifact)

    def _try_one(self, artifact: Artifact) -> None:
        """Runs one black image: a script and a package do not say what they take."""
        try:
            logits = self._run(np.zeros((1, *self.input_shape), dtype=self.input_type))
        except (RuntimeError, ValueError, IndexError) as error:
            raise IntegrityError(
                f"does not take the {self.input_type} images {self.input_shape} that the manifest says: "
                f"{_last_line(error)}",
                where=artifact.model_path,
            ) from error
        expected = (1, *self.task.outputs(self.size))
        if logits.shape != expected:
            raise IntegrityError(
                f"gives {logits.shape} for one image, the manifest says {expected}",
                where=artifact.model_path,
            )

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        import torch

        with torch.inference_mode():
            logits: NDArray[Any] = self._call(torch.from_numpy(batch).to(self.device)).float().cpu().numpy()
        return logits

    def _close(self) -> None:
        del self._call


def _name(format: str, packaged: bool) -> str:
    return "torch-aot" if packaged else "torch-tensorrt" if format == TORCH_TRT else "torch"


def _load(artifact: Artifact, device: str, packaged: bool) -> Any:
    if packaged:
        return _load_package(artifact, device)
    engines = artifact.manifest.format == TORCH_TRT
    if engines:
        _import_torch_tensorrt()
    with warnings.catch_warnings(), _logged() as reasons:
        # TorchScript is deprecated, which who runs such an artifact has decided to bear.
        warnings.simplefilter("ignore")
        try:
            if artifact.manifest.format == "torchscript":
                return _load_script(artifact.model_path, device)
            return _load_program(artifact, device, engines)
        except TtlDeployError:
            raise
        except Exception as error:
            reason = _first_line(reasons[-1] if reasons else error)
            raise IntegrityError(f"PyTorch refuses it: {reason}", where=artifact.model_path) from error


@contextmanager
def _logged() -> Iterator[list[Exception]]:
    """Keeps the errors that PyTorch logs with their tracebacks, and then raises another that only points at the log."""
    found: list[Exception] = []

    def keep(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, Exception):
            found.append(error)
        return False

    logger = logging.getLogger("torch.export")
    logger.addFilter(keep)
    try:
        yield found
    finally:
        logger.removeFilter(keep)


def _load_program(artifact: Artifact, device: str, engines: bool) -> Any:
    import torch
    from torch.export.passes import move_to_device_pass

    check_program(artifact.model_path, engines=engines)
    program = torch.export.load(artifact.model_path)
    differing = list(_program_differences(artifact.manifest, program, engines))
    if differing:
        raise IntegrityError(f"is not what its manifest says: {differing[0]}", where=artifact.model_path)
    # A program with engines was made on the GPU and stays there.
    return (program if engines or device == "cpu" else move_to_device_pass(program, device)).module()


def _program_differences(manifest: ArtifactManifest, program: Any, engines: bool) -> Iterator[str]:
    """In what the manifest is not the program's; TensorRT engines inside a program tell no precision."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    signature = program.graph_signature
    # A program calls its output by a name of its own; the order says which it is.
    inputs = tuple(_port(manifest.input_name, values[name]) for name in signature.user_inputs)
    outputs = tuple(_port(manifest.output_name, values[name]) for name in signature.user_outputs)
    yield from port_differences(manifest, inputs, outputs)
    stored = Counter(str(t.dtype).removeprefix("torch.") for t in program.state_dict.values() if t.is_floating_point())
    precision = _PRECISIONS.get(max(stored, key=lambda name: stored[name])) if stored and not engines else None
    if precision is not None and precision != manifest.precision:
        yield f"precision is {precision} in the program, the manifest says {manifest.precision}"


def _port(name: str, value: Any) -> Port:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return Port((name,), str(value.dtype).removeprefix("torch."), shape)


def _load_script(path: Path, device: str) -> Any:
    import torch

    check_script(path)
    script: Any = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    return script.eval()


def _load_package(artifact: Artifact, device: str) -> Any:
    import torch

    built = artifact.manifest.details.get("aot")
    if not built:
        raise BadInputError(
            "holds no AOTInductor package",
            where=artifact.folder,
            fix="export it with `ttl-deploy export --aot`, or use runtime torch",
        )
    if built["device"] != device:
        raise BadInputError(f"its package is compiled for {built['device']}, not for {device}", where=artifact.folder)
    missing = set(built["isa"]) - set(hardware.describe().isa)
    if missing:
        raise BadInputError(
            f"its package was compiled for a processor with {', '.join(sorted(missing))}",
            where=artifact.folder,
            fix="export it on a processor like this one, or use runtime torch",
        )
    if built["file"] not in artifact.manifest.files:
        raise IntegrityError(f"does not list its package {built['file']!r}", where=artifact.folder / MANIFEST)
    path = artifact.folder / built["file"]
    try:
        return torch._inductor.aoti_load_package(str(path))
    except RuntimeError as error:
        raise IntegrityError(f"PyTorch refuses it: {_first_line(error)}", where=path) from error


def _import_torch_tensorrt() -> None:
    """Registers the operator that runs an engine inside a program."""
    try:
        importlib.import_module("torch_tensorrt")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"a {TORCH_TRT} artifact needs torch_tensorrt, which cannot be imported ({_first_line(error)})",
            fix="pip install 'ttl-deploy[trt]' on a machine with an NVIDIA GPU",
        ) from error


def _last_line(error: Exception) -> str:
    """TorchScript prints where in its code it failed, line by line, and the reason last."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _available() -> str | None:
    return None if importlib.util.find_spec("torch") else "torch is not installed (pip install torch)"


def _open_package(artifact: Artifact, *, threads: int, device: str) -> Session:
    return TorchSession(artifact, threads=threads, device=device, packaged=True)


def _available_torch_trt() -> str | None:
    if not hardware.describe().gpus:
        return "no NVIDIA GPU is here"
    if importlib.util.find_spec("torch_tensorrt") is None:
        return "torch_tensorrt is not installed (pip install 'ttl-deploy[trt]')"
    return None


RUNTIMES.register("torch", Runtime("torch", ("pt2", "torchscript"), ("cpu", "cuda"), _available, TorchSession, rank=10))
RUNTIMES.register(
    "torch-aot", Runtime("torch-aot", ("pt2",), ("cpu", "cuda"), _available, _open_package, rank=50, part="aot")
)
RUNTIMES.register(
    "torch-tensorrt", Runtime("torch-tensorrt", (TORCH_TRT,), ("cuda",), _available_torch_trt, TorchSession, rank=10)
)
