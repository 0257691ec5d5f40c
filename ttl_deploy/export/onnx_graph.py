"""ONNX export through PyTorch's dynamo exporter: one file, dynamic batch, checked before it is kept.

Classes and preprocessing travel in the file's metadata too, so the file alone says how to use it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch

from ttl_deploy import files
from ttl_deploy.export.exporter import EXPORTERS, INPUT, OUTPUT, Exporter, ExportJob, Written
from ttl_deploy.transfer import TransferModel

MODEL_FILE = "model.onnx"


class OnnxExporter(Exporter):
    """Writes `model.onnx`: `images` (batch, C, H, W) float32 to `logits` (batch, classes) float32."""

    name = "onnx"
    precisions = ("fp32",)

    def write(self, job: ExportJob, folder: Path) -> Written:
        """Exports into `folder`.

        Raises:
            ExportError: PyTorch cannot express the model as ONNX, or the checker refuses the graph.
        """
        proto = to_onnx(job.model)
        onnx.helper.set_model_props(
            proto,
            {
                "ttl_deploy.classes": json.dumps(job.model.spec.classes),
                "ttl_deploy.preprocess": job.preprocess.model_dump_json(),
                "ttl_deploy.model": job.model.spec.model_dump_json(),
            },
        )
        onnx.checker.check_model(proto, full_check=True)
        files.write_bytes(folder / MODEL_FILE, proto.SerializeToString())
        return Written(MODEL_FILE)


EXPORTERS.register("onnx", OnnxExporter())


def to_onnx(model: TransferModel) -> onnx.ModelProto:
    """The model's graph, weights inside.

    Args:
        model: In evaluation mode, on the CPU.
    """
    # Two images: with one, the exporter would take the batch for a constant.
    example = torch.zeros((2, *model.spec.input_shape))
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}},
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    return _clean(program.model_proto)


def _clean(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Names the batch dimension and drops the exporter's notes, which hold source paths of the exporting machine."""
    symbol = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        value.ClearField("metadata_props")
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == symbol:
                dimension.dim_param = "batch"
    for node in proto.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    proto.graph.ClearField("metadata_props")
    proto.graph.name = "ttl_deploy"
    return proto


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
