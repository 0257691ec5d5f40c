"""`ttl-deploy predict`: class probabilities of images, without torch."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Annotated

import typer

from ttl_deploy.cli import console
from ttl_deploy.errors import BadInputError, near

NAME = "predict"
ORDER = 7
NEEDS_ARGUMENTS = True

_FORMATS = ("table", "csv", "json")


def run(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders, or patterns such as 'scans/*.png'.")],
    format: Annotated[str, typer.Option(help="table, csv or json.")] = "table",
    out: Annotated[
        Path | None, typer.Option(help="Write to this file instead of the screen; table becomes csv.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="onnxruntime or openvino.", show_default="the first that can")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(help="Threads for one batch.", show_default="one per core", min=1)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images run at once.", min=1)] = 8,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out unreadable images, with a warning.")
    ] = False,
    engine: Annotated[str, typer.Option(help="local, or ray: spread the images over a cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="ray: address of a running cluster.", show_default="one is started here")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file at --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
) -> None:
    """Predict class probabilities of images with an artifact.

    Preprocessing is the artifact's own, the same code that validated the model.
    """
    from ttl_deploy import files
    from ttl_deploy.workflows.predict import predict

    chosen = "json" if as_json else format
    if chosen not in _FORMATS:
        raise BadInputError(f"unknown format {chosen!r}", fix=near(chosen, _FORMATS))
    if out is not None:
        files.refuse_existing(out, overwrite=overwrite)
    if engine not in ("local", "ray"):
        raise BadInputError(f"unknown engine {engine!r}", fix="valid: local, ray")
    predicted = predict
    if engine == "ray":
        import functools

        from ttl_deploy.workflows.predict_ray import predict_ray

        predicted = functools.partial(predict_ray, address=address)
    results = list(
        predicted(
            artifact,
            images,
            runtime=runtime,
            device=device,
            threads=threads,
            batch_size=batch_size,
            skip_unreadable=skip_unreadable,
            reporter=console.ConsoleReporter(quiet=len(images) == 1 and out is None),
        )
    )
    rows = [(r.image, r.label, *(f"{p:.6f}" for p in r.probabilities.values())) for r in results]
    columns = ("image", "label", *(results[0].probabilities if results else ()))
    if chosen == "json":
        text = json.dumps([r.__dict__ for r in results], indent=2) + "\n"
    elif chosen == "csv" or out is not None:
        text = _csv(columns, rows)
    else:
        console.table("", columns, rows, right_from=2)
        return
    if out is not None:
        files.write_text(out, text)
    else:
        console.line(text.rstrip("\n"))


def _csv(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()
