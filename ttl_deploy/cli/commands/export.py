"""`ttl-deploy export`: a run becomes an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.forms import form
from ttl_deploy.cli.options import PixelCache, device_word
from ttl_deploy.errors import BadInputError
from ttl_deploy.first_use import importing
from ttl_deploy.formats.options import FORMAT_OPTIONS
from ttl_deploy.spec import Bounds
from ttl_deploy.spec.options import Offered
from ttl_deploy.spec.said import Without

if TYPE_CHECKING:
    from ttl_deploy.artifact import Artifact
    from ttl_deploy.formats.auto import Contender

NAME = "export"
ORDER = 5
NEEDS_ARGUMENTS = True


@form
def run(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    format: Annotated[
        str,
        typer.Option(
            help="onnx, openvino, trt, trt-rtx, pt2, torchscript, torch-trt (`doctor` says which can be written here); "
            "auto: of all, the fastest that passes."
        ),
    ] = "onnx",
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, bf16, int8 …", show_default="the format's first")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the artifact.", show_default="RUN/FORMAT-PRECISION")
    ] = None,
    *,
    bounds: Annotated[Bounds, Without("preset", "max_logit_difference", "max_typical_difference", "min_metric_ratio")],
    device: Annotated[str, typer.Option(help="--format auto: cpu or cuda.", callback=device_word)] = "cpu",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Where the run's images are now, if they moved; other images are refused.", show_default="as recorded"
        ),
    ] = None,
    cache: PixelCache = None,
    triton: Annotated[
        Path | None,
        typer.Option(help="Also put the artifact into this Triton model repository.", show_default="none"),
    ] = None,
    defer_build: Annotated[
        bool,
        typer.Option("--defer-build", help="trt: write a kit that builds and checks the engine on the target instead."),
    ] = False,
    operating_point: Annotated[
        str | None,
        typer.Option(
            help="Two classes: what the second is said from: youden, sensitivity=0.95, specificity=0.9 or a "
            "probability. Chosen on the run's validation images; `predict` and `serve` decide by it.",
            show_default="the run's",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an artifact that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
    options: Annotated[dict[str, Any], Offered(FORMAT_OPTIONS)],
) -> None:
    """Export a run's best model, and refuse (exit code 1) if it does not predict what PyTorch predicts.

    The check runs on the run's own test split; its result is kept in the artifact's manifest.
    """
    from ttl_deploy.aliases import PRECISIONS, meant
    from ttl_deploy.formats.auto import AUTO, export_auto

    with importing():
        from ttl_deploy.verbs.export import export

    if precision is not None:
        precision = meant(precision, PRECISIONS, PRECISIONS.values())
    reporter = console.ConsoleReporter(quiet=as_json)
    if triton is not None:
        from ttl_deploy.serve.triton import refuse_windows
        from ttl_deploy.training.run import open_run

        refuse_windows(open_run(run).config.preprocess, run)
    if format.strip().casefold() == AUTO:
        _refuse_options(precision, {"defer_build": defer_build or None, **options})
        made, rows = export_auto(
            run,
            device=device,
            out=out,
            bounds=bounds,
            overwrite=overwrite,
            operating_point=operating_point,
            data=data,
            cache=cache,
            reporter=reporter,
        )
        if not as_json:
            _candidates(rows)
    else:
        made = export(
            run,
            format=format,
            precision=precision,
            out=out,
            bounds=bounds,
            overwrite=overwrite,
            defer_build=defer_build,
            operating_point=operating_point,
            data=data,
            cache=cache,
            reporter=reporter,
            settings=options,
        )
    manifest = made.manifest
    if triton is not None:
        from ttl_deploy.serve.triton import write_repository

        reporter.info(f"Triton model: {write_repository(made, triton, overwrite=overwrite)}")
    if as_json:
        console.print_json({"artifact": str(made.folder), **manifest.model_dump(mode="json")})
        return
    from ttl_deploy.runtime.trt_rtx import DETAILS
    from ttl_deploy.tasks import task_of

    size = sum(record.size for record in manifest.files.values())
    facts = [
        ("model", f"{manifest.model.backbone} {manifest.model.method} {manifest.model.cut or ''}".strip()),
        ("classes", ", ".join(manifest.model.classes)),
        ("parameters", f"{manifest.parameters / 1e6:.3f} M"),
        ("MACs", f"{manifest.macs / 1e9:.3f} G"),
        ("size", f"{size / 1e6:.2f} MB"),
    ]
    if manifest.operating_point is not None:
        facts.append((f"{task_of(manifest.model).positive} from", str(manifest.operating_point)))
    if manifest.parity:
        engine = f" in {manifest.parity.runtime}" if manifest.parity.runtime else ""
        facts.append(("parity", f"{manifest.parity.verdict} on {manifest.parity.images} test images{engine}"))
        facts += [("", part) for part in manifest.parity.reason.split("; ")]
    if "quantisation" in manifest.details:
        kept = manifest.details["quantisation"]["float_layers"]
        facts.append(("layers in float", ", ".join(kept) or "none"))
        facts.append(("MACs in int8", f"{manifest.details['quantisation']['int8_macs']:.0%}"))
    if manifest.precision == "int8" and format.strip().casefold() != AUTO:
        facts += _int8_speed(run, made, data, cache)
    if DETAILS in manifest.details:
        engines = manifest.details[DETAILS]["engines"].values()
        facts.append(("engines", ", ".join(engine["file"] for engine in engines)))
    console.table(f"{made.folder}: {manifest.format} {manifest.precision}", ("", "value"), facts, right_from=2)
    if "kit" in manifest.details:
        console.line(f"next: copy {made.folder} to the target and run build_engine.py there (README.md in it)")
        return
    against = "" if made.folder.resolve().parent == run.resolve() else f" --against {quote(str(run))}"
    folder = quote(str(made.folder))
    console.line(f"next: ttl-deploy verify {folder}{against}; ttl-deploy bench {folder}")


def _int8_speed(run: Path, made: Artifact, data: Path | None, cache: Path | None) -> list[tuple[str, str]]:
    """Whether int8 is the faster one here, where that can be measured."""
    from ttl_deploy.formats.int8_speed import against_float

    found = against_float(run, made, data=data, cache=cache)
    return (
        [] if found is None else [("speed" if i == 0 else "", part) for i, part in enumerate(found.words.split("; "))]
    )


def _refuse_options(precision: str | None, options: Mapping[str, Any]) -> None:
    named = [name for name, value in {"precision": precision, **options}.items() if value is not None]
    if named:
        raise BadInputError(f"--format auto chooses for itself, --{named[0].replace('_', '-')} does not go with it")


def _candidates(rows: Sequence[Contender]) -> None:
    console.table(
        "what was tried",
        ("format", "precision", "engine", "parity", "ms", "MB", "reason"),
        [
            (
                row.format + (" *" if row.chosen else ""),
                row.precision,
                row.runtime or None,
                row.verdict or None,
                None if row.p50_ms is None else f"{row.p50_ms:.2f}",
                None if row.size_mb is None else f"{row.size_mb:.2f}",
                "" if row.verdict == "pass" else row.reason,
            )
            for row in rows
        ],
        right_from=4,
    )
