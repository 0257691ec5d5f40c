"""ONNX export through PyTorch's dynamo exporter: dynamic batch, the network's own names, checked before it is kept.

Precision is a property of the graph: other formats begin with the graph that `typed_graph` gives. Classes and
preprocessing travel in the file's metadata too, so the file alone says how to use it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper

from ttl_deploy import __version__, files
from ttl_deploy.errors import BadInputError, TtlDeployError
from ttl_deploy.formats.exporter import EXPORTERS, OUTPUT, Exporter, ExportJob, Written
from ttl_deploy.formats.graph_ends import add_activation, embed_preprocessing
from ttl_deploy.formats.graph_tidy import held, tidy
from ttl_deploy.formats.graph_types import HALVES, to_half
from ttl_deploy.formats.known import OnnxFormat
from ttl_deploy.formats.options import INPUT, LARGEST_MIB, GraphOptions, OnnxOptions
from ttl_deploy.formats.quantise import quantise_job
from ttl_deploy.runtime.graph_facts import PREFIX, of_onnx
from ttl_deploy.transfer import TransferModel

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"

OPSET = 20
"""Newest opset that ONNX Runtime 1.22, OpenVINO 2025.2 and TensorRT 10 all read."""

_BF16_OPSET = 22
"""First opset with convolutions in bfloat16."""

_NATIVE_OPSET = 18
"""Oldest opset that PyTorch's exporter writes; older ones are converted from it."""

_SMALL_BYTES = 1024
"""Smaller tensors, such as shapes, stay in the graph, where the checker reads them."""


class OnnxExporter(OnnxFormat, Exporter):
    """Writes `model.onnx`: `images` (batch, C, H, W) float32 to `logits` (batch, classes) float32."""

    maps = True
    options = OnnxOptions

    def write(self, job: ExportJob, folder: Path) -> Written:
        """Exports into `folder`.

        Raises:
            TtlDeployError: PyTorch cannot express the model as ONNX, or the checker refuses the graph.
        """
        options = job.options if isinstance(job.options, OnnxOptions) else OnnxOptions()
        typed = typed_graph(job)
        save_onnx(typed.proto, folder, options.external_data_mib)
        typed.save_records(folder)
        return Written(MODEL_FILE, typed.details, graph_fields(options))


EXPORTERS.register("onnx", OnnxExporter())


@dataclass(frozen=True)
class TypedGraph:
    """A graph in its precision, ends added.

    Attributes:
        proto: The graph.
        details: Facts for the manifest.
        records: Records to keep beside the model, by file name.
    """

    proto: onnx.ModelProto
    details: dict[str, Any]
    records: Mapping[str, Any]

    def save_records(self, folder: Path) -> None:
        """Writes the records as JSON files."""
        for name, content in self.records.items():
            files.write_json(folder / name, content)


def typed_graph(job: ExportJob, *, symmetric: bool = False, fused: bool = False) -> TypedGraph:
    """The job's graph in its precision.

    Args:
        job: Its options are `GraphOptions`, or others, which then stand for the defaults. Precisions that are no
            property of a graph (`tf32`) get a fp32 graph.
        symmetric: int8: activations around zero and biases in float, as TensorRT demands.
        fused: int8: for OpenVINO; see `Quantiser`.

    Raises:
        BadInputError: int8 without a run's images, or bf16 in an opset without it.
        TtlDeployError: The graph cannot be made, or the checker refuses it.
    """
    options = job.options if isinstance(job.options, GraphOptions) else GraphOptions()
    opset = _opset(options, job.precision)
    model, tuned = _tuned(job, options)
    proto = to_onnx(model, opset)
    details: dict[str, Any] = {"opset": opset, "graph": _facts(proto)}
    records: Mapping[str, Any] = {}
    if job.precision in HALVES:
        proto = to_half(proto, job.precision)
    elif job.precision == "int8":
        quantised = quantise_job(proto, job, options, symmetric=symmetric, fused=fused)
        proto, records = quantised.proto, quantised.records
        details["quantisation"] = {**quantised.details, **tuned}
    if options.embed_preprocessing:
        embed_preprocessing(proto, job.preprocess)
    add_activation(proto, options.activation)
    _describe(proto, job, options)
    return TypedGraph(proto, details, records)


