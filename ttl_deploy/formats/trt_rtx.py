"""TensorRT for RTX: engines for the paper's Quadro RTX 6000 and other cards, built ahead of time on any machine.

The artifact is an ONNX artifact, whose typed graph passes parity on this CPU, with an engine of that very graph for
every architecture that was asked for, and samples by which a runtime checks the engine on the card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ttl_deploy import files
from ttl_deploy.errors import BadInputError, TtlDeployError
from ttl_deploy.formats.exporter import EXPORTERS, Exporter, ExportJob, Written
from ttl_deploy.formats.kit.build_engine import (
    AS_EXPORTED,
    TURING,
    BuildError,
    Built,
    Settings,
    build_for,
    engine_file,
    named,
    rtx_details,
)
from ttl_deploy.formats.known import TrtRtxFormat
from ttl_deploy.formats.onnx_graph import MODEL_FILE, graph_fields, save_onnx
from ttl_deploy.formats.options import LARGEST_MIB, ExportOptions, RtxOptions
from ttl_deploy.formats.rtx_cards import architectures, refuse
from ttl_deploy.formats.samples import SAMPLES_FILE, samples
from ttl_deploy.formats.trt_engine import typed_job
from ttl_deploy.formats.trt_lint import refuse_unsupported
from ttl_deploy.formats.turing_head import FORMS, rewritten
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.runtime.cuda_driver import Cuda, CudaError
from ttl_deploy.runtime.trt_rtx import DETAILS, import_rtx


class TrtRtxExporter(TrtRtxFormat, Exporter):
    """Writes `model.onnx`, `samples.npz` and a `model-smNN.engine` for every architecture."""

    options = RtxOptions

    def check(self, precision: str, options: ExportOptions) -> None:
        """Refuses what a card cannot be given.

        Raises:
            BadInputError: With the reason and the way out.
        """
        chosen = options if isinstance(options, RtxOptions) else RtxOptions()
        chosen.refuse_disorder()
        refuse(precision, wanted(chosen))

    def write(self, job: ExportJob, folder: Path) -> Written:
        """Builds every engine here.

        Raises:
            BadInputError: A card or a batch is wrong, or TensorRT would not take the graph.
            MissingDependencyError: The library cannot be imported.
            TtlDeployError: An engine cannot be built.
        """
        options = job.options if isinstance(job.options, RtxOptions) else RtxOptions()
        self.check(job.precision, options)
        cards, trt = wanted(options), import_rtx()
        typed, settings = typed_job(job)
        if typed.proto.ByteSize() > LARGEST_MIB * 2**20:
            raise BadInputError(
                f"the graph has {typed.proto.ByteSize() / 2**20:.0f} MiB, the parser takes {LARGEST_MIB}"
            )
        try:
            engines = build_engines(trt, typed.proto, settings, cards, job.reporter)
        except BuildError as error:
            raise TtlDeployError(str(error), fix="nothing was written") from error
        save_onnx(engines.proto, folder)
        typed.save_records(folder)
        files.write_bytes(folder / SAMPLES_FILE, samples(job, engines.proto, options.samples))
        for card, engine in engines.built.items():
            files.write_bytes(folder / engine_file(card), engine.plan)
        details = {**typed.details, DETAILS: rtx_details(str(trt.__version__), settings, engines.built, engines.head)}
        # ONNX Runtime has no bfloat16 for a CPU: there the graph is judged by whoever has.
        judge = None if job.precision == "bf16" else "onnxruntime"
        return Written(MODEL_FILE, details, {**graph_fields(options), "format": "onnx"}, judge)


EXPORTERS.register("trt-rtx", TrtRtxExporter())


def wanted(options: RtxOptions) -> tuple[str, ...]:
    """The architectures to build for: those asked for, or that of the GPU here.

    Raises:
        BadInputError: An unknown card; or none was named and there is no GPU.
    """
    if options.targets is not None:
        return architectures(options.targets)
    try:
        with Cuda() as cuda:
            return architectures(named(cuda.device().compute_capability))
    except CudaError as error:
        raise BadInputError(
            "no card was named, and no NVIDIA GPU is here", where="--for", fix="pass --for quadro-rtx-6000, sm86 …"
        ) from error


@dataclass(frozen=True)
class Engines:
    """Engines of one graph.

    Attributes:
        proto: The graph that all of them were built from.
        head: What stands in it for matrix products: `AS_EXPORTED`, or one of `FORMS`.
        built: By architecture.
    """

    proto: onnx.ModelProto
    head: str
    built: Mapping[str, Built]


def build_engines(
    trt: Any, proto: onnx.ModelProto, settings: Settings, cards: Sequence[str], reporter: Reporter = SILENT
) -> Engines:
    """Builds an engine for each architecture; in fp32 for Turing all are built from a graph with another head.

    Args:
        trt: TensorRT for RTX's module.
        proto: The typed graph.
        settings: How to build.
        cards: Architectures, none of which `rtx_cards.refuse` refuses in the precision.
        reporter: Told of every engine.

    Raises:
        BuildError: One of them cannot be built, in any form of the graph.
        BadInputError: The library would not take the graph for Turing.
    """
    refused: BuildError | None = None
    for head, candidate in _candidates(proto, settings, cards):
        content = candidate.SerializeToString(deterministic=True)
        try:
            built = {}
            for card in cards:
                with reporter.task(f"building the engine for {card}", None):
                    built[card] = build_for(trt, content, settings, card)
            return Engines(candidate, head, built)
        except BuildError as error:
            refused = error
    assert refused is not None
    raise refused


def _candidates(
    proto: onnx.ModelProto, settings: Settings, cards: Sequence[str]
) -> Iterator[tuple[str, onnx.ModelProto]]:
    if TURING not in cards or settings.precision != "fp32":
        yield AS_EXPORTED, proto
        return
    for head in FORMS:
        candidate = rewritten(proto, head)
        refuse_unsupported(candidate, turing=True)
        yield head, candidate
