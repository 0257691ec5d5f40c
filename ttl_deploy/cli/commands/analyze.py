"""`ttl-deploy analyze`: what training did to a network, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.options import PixelCache, device_word

NAME = "analyze"
ORDER = 17
NEEDS_ARGUMENTS = True


def run(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of finished runs; several are also compared with each other.", metavar="RUN"),
    ],
    what: Annotated[
        list[str] | None,
        typer.Option(
            help="all, or some of: svcca, cca, cka (features before and after training, at every cut), knn, probe "
            "(what the features at every cut tell), drift, reinit, filters (what became of the weights), features "
            "(pictures that filters answer to), gradcam (where runs look), fid (how far apart the images lie), "
            "convergence, and of several runs agreement, heads. Commas between them, or several times.",
            metavar="NAME",
            show_default="all that apply",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the figures, their numbers as CSV and JSON, and analysis.md.")
    ] = Path("analysis"),
    images: Annotated[int, typer.Option(help="Most images of a side, or of a comparison.", min=4)] = 2000,
    seed: Annotated[int, typer.Option(help="Of the images, positions and channels that are drawn.", min=0)] = 0,
    data: Annotated[
        Path | None,
        typer.Option(help="Where the images of the runs are now.", show_default="where they were"),
    ] = None,
    cache: PixelCache = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu or cuda.", callback=device_word, show_default="cuda where it is usable"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder at --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> int:
    """Show what training did to a network, layer by layer: figures, their numbers, a sentence for each.

    Layers have the names of the cuts (see `ttl-deploy cuts`), so that every curve shows where a search could have cut.
    An analysis that does not apply to a run is left out, with the reason; one that was named is refused before anything
    is computed.
    """
    from ttl_deploy.pages.looks import PAGE
    from ttl_deploy.verbs.analyze import ALL, analyze

    found = analyze(
        runs,
        what=what or ALL,
        out=out,
        images=images,
        seed=seed,
        data=data,
        cache=cache,
        device=device or "auto",
        overwrite=overwrite,
        reporter=console.ConsoleReporter(quiet=as_json),
    )
    if as_json:
        console.print_json(found.as_dict())
        return 0
    for name, finding in found.found.items():
        console.line(f"{name}: {finding.sentence}")
    console.line(f"analysis: {found.out / PAGE}")
    return 0
