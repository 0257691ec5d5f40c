"""PyTorch running an artifact: exported programs, AOTInductor packages, TorchScript and Torch-TensorRT programs.

No pickle is executed, and nothing else of a program or script either: both are checked by `torch_guard` before PyTorch
loads them. An AOTInductor package is machine code and a Torch-TensorRT program holds an engine: they are
as trustworthy as whoever made the artifact, whose hashes were checked when it was opened.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ttl_deploy import hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import BadInputError, IntegrityError, MissingDependencyError
from ttl_deploy.runtime.base import RUNTIMES, Runtime, Session, of_manifest
from ttl_deploy.runtime.torch_guard import check_program, check_script

TORCH_TRT = "torch-trt"


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
        torch.set_num_threads(threads)
        self._call = _load(artifact, device, packaged)

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
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated, which who runs such an artifact has decided to bear.
            warnings.simplefilter("ignore")
            if artifact.manifest.format == "torchscript":
                return _load_script(artifact.model_path, device)
            return _load_program(artifact.model_path, device, engines)
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise IntegrityError(f"PyTorch refuses it: {_first_line(error)}", where=artifact.model_path) from error


def _load_program(path: Path, device: str, engines: bool) -> Any:
    import torch
    from torch.export.passes import move_to_device_pass

    check_program(path, engines=engines)
    program = torch.export.load(path)
    # A program with engines was made on the GPU and stays there.
    return (program if engines or device == "cpu" else move_to_device_pass(program, device)).module()


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
RUNTIMES.register("torch-aot", Runtime("torch-aot", ("pt2",), ("cpu", "cuda"), _available, _open_package, rank=50))
RUNTIMES.register(
    "torch-tensorrt", Runtime("torch-tensorrt", (TORCH_TRT,), ("cuda",), _available_torch_trt, TorchSession, rank=10)
)
