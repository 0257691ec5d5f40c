"""`ttl-deploy export`: a run becomes an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.options import bounds_of

NAME = "export"
ORDER = 4
NEEDS_ARGUMENTS = True


def run(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    format: Annotated[
        str, typer.Option(help="Format of the artifact: onnx (ONNX Runtime and OpenVINO run it).")
    ] = "onnx",
    precision: Annotated[str | None, typer.Option(help="Precision.", show_default="the format's first")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the artifact.", show_default="RUN/FORMAT-PRECISION")
    ] = None,
    max_auroc_drop: Annotated[
        float | None, typer.Option(help="Most AUROC the artifact may lose.", show_default="0.005")
    ] = None,
    max_auprc_drop: Annotated[
        float | None, typer.Option(help="Most AUPRC the artifact may lose.", show_default="0.005")
    ] = None,
    min_label_agreement: Annotated[
        float | None, typer.Option(help="Least fraction of images with the same predicted class.", show_default="0.99")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the pixel cache.", show_default="the user's cache folder")
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(help="Also put the artifact into this Triton model repository.", show_default="none"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an artifact that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Export a run's best model, and refuse (exit code 1) if it does not predict what PyTorch predicts.

    The check runs on the run's own test split; its result is kept in the artifact's manifest.
    """
    from ttl_deploy.export.export_run import export_run

    bounds = bounds_of(precision or "fp32", max_auroc_drop, max_auprc_drop, min_label_agreement)
    reporter = console.ConsoleReporter(quiet=as_json)
    made = export_run(
        run,
        format=format,
        precision=precision,
        out=out,
        bounds=bounds,
        overwrite=overwrite,
        cache=cache,
        reporter=reporter,
    )
    manifest = made.manifest
    if triton is not None:
        from ttl_deploy.serve.triton import write_repository

        reporter.info(f"Triton model: {write_repository(made, triton, overwrite=overwrite)}")
    if as_json:
        console.print_json({"artifact": str(made.folder), **manifest.model_dump(mode="json")})
        return
    size = sum(record.size for record in manifest.files.values())
    rows = [
        ("model", f"{manifest.model.backbone} {manifest.model.method} {manifest.model.cut or ''}".strip()),
        ("classes", ", ".join(manifest.model.classes)),
        ("parameters", f"{manifest.parameters / 1e6:.3f} M"),
        ("MACs", f"{manifest.macs / 1e9:.3f} G"),
        ("size", f"{size / 1e6:.2f} MB"),
    ]
    if manifest.parity:
        rows.append(("parity", f"{manifest.parity.verdict} on {manifest.parity.images} test images"))
        rows += [("", part) for part in manifest.parity.reason.split("; ")]
    console.table(f"{made.folder}: {manifest.format} {manifest.precision}", ("", "value"), rows, right_from=2)
    console.line(f"next: ttl-deploy verify {made.folder}; ttl-deploy bench {made.folder}")
