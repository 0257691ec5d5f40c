"""`ttl-deploy bench`: how fast an artifact is here, beside PyTorch and the whole network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ttl_deploy.cli import bench_tables, console
from ttl_deploy.cli.forms import form
from ttl_deploy.cli.options import AllowInconclusive, Device, SamplesAsJson, SamplesFile, integers
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Scenario, Trust

NAME = "bench"
ORDER = 7
NEEDS_ARGUMENTS = True

_LENGTH = "How long"
_AGAINST = "What rows are set against"


@form
def run(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Artifacts or runs.", metavar="ARTIFACT|RUN", show_default=False)
    ] = None,
    batch: Annotated[
        str,
        typer.Option(
            help="Images per call; several: 1,8,32.",
        ),
    ] = "1",
    threads: Annotated[
        str | None,
        typer.Option(
            help="Threads per call; several: 1,2.",
            show_default="one per core",
        ),
    ] = None,
    device: Device = "cpu",
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="Engine; may be given several times.",
            show_default="all that can",
        ),
    ] = None,
    torch: Annotated[
        str,
        typer.Option(
            help="How PyTorch runs: eager, compile, bf16, cuda-graph; several with commas.",
        ),
    ] = "eager",
    whole: Annotated[
        bool,
        typer.Option(help="Measure the whole (FTL) network of the backbone too.", rich_help_panel=_AGAINST),
    ] = True,
    min_samples: Annotated[int, typer.Option(help="Least samples per row.", min=1, rich_help_panel=_LENGTH)] = 60,
    min_seconds: Annotated[float, typer.Option(help="Least seconds per row.", min=0, rich_help_panel=_LENGTH)] = 3.0,
    rounds: Annotated[
        int, typer.Option(help="How many times the rows take turns.", min=1, rich_help_panel=_LENGTH)
    ] = 3,
    out: SamplesFile = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Not needed, for runs whose images moved neither: latency is measured on random pixels, and no image "
            "is read. Taken so that one set of options serves export, verify and bench.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps exported whole networks and ceilings.", show_default="the user's"),
    ] = None,
    *,
    trust: Trust,
    as_json: SamplesAsJson = False,
    allow_inconclusive: AllowInconclusive = False,
    scenario: Scenario,
    roofline: Annotated[
        bool,
        typer.Option(
            help="Show each row's per cent of the roofline; the ceiling is measured where it is not known.",
            rich_help_panel=_AGAINST,
        ),
    ] = True,
    target: Annotated[
        str | None,
        typer.Option(
            help="Estimate the least time on another device too, such as quadro-rtx-6000 or core-i9-9920x.",
            rich_help_panel=_AGAINST,
        ),
    ] = None,
) -> int:
    """Measure latency, each row in its own process, in turns, until there are enough samples.

    An artifact inside its run is measured in every engine, as PyTorch eager, and beside the whole network of its
    backbone (untrained: weights do not change latency). A percentile is blank where the samples are too few, and a
    row says inconclusive where the machine was too disturbed for a number; the samples are kept in any case. Exit
    code 1 where anything is inconclusive, as verify does, unless --allow-inconclusive.
    """
    if data is not None and not data.exists():
        raise BadInputError("no such file or folder", where=data, fix="leave --data out: no image is needed here")
    sure = _rows(
        paths or [],
        {
            "batch": integers(batch, "--batch") or (1,),
            "threads": integers(threads, "--threads"),
            "device": device,
            "runtime": runtime,
            "torch": tuple(name.strip() for name in torch.split(",")),
            "whole": whole,
            "scenario": scenario,
            "min_samples": min_samples,
            "min_seconds": min_seconds,
            "rounds": rounds,
            "roofline": roofline,
            "trust": trust,
            "out": out,
            "cache": cache,
        },
        target,
        as_json,
    )
    return bench_tables.exit_code(sure=sure, allowed=allow_inconclusive)


def _rows(paths: list[Path], options: dict[str, Any], target: str | None, as_json: bool) -> bool:
    """Measures and prints; whether no row is inconclusive."""
    from ttl_deploy.latency.targets import get_target
    from ttl_deploy.verbs.bench import bench, record
    from ttl_deploy.verbs.estimate import estimate

    if target is not None:
        get_target(target)  # a wrong name is told before anything is measured
    rows = bench(paths, **options, reporter=console.ConsoleReporter(quiet=as_json))
    estimates = estimate(rows, target) if target is not None else []
    sure = not any(row.measurement.inconclusive for row in rows)
    if as_json:
        more = {"estimates": [e.as_dict() for e in estimates]} if target is not None else {}
        console.print_json({**record(rows), **more})
        return sure
    bench_tables.print_rows(rows)
    if target is not None:
        bench_tables.print_estimates(estimates, target)
    return sure
