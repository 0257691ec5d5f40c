"""`ttl-deploy synthetic`: images to try everything on where there are none."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from ttl_deploy.cli import console

NAME = "synthetic"
ORDER = 27
NEEDS_ARGUMENTS = True


def run(
    folder: Annotated[Path, typer.Argument(help="Folder to write: one folder per class, and labels.csv.")],
    images: Annotated[int, typer.Option(help="How many images.", min=12)] = 600,
    size: Annotated[int, typer.Option(help="Pixels.", min=32)] = 96,
    seed: Annotated[int, typer.Option(help="Seed.", min=0)] = 0,
) -> None:
    """Write synthetic images with texture lesions, to try the other commands on."""
    from ttl_deploy.data.synthetic import write_synthetic

    write_synthetic(folder, images=images, size=size, seed=seed, reporter=console.ConsoleReporter())
    console.line(
        f"wrote {images} images to {folder}; next: ttl-deploy train {quote(str(folder / 'labels.csv'))} --help"
    )
