"""`ttl-deploy compare`: which of two is faster, by how much, and how sure that is."""

from __future__ import annotations

from typing import Annotated

import typer

from ttl_deploy.cli import bench_tables, console
from ttl_deploy.cli.forms import form
from ttl_deploy.cli.options import AllowInconclusive, Device, SamplesAsJson, SamplesFile
from ttl_deploy.spec import Trust

NAME = "compare"
ORDER = 20
NEEDS_ARGUMENTS = True

_LENGTH = "How long, how sure"


@form
def run(
    a: Annotated[
        str,
        typer.Argument(
            help="An artifact or a run, and after an @ its engine: ARTIFACT@openvino, ARTIFACT@onnxruntime, "
            "RUN@pytorch, RUN@compile, RUN@bf16. Without one, an artifact's default engine, or PyTorch eager.",
            metavar="A",
        ),
    ],
    b: Annotated[str, typer.Argument(help="Likewise.", metavar="B")],
    batch: Annotated[int, typer.Option(help="Images per call.", min=1)] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads per call.", show_default="one per core", min=1)] = None,
    device: Device = "cpu",
    min_samples: Annotated[int, typer.Option(help="Least samples of each.", min=1, rich_help_panel=_LENGTH)] = 60,
    min_seconds: Annotated[float, typer.Option(help="Least seconds of each.", min=0, rich_help_panel=_LENGTH)] = 3.0,
    rounds: Annotated[
        int,
        typer.Option(
            help="How many blocks of each are measured; at least 6: fewer give no interval of 95 %.",
            min=1,
            rich_help_panel=_LENGTH,
        ),
    ] = 12,
    max_uncertainty: Annotated[
        float,
        typer.Option(
            help="Half the interval's width, per cent of the ratio, above which no ratio is given.",
            min=0,
            rich_help_panel=_LENGTH,
        ),
    ] = 5.0,
    *,
    trust: Trust,
    out: SamplesFile = None,
    as_json: SamplesAsJson = False,
    allow_inconclusive: AllowInconclusive = False,
) -> int:
    """Measure two in turns, A B B A, and give the ratio of their times with an interval of 95 %.

    Each block of calls has a process of its own. Exit code 1 where the interval is too wide or the machine was too
    disturbed for a ratio, unless --allow-inconclusive.
    """
    from ttl_deploy.verbs.compare import compare

    duel = compare(
        a,
        b,
        batch=batch,
        threads=threads,
        device=device,
        blocks=rounds,
        min_samples=min_samples,
        min_seconds=min_seconds,
        most_uncertain=max_uncertainty / 100,
        trust=trust,
        out=out,
        reporter=console.ConsoleReporter(quiet=as_json),
    )
    if as_json:
        console.print_json(duel.as_dict())
    else:
        bench_tables.print_duel(duel)
    return bench_tables.exit_code(sure=duel.sure, allowed=allow_inconclusive)
