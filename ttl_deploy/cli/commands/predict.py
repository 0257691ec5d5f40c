"""`ttl-deploy predict`: class probabilities of images, without torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.forms import form
from ttl_deploy.errors import BadInputError, near, printable
from ttl_deploy.first_use import importing
from ttl_deploy.spec import Placement, Stream, Table, Trust

if TYPE_CHECKING:
    from ttl_deploy.prediction.predictor import Prediction

NAME = "predict"
ORDER = 8
NEEDS_ARGUMENTS = True

_TABLE_ROWS = 1000
"""Rows of one table on the screen; more go into the next table, so that none is ever held whole."""


@form
def run(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files (DICOM too), folders, patterns such as 'scans/*.png', or a CSV with the column path "
            "and, where wanted, id."
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(help="table, csv, jsonl (an object per line) or json.", show_default="table; csv with --out"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write to this file, csv or jsonl; run again, the command skips the images that are in it."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin the file at --out again.")] = False,
    *,
    placement: Placement,
    stream: Stream,
    trust: Trust,
    table: Table,
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
) -> None:
    """Predict class probabilities of images with an artifact, as a stream in constant memory.

    Preprocessing is the artifact's own, the same code that validated the model.
    """
    with importing():
        from ttl_deploy.verbs.predict import predict

    chosen = "json" if as_json else format
    known = ("csv", "jsonl") if out is not None else tuple(_SHOW)
    if chosen is not None and chosen not in known:
        place = " for --out" if out is not None else ""
        raise BadInputError(f"unknown format {chosen!r}{place}", fix=near(chosen, known))
    reporter = console.ConsoleReporter(quiet=len(images) == 1 and out is None and Path(images[0]).is_file())
    how: dict[str, Any] = {
        "placement": placement,
        "stream": stream,
        "trust": trust,
        "table": table,
        "reporter": reporter,
    }
    if out is None:
        _SHOW[chosen or "table"](predict(artifact, images, **how))
    else:
        done = predict(artifact, images, out=out, overwrite=overwrite, lines=chosen, **how)
        reporter.info(f"{out}: {done.written} written, {done.present} were there, {done.unreadable} unreadable")


def _columns(result: Prediction) -> tuple[str, ...]:
    from ttl_deploy.prediction.file import columns_of

    return columns_of(result.probabilities, has_ids=result.id is not None)


def _cells(result: Prediction) -> tuple[str, ...]:
    first = (result.id,) if result.id is not None else ()
    return (*first, result.image, printable(result.label), *(f"{p:.6f}" for p in result.probabilities.values()))


def _table(results: Iterator[Prediction]) -> None:
    while chunk := list(islice(results, _TABLE_ROWS)):
        console.table("", _columns(chunk[0]), [_cells(r) for r in chunk], right_from=2)


def _csv(results: Iterator[Prediction]) -> None:
    from ttl_deploy.prediction.file import csv_line

    for number, result in enumerate(results):
        if not number:
            console.data_line(_text(csv_line(_columns(result))))
        console.data_line(_text(csv_line(_cells(result))))


def _jsonl(results: Iterator[Prediction]) -> None:
    for result in results:
        console.line(json.dumps(_record(result)))


def _json(results: Iterator[Prediction]) -> None:
    """One array, written as it grows."""
    before: Prediction | None = None
    console.line("[")
    for result in results:
        if before is not None:
            console.line(json.dumps(_record(before), indent=2) + ",")
        before = result
    if before is not None:
        console.line(json.dumps(_record(before), indent=2))
    console.line("]")


def _record(result: Prediction) -> dict[str, object]:
    from ttl_deploy.prediction.file import json_record

    return json_record(result.image, result.id, result.label, result.probabilities)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape").removesuffix("\n")


_SHOW: dict[str, Callable[[Iterator[Prediction]], None]] = {
    "table": _table,
    "csv": _csv,
    "jsonl": _jsonl,
    "json": _json,
}
