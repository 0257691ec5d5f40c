"""OpenVINO's own format: `model.xml` and `model.bin`, converted from the same typed ONNX graph.

fp16 stores weights in half the space; bf16 is how the runtime computes fp32 weights, and the manifest's precision
tells it to. int8 is the Q/DQ graph of the format `onnx` with fewer pairs (`quantiser`). fp32 and fp16 are computed in
float32 by whoever compiles the file, see `openvino_precision`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from ttl_deploy.errors import TtlDeployError
from ttl_deploy.formats.exporter import EXPORTERS, Exporter, ExportJob, Written
from ttl_deploy.formats.known import OpenVinoFormat
from ttl_deploy.formats.onnx_graph import graph_fields, typed_graph
from ttl_deploy.formats.openvino_precision import keep_form, mark_precise
from ttl_deploy.formats.options import GraphOptions
from ttl_deploy.runtime.graph_facts import PREFIX
from ttl_deploy.runtime.ov_core import core, import_openvino

MODEL_FILE = "model.xml"

_GRAPH_PRECISION = {"fp32": "fp32", "fp16": "fp32", "bf16": "fp32", "int8": "int8"}
"""What the ONNX graph is written in: OpenVINO itself halves the weights, and computes in bfloat16."""


class OpenVinoExporter(OpenVinoFormat, Exporter):
    """Writes `model.xml` and `model.bin`: `images` (batch, C, H, W) float32 to `logits` (batch, classes) float32."""

    maps = True
    options = GraphOptions

    def write(self, job: ExportJob, folder: Path) -> Written:
        """Exports into `folder`.

        Raises:
            TtlDeployError: The graph cannot be made, or OpenVINO refuses it.
        """
        options = job.options if isinstance(job.options, GraphOptions) else GraphOptions()
        typed = typed_graph(dataclasses.replace(job, precision=_GRAPH_PRECISION[job.precision]), fused=True)
        try:
            model = core().read_model(typed.proto.SerializeToString())
            _write(model, job, options, folder / MODEL_FILE)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1:] or ["no reason given"]
            raise TtlDeployError(f"OpenVINO cannot write the model: {last[0].strip()}") from error
        typed.save_records(folder)
        return Written(MODEL_FILE, typed.details, graph_fields(options), "openvino")


EXPORTERS.register("openvino", OpenVinoExporter())

_NUMBERED = re.compile(r"[A-Z][A-Za-z0-9]*_\d+")
"""How OpenVINO names an operation that has no name: its type and a number."""


def _write(model: Any, job: ExportJob, options: GraphOptions, path: Path) -> None:
    exact = job.precision in ("fp32", "fp16")
    if exact:
        keep_form(model)
    _name_operations(model)
    # An ONNX file's metadata comes along; what OpenVINO makes of the graph has a precision of its own.
    model.set_rt_info(json.dumps(job.precision), ["framework", f"{PREFIX}precision"])
    model.set_rt_info("bf16" if job.precision == "bf16" else "f32", ["runtime_options", "INFERENCE_PRECISION_HINT"])
    for name, value in model_info(job, options).items():
        model.set_rt_info(value, ["model_info", name])
    import_openvino().save_model(model, path, compress_to_fp16=job.precision == "fp16")
    if exact:
        mark_precise(path)


def model_info(job: ExportJob, options: GraphOptions) -> dict[str, str]:
    """What OpenVINO Model API, Model Server and DL Streamer read of an IR (section `model_info`).

    They resize with an interpolation of their own, so their probabilities are near, not equal. A label cannot hold a
    space there. Frames come to them as blue, green, red.
    """
    rule = job.preprocess
    info = {
        "model_type": "Classification",
        "labels": " ".join("_".join(name.split()) for name in job.model.spec.classes),
        "resize_type": "crop" if rule.crop == "center" else "standard",
        "reverse_input_channels": str(rule.input.channels == 3),
        "output_raw_scores": "True",
    }
    if not options.embed_preprocessing:
        info["mean_values"] = " ".join(f"{255 * value:.9g}" for value in rule.mean)
        info["scale_values"] = " ".join(f"{255 * value:.9g}" for value in rule.std)
    return info


def _name_operations(model: Any) -> None:
    """Names what OpenVINO numbered itself: its numbers go on counting in a process, so two exports would differ."""
    for position, operation in enumerate(model.get_ordered_ops()):
        # A constant that was folded keeps the name of what it replaced: `Reshape_26`.
        if _NUMBERED.fullmatch(operation.get_friendly_name()):
            operation.set_friendly_name(f"{operation.get_type_name()}.{position}")
