"""TensorRT engines, version 10 and 11: built from the typed graph, read back, refused where they run another precision.

The builder is `kit.build_engine`, the very file that a build kit carries to a machine with the GPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from ttl_deploy import files
from ttl_deploy.errors import BadInputError, TtlDeployError
from ttl_deploy.formats.exporter import EXPORTERS, Exporter, ExportJob, StandIn, Written
from ttl_deploy.formats.kit import build_engine
from ttl_deploy.formats.kit.build_engine import BuildError, Settings, named
from ttl_deploy.formats.known import TrtFormat
from ttl_deploy.formats.onnx_graph import TypedGraph, graph_fields, typed_graph
from ttl_deploy.formats.options import BatchOptions, ExportOptions, GraphOptions, TrtOptions
from ttl_deploy.formats.rtx_cards import architectures
from ttl_deploy.formats.samples import SAMPLES_FILE, samples
from ttl_deploy.formats.trt_lint import refuse_unsupported
from ttl_deploy.runtime import trt
from ttl_deploy.runtime import trt_rtx as rtx
from ttl_deploy.runtime.cuda_driver import Device
from ttl_deploy.runtime.engine_session import open_cuda
from ttl_deploy.runtime.trt import import_tensorrt

MODEL_FILE = "model.engine"
LAYERS_FILE = "engine.json"


class TrtExporter(TrtFormat, Exporter):
    """Writes `model.engine`, `engine.json`, which is what the engine inspector says of every layer, and samples."""

    options = TrtOptions
    deferred = "trt-kit"

    def stand_in(self, given: Mapping[str, Any]) -> StandIn | None:
        """TensorRT for RTX, for the cards that were named."""
        reason = trt.available()
        if reason is None or given.get("targets") is None or rtx.missing():
            return None
        return StandIn("trt-rtx", f"{reason}: TensorRT for RTX builds the engines (--format trt-rtx)")

    def check(self, precision: str, options: ExportOptions) -> None:
        """Refuses another card than the GPU that is here: full TensorRT builds for that alone.

        Raises:
            BadInputError: With the way out.
        """
        said = getattr(options, "targets", None)
        if said is None:
            return
        with open_cuda() as cuda:
            here = cuda.device()
        others = [name for name in architectures(said, any_gpu=True) if name != named(here.compute_capability)]
        if others:
            raise BadInputError(
                f"full TensorRT builds for the GPU that is here, {here.name} ({named(here.compute_capability)}), and "
                f"not for {', '.join(others)}",
                where="--for",
                fix="pass --format trt-rtx, or leave it out",
            )

    def write(self, job: ExportJob, folder: Path) -> Written:
        """Builds on this machine's GPU.

        Raises:
            MissingDependencyError: TensorRT or the GPU cannot be used.
            BadInputError: TensorRT would not take the graph.
            TtlDeployError: The build failed, or the engine runs another precision than the asked one.
        """
        typed, settings = typed_job(job)
        version = str(import_tensorrt().__version__)
        with open_cuda() as cuda:
            device = cuda.device()
        # Beside the artifact: it outlives the artifact, and the next export of this run builds in seconds.
        cache = folder.parent / f"tensorrt-{version}-sm{device.compute_capability.replace('.', '')}.timing-cache"
        built = _build(typed.proto, settings, device, cache)
        files.write_bytes(folder / MODEL_FILE, built.plan)
        files.write_text(folder / LAYERS_FILE, json.dumps({"Layers": built.layers}, indent=1))
        files.write_bytes(cache, built.timing_cache)
        typed.save_records(folder)
        count = job.options.samples if isinstance(job.options, TrtOptions) else 0
        files.write_bytes(folder / SAMPLES_FILE, samples(job, typed.proto, count))
        engine = built.details(settings, device.name, device.compute_capability)
        return Written(MODEL_FILE, {**typed.details, "engine": engine}, _fields(job), "tensorrt")


EXPORTERS.register("trt", TrtExporter())


def typed_job(job: ExportJob) -> tuple[TypedGraph, Settings]:
    """The job's typed graph, checked against TensorRT's list, and the builder's settings.

    Raises:
        BadInputError: An option is wrong, or TensorRT would not take the graph.
    """
    options = job.options if isinstance(job.options, BatchOptions) else TrtOptions()
    given = job.model.spec.input
    settings = options.settings(job.precision, given.array_shape if options.embed_preprocessing else given.shape)
    typed = typed_graph(job, symmetric=True)
    refuse_unsupported(typed.proto)
    return typed, settings


def _build(proto: onnx.ModelProto, settings: Settings, device: Device, cache: Path) -> build_engine.Engine:
    try:
        build_engine.check_device(settings, device.name, device.compute_capability)
        known = cache.read_bytes() if cache.exists() else b""
        return build_engine.build(proto.SerializeToString(deterministic=True), settings, known)
    except BuildError as error:
        raise TtlDeployError(str(error), fix="nothing was written") from error


def _fields(job: ExportJob) -> dict[str, Any]:
    return graph_fields(job.options if isinstance(job.options, GraphOptions) else GraphOptions())
