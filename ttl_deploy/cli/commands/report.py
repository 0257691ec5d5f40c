"""`ttl-deploy report`: one file for who was not there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttl_deploy.cli import console

NAME = "report"
ORDER = 15
NEEDS_ARGUMENTS = True


def run(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of runs or artifacts, folders of those, files of ttl-deploy bench --out, and folders of "
            "ttl-deploy analyze.",
            metavar="RUN|ARTIFACT|FOLDER",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The file: a page where it ends in .html, Markdown where it ends in .md.")
    ] = Path("report.html"),
    subgroup: Annotated[
        list[str] | None,
        typer.Option(
            help="A column of the runs' table whose values divide the test side, numbers in quarters; may be given "
            "several times.",
            metavar="COLUMN",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Where that table is now, or the folder it lies in.", show_default="where it was"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file at --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was reported as JSON.")] = False,
) -> int:
    """Write one file that says what a model is worth: the answer first, then what it stands on.

    Accuracy with intervals, curves, decisions, parity, latencies, data and commands, all from the files of runs and
    artifacts, which are held against their hashes first. The page needs no network and no other file, and every
    figure has its numbers as CSV in it. Several models are set beside each other.
    """
    from ttl_deploy.verbs.report import report

    found = report(
        paths,
        out=out,
        subgroup=subgroup or (),
        data=data,
        overwrite=overwrite,
        reporter=console.ConsoleReporter(quiet=as_json),
    )
    if as_json:
        console.print_json(found.as_dict())
        return 0
    console.line(found.lead)
    console.line(f"report: {found.out}")
    return 0
