"""`ttl-deploy ceiling`: what this machine can do at most."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttl_deploy.cli import bench_tables, console
from ttl_deploy.cli.options import AllowInconclusive, Device, integers

NAME = "ceiling"
ORDER = 21
NEEDS_ARGUMENTS = False


def run(
    threads: Annotated[
        str | None, typer.Option(help="Threads; several, one after the other: 1,2.", show_default="one per core")
    ] = None,
    device: Device = "cpu",
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps ceilings.", show_default="the user's")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the result with every try.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, every try included.")] = False,
    allow_inconclusive: AllowInconclusive = False,
) -> int:
    """Measure what this machine can do at most (GOP/s per precision, GB/s), print it, and keep it for bench.

    The best of many tries is the ceiling. Exit code 1 where the machine was too disturbed, unless
    --allow-inconclusive; such a ceiling is not kept.
    """
    from ttl_deploy.verbs.ceiling import ceiling

    found = ceiling(
        threads=integers(threads, "--threads"),
        device=device,
        cache=cache,
        out=out,
        reporter=console.ConsoleReporter(quiet=as_json),
    )
    if as_json:
        console.print_json([each.model_dump(mode="json") for each in found])
    else:
        for each in found:
            bench_tables.print_ceiling(each)
    return bench_tables.exit_code(sure=all(each.noise is None for each in found), allowed=allow_inconclusive)