def _opset(options: GraphOptions, precision: str) -> int:
    least = _BF16_OPSET if precision == "bf16" else 0
    if options.opset is not None and options.opset < least:
        raise BadInputError(
            f"ONNX opset {options.opset} has no bfloat16 convolutions", fix=f"pass --opset {least} or newer"
        )
    return options.opset or max(OPSET, least)


def _tuned(job: ExportJob, options: GraphOptions) -> tuple[TransferModel, dict[str, Any]]:
    """The model to export: the job's, or for `qat` a copy finetuned for int8."""
    if job.precision != "int8" or not options.qat:
        return job.model, {}
    from ttl_deploy.formats.quantise_qat import finetuned

    sample = job.run_images().calibration(options.calibration_images, seed=options.calibration_seed)
    return finetuned(job, options.qat, sample), {"qat_epochs": options.qat}


def graph_fields(options: GraphOptions) -> dict[str, Any]:
    """Fields of the manifest that say how the graph's ends are."""
    return {
        "input_type": "uint8" if options.embed_preprocessing else "float32",
        "activation": options.activation,
    }


def to_onnx(model: TransferModel, opset: int = OPSET) -> onnx.ModelProto:
    """The model's float32 graph, weights inside, convolutions and batch norms folded.

    Args:
        model: In evaluation mode, on the CPU.
        opset: 15 or newer.

    Raises:
        TtlDeployError: It cannot be expressed in this opset.
    """
    # Two images: with one, the exporter would take the batch for a constant.
    example = torch.zeros((2, *model.spec.input_shape))
    try:
        with torch.inference_mode(False), torch.no_grad(), _quiet():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=max(opset, _NATIVE_OPSET),
                dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}},
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
            assert program is not None
            proto = tidy(program.model_proto, model)
            return _in_opset(proto, opset)
    except (torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TtlDeployError(f"{model.spec.backbone} cannot be written in ONNX opset {opset}: {reason}") from error


def _in_opset(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    if proto.opset_import[0].version != opset:
        proto = onnx.version_converter.convert_version(proto, opset)
    # As old as the opset allows, so that older engines take the file.
    proto.ir_version = max(helper.find_min_ir_version_for(proto.opset_import), 8)
    proto.producer_name, proto.producer_version = "ttl-deploy", __version__
    return proto


def _facts(proto: onnx.ModelProto) -> dict[str, Any]:
    found = held(proto)
    return {"parameters": found.parameters, "operators": dict(found.operators)}


def _describe(proto: onnx.ModelProto, job: ExportJob, options: GraphOptions) -> None:
    facts = job.metadata(precision=of_onnx(proto).precision, **graph_fields(options))
    helper.set_model_props(proto, {f"{PREFIX}{key}": value for key, value in facts.items()})


def save_onnx(proto: onnx.ModelProto, folder: Path, external_data_mib: float = LARGEST_MIB) -> None:
    """Checks a graph and writes `model.onnx`; weights that would not fit into a protobuf message into a second file.

    Args:
        proto: The graph.
        folder: Where to.
        external_data_mib: Size from which there are two files.
    """
    path = folder / MODEL_FILE
    if proto.ByteSize() <= external_data_mib * 2**20:
        onnx.checker.check_model(proto, full_check=True)
        files.write_bytes(path, proto.SerializeToString(deterministic=True))
        return
    # Saving takes the weights out of what it is given.
    emptied = onnx.ModelProto()
    emptied.CopyFrom(proto)
    with files.disk_errors(path):
        onnx.save_model(
            emptied,
            path,
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=WEIGHTS_FILE,
            size_threshold=_SMALL_BYTES,
        )
    onnx.checker.check_model(path, full_check=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks on stdout, stderr, logs and warnings; none of it is for our user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
