"""`ttl-deploy quickstart`: everything once, on synthetic images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttl_deploy.cli import console

NAME = "quickstart"
ORDER = 28
NEEDS_ARGUMENTS = False


def run(
    report: Annotated[Path, typer.Option(help="Where the HTML report goes.")] = Path("reports/quickstart.html"),
    keep: Annotated[
        Path | None, typer.Option(help="Keep images, runs and artifact in this folder.", show_default="removed")
    ] = None,
    task: Annotated[
        str, typer.Option(help="image: lesions by their texture. ct: studies of slices, in 3-D.")
    ] = "image",
    images: Annotated[
        int | None, typer.Option(help="Synthetic images or studies.", min=60, show_default="600, of ct 160")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of images, weights and training.", min=0)] = 0,
) -> None:
    """Train, export, verify and benchmark on synthetic images, and write a report: a few minutes on two cores.

    The images carry texture lesions, the studies filled vessels; both are made so that the bottom layers suffice.
    """
    from ttl_deploy.verbs.quickstart import quickstart

    outcome = quickstart(
        report=report, keep=keep, task=task, images=images, seed=seed, reporter=console.ConsoleReporter()
    )
    rows = []
    for name, metrics in (("TTL", outcome.small), ("FTL", outcome.whole)):
        fastest = min(
            (r.measurement for r in outcome.rows if (r.role == "own") == (name == "TTL")),
            key=lambda m: m.p50_ms or m.mean_ms,
        )
        rows.append(
            (
                name,
                f"{metrics['test']['auroc']:.3f}",
                f"{metrics['parameters'] / 1e6:.2f}",
                f"{metrics['macs'] / 1e9:.3f}",
                f"{fastest.p50_ms or fastest.mean_ms:.2f} ({fastest.runtime})",
            )
        )
    console.table("held-out images", ("model", "AUROC", "params (M)", "MACs (G)", "fastest engine, ms per image"), rows)
    parity = outcome.manifest.parity
    if parity:
        console.line(f"parity of the exported model: {parity.verdict} ({parity.images} test images)")
    console.line(f"report: {outcome.report}")
