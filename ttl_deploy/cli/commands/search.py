"""`ttl-deploy search`: data becomes the cut, and a trained model cut there."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.forms import request_form
from ttl_deploy.cli.options import Log
from ttl_deploy.cli.recipes import show_paper, tell_recipe
from ttl_deploy.first_use import importing
from ttl_deploy.spec import Data, Network
from ttl_deploy.spec.search import SearchOptions, SearchProtocol

NAME = "search"
ORDER = 4
NEEDS_ARGUMENTS = True

_ENGINE, _OUTPUT = "Where it runs", "Output"


@request_form
def run(
    data: Data,
    network: Network,
    options: SearchOptions,
    protocol: SearchProtocol,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the search; the same command goes on with one that was killed.", rich_help_panel=_OUTPUT
        ),
    ],
    engine: Annotated[
        str, typer.Option(help="local: one trial after the other. ray: as a cluster allows.", rich_help_panel=_ENGINE)
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="ray: address of a running cluster, or auto. Its nodes must see the data and --out.",
            show_default="one is started here",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(
            help="ray: GPUs of one trial; 0.5: two share one.",
            show_default="1 with --device cuda, else 0",
            rich_help_panel=_ENGINE,
            min=0,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is at --out.", rich_help_panel=_OUTPUT)
    ] = False,
    log: Log = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_OUTPUT)] = False,
) -> None:
    """Find where to cut a network for your images, and train the model cut there.

    Leaves OUT/winner, an ordinary run for `export`, and OUT/report.html with every candidate's accuracy and cost.
    """
    from ttl_deploy.cut_search.engines import open_engine
    from ttl_deploy.papers.recipes import with_recipe

    with importing():
        from ttl_deploy.verbs.search import search

    reporter = console.ConsoleReporter(quiet=as_json)
    data, network, protocol = with_recipe(data, network, protocol)
    tell_recipe(protocol.recipe, reporter)
    gpus = gpus_per_trial if gpus_per_trial is not None else float(protocol.device == "cuda")
    with open_engine(engine, threads=options.cores, gpus=gpus, address=address) as where:
        outcome = search(
            data,
            network,
            protocol,
            out,
            options=options,
            engine=where,
            overwrite=overwrite,
            log=log or (),
            reporter=reporter,
        )
    _show(outcome, as_json)


def _show(outcome: Any, as_json: bool) -> None:
    if as_json:
        console.print_json({"search": str(outcome.folder), **outcome.result})
        return
    rows = [
        (
            f"{row.cut} *" if row.cut == outcome.result["cut"] else row.cut,
            None if row.value is None else f"{row.value:.4f} ± {row.error:.4f}",
            row.epochs,
            f"{row.parameters / 1e6:.3f}",
            f"{row.macs / 1e9:.3f}",
            None if row.latency_ms is None else f"{row.latency_ms:.2f}",
            f"{row.seconds:.1f}",
            row.status,
        )
        for row in outcome.rows
    ]
    metric = outcome.result["metric"].upper()
    columns = ("cut", f"val {metric}", "epochs", "params (M)", "MACs (G)", "ms", "trained (s)", "status")
    console.table(f"{outcome.folder}: * the chosen cut", columns, rows)
    console.line(outcome.answer)
    show_paper(outcome.winner.metrics())
    console.line(
        f"report: {outcome.folder / 'report.html'}; next: ttl-deploy export {quote(str(outcome.winner.folder))}"
    )
