"""Torch-TensorRT: a PyTorch program whose layers run in a TensorRT engine, saved so that `torch.export.load` reads it.

The engine is typed as the module is (`enabled_precisions` is accepted and ignored by recent versions): a half-precision
copy of the module gives the fp16 engine, a module that ModelOpt calibrated the int8 one. Needs torch_tensorrt and an
NVIDIA GPU.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ttl_deploy.errors import BadInputError, IntegrityError, MissingDependencyError, TtlDeployError
from ttl_deploy.formats import torch_trt_int8
from ttl_deploy.formats.exporter import EXPORTERS, Exporter, ExportJob, Written
from ttl_deploy.formats.kit.build_engine import BuildError, check_precision, count_precisions
from ttl_deploy.formats.known import ON_A_GPU, TorchTrtFormat
from ttl_deploy.formats.options import INPUT, TorchTrtOptions
from ttl_deploy.formats.program import export_program, in_precision
from ttl_deploy.formats.pt2 import PACKAGE_FILE, quiet, save_program
from ttl_deploy.formats.quantise import calibration_facts
from ttl_deploy.runtime.torch_file import TORCH_TRT
from ttl_deploy.runtime.torch_guard import check_program

MODEL_FILE = "model.ep"

DEVICE = "cuda"
"""Where it compiles."""


class TorchTrtExporter(TorchTrtFormat, Exporter):
    """Writes `model.ep`, and with `aot` a compiled package beside it."""

    options = TorchTrtOptions

    def write(self, job: ExportJob, folder: Path) -> Written:
        """Compiles on this machine's GPU.

        Raises:
            MissingDependencyError: torch_tensorrt cannot be imported.
            BadInputError: The batches are not in order, or torch_tensorrt is too old for them.
            TtlDeployError: It cannot compile the model, left it to PyTorch, or runs another precision.
        """
        options = job.options if isinstance(job.options, TorchTrtOptions) else TorchTrtOptions()
        if not options.min_batch <= options.opt_batch <= options.max_batch:
            raise BadInputError("the batches min, opt and max are not in order")
        module, details = _module(job, options)
        compiled = _compile(module, job, options)
        details |= {"batches": [options.min_batch, options.max_batch], **_checked(compiled, job.precision)}
        images = _images(job, options)
        _save_program(compiled, images, folder / MODEL_FILE, options, job.metadata(precision=job.precision))
        if options.aot:
            _save(compiled, images, folder / PACKAGE_FILE, "aot_inductor", options)
            details["aot"] = {"file": PACKAGE_FILE, "device": "cuda", "isa": []}
        return Written(MODEL_FILE, details, runtime="torch-tensorrt")


EXPORTERS.register(TORCH_TRT, TorchTrtExporter())


def _torch_tensorrt() -> Any:
    try:
        return importlib.import_module("torch_tensorrt")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"torch_tensorrt cannot be imported ({error})", fix=ON_A_GPU) from error


def _images(job: ExportJob, options: TorchTrtOptions) -> torch.Tensor:
    """An example batch on the GPU: of more than one, which PyTorch would take for a constant."""
    return torch.zeros((max(2, options.opt_batch), *job.model.spec.input_shape), device=DEVICE)


def _module(job: ExportJob, options: TorchTrtOptions) -> tuple[torch.nn.Module, dict[str, Any]]:
    """What is compiled, in the types that the engine will compute in, and how it was made."""
    if job.precision != "int8":
        return in_precision(job.model, job.precision), {}
    sample = job.run_images().calibration(options.calibration_images, seed=options.calibration_seed)
    with job.reporter.task("calibrating", None):
        module = torch_trt_int8.calibrated(job.model, sample)
    rounded = torch_trt_int8.with_operators(module)
    facts = calibration_facts("minmax", len(sample), options, symmetric=True)
    return module, {"quantisation": {**facts, "rounded_tensors": rounded}}


def _compile(module: torch.nn.Module, job: ExportJob, options: TorchTrtOptions) -> Any:
    torch_tensorrt = _torch_tensorrt()
    given = _input(torch_tensorrt, job.model.spec.input_shape, options)
    traceable = torch_trt_int8.traceable if job.precision == "int8" else contextlib.nullcontext
    try:
        with quiet():
            with traceable():
                program = export_program(module.to(DEVICE), _images(job, options))
            return torch_tensorrt.dynamo.compile(
                program,
                arg_inputs=[given],
                # The engine computes in the types of the module; whatever falls back to PyTorch is counted below.
                use_explicit_typing=True,
                disable_tf32=True,
                optimization_level=options.optimization_level,
                min_block_size=1,
            )
    except RuntimeError as error:
        raise TtlDeployError(
            f"Torch-TensorRT cannot compile the model: {' '.join(str(error).split())[:500]}"
        ) from error


def _input(torch_tensorrt: Any, shape: tuple[int, ...], options: TorchTrtOptions) -> Any:
    """The input's batches, as a profile.

    Said without one, the optimum does not reach the engine, which is then made fast for the batch that was traced: two
    or more, where one may be asked for.

    Raises:
        BadInputError: torch_tensorrt is older than profiles, and one was asked for.
    """
    batches = {"min": options.min_batch, "opt": options.opt_batch, "max": options.max_batch}
    shapes = {f"{name}_shape": (batch, *shape) for name, batch in batches.items()}
    if hasattr(torch_tensorrt.Input, "profiles"):
        return torch_tensorrt.Input(profiles=[shapes], dtype=torch.float32, name=INPUT)
    if options.opt_batch == 1:
        raise BadInputError(
            f"torch_tensorrt {torch_tensorrt.__version__} makes no engine fast for a batch of 1",
            fix="install torch_tensorrt 2.14 or newer, or pass --opt-batch 2",
        )
    return torch_tensorrt.Input(**shapes, dtype=torch.float32, name=INPUT)


def _checked(compiled: Any, precision: str) -> dict[str, Any]:
    """How many TensorRT engines the compiled program holds, and what they say of their layers.

    Raises:
        TtlDeployError: No engine, roundings left to PyTorch, or an engine that runs another precision.
    """
    engines = [module for name, module in compiled.named_children() if name.startswith("_run_on_acc")]
    if not engines:
        raise TtlDeployError("Torch-TensorRT left the whole model to PyTorch", fix="nothing was written")
    left = sum("quantize_op" in str(node.target) for node in _nodes(compiled))
    if left:
        raise TtlDeployError(
            f"Torch-TensorRT left {left} roundings to PyTorch, so the engine is not int8", fix="export trt instead"
        )
    counts = count_precisions([layer for engine in engines for layer in _layers(engine)])
    if counts:
        try:
            check_precision(precision, counts)
        except BuildError as error:
            raise TtlDeployError(str(error), fix="nothing was written") from error
    return {"engines": len(engines), "layer_precisions": counts}


def _nodes(compiled: Any) -> Iterator[Any]:
    """Of every graph outside the engines."""
    for module in compiled.modules():
        if isinstance(module, torch.fx.GraphModule):
            yield from module.graph.nodes


def _layers(engine: Any) -> list[dict[str, Any]]:
    """What an engine tells of its layers: their types only where it was built with details, else only names."""
    told = getattr(engine, "get_layer_info", None)
    layers = json.loads(told()).get("Layers", []) if told is not None else []
    return [layer for layer in layers if isinstance(layer, dict)]


def _save_program(
    compiled: Any, images: torch.Tensor, path: Path, options: TorchTrtOptions, metadata: Mapping[str, str]
) -> None:
    """Saves the program without its example inputs, which would be pickled, and refuses pickled engines.

    Raises:
        TtlDeployError: This torch_tensorrt writes its engines as Python pickles, which no runtime here would load.
    """
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / MODEL_FILE
        _save(compiled, images, first, "exported_program", options)
        save_program(torch.export.load(first), path, metadata)
    try:
        check_program(path, engines=True)
    except IntegrityError as error:
        raise TtlDeployError(
            f"this torch_tensorrt pickles its engines: {error.what}", fix="export trt instead"
        ) from error


def _save(compiled: Any, images: torch.Tensor, path: Path, output_format: str, options: TorchTrtOptions) -> None:
    batch = torch.export.Dim("batch", min=options.min_batch, max=options.max_batch)
    with quiet():
        _torch_tensorrt().save(
            compiled,
            str(path),
            output_format=output_format,
            arg_inputs=[images],
            retrace=True,
            dynamic_shapes={INPUT: {0: batch}},
        )
