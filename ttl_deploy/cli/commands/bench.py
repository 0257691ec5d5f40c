"""`ttl-deploy bench`: how fast an artifact is here, beside PyTorch and the whole network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.paper import show_paper

NAME = "bench"
ORDER = 6
NEEDS_ARGUMENTS = True


def run(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Artifacts or runs.", metavar="ARTIFACT|RUN...", show_default=False)
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Check the papers' complexity tables instead, and write the report.")
    ] = False,
    batch: Annotated[int, typer.Option(help="Images per call.", min=1)] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads per call.", show_default="one per core", min=1)] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    runtime: Annotated[
        list[str] | None, typer.Option(help="Engine; may be given several times.", show_default="all that can")
    ] = None,
    whole: Annotated[bool, typer.Option(help="Measure the whole (FTL) network of the backbone too.")] = True,
    min_samples: Annotated[int, typer.Option(help="Least samples per row.", min=1)] = 60,
    min_seconds: Annotated[float, typer.Option(help="Least seconds per row.")] = 3.0,
    rounds: Annotated[int, typer.Option(help="How many times the rows take turns.", min=1)] = 3,
    out: Annotated[
        Path | None,
        typer.Option(
            help="JSON file for the rows with every raw sample; with --paper the folder of the report, [reports]."
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps exported whole networks.", show_default="the user's")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON, raw samples included.")] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="Time this program's own workloads and compare with this file.", metavar="FILE")
    ] = None,
    max_regression: Annotated[
        str | None, typer.Option(help="With --baseline: most slowdown, exit code 1 above.", show_default="10%")
    ] = None,
    update_baseline: Annotated[bool, typer.Option(help="With --baseline: write the file.")] = False,
    workload: Annotated[
        list[str] | None, typer.Option(help="With --baseline: only this one; may be repeated.", show_default="all")
    ] = None,
) -> int:
    """Measure latency, each row in its own process, in turns, until there are enough samples.

    An artifact inside its run is measured in every engine, as PyTorch eager, and beside the whole network of its
    backbone (untrained: weights do not change latency). A percentile is blank where the samples are too few.
    """
    if paper:
        return show_paper(paths, out=out, as_json=as_json)
    if baseline is not None or max_regression is not None or update_baseline or workload:
        from ttl_deploy.cli import regression

        return regression.run(
            baseline, max_regression, update_baseline=update_baseline, names=workload, paths=paths, as_json=as_json
        )
    from ttl_deploy import hardware
    from ttl_deploy.workflows.bench import bench, record

    rows = bench(
        paths or [],
        batch=batch,
        threads=threads,
        device=device,
        runtimes=runtime,
        compare_whole=whole,
        min_samples=min_samples,
        min_seconds=min_seconds,
        rounds=rounds,
        out=out,
        cache=cache,
        reporter=console.ConsoleReporter(quiet=as_json),
    )
    if as_json:
        console.print_json(record(rows))
        return 0
    m = rows[0].measurement
    console.table(
        f"{hardware.describe().name}, {m.threads} threads, batch {batch}: milliseconds per call",
        ("model", "engine", "precision", "params (M)", "MACs (G)", "p50", "p90", "p99", "images/s", "samples", "speed"),
        [
            (
                row.model,
                row.measurement.runtime,
                row.measurement.precision,
                f"{row.parameters / 1e6:.2f}",
                f"{row.macs / 1e9:.3f}",
                _ms(row.measurement.p50_ms),
                _ms(row.measurement.p90_ms),
                _ms(row.measurement.p99_ms),
                f"{row.measurement.throughput:.1f}",
                len(row.measurement.samples_ms),
                None if row.ratio is None else f"{row.ratio:.2f}x",
            )
            for row in rows
        ],
        right_from=3,
    )
    if any(row.ratio is not None for row in rows):
        console.line("speed: against the whole network in PyTorch eager, medians")
    return 0


def _ms(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"
