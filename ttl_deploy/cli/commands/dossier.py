"""`ttl-deploy dossier`: a folder that says whether a model is accepted, and all that this stands on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.criteria_table import print_criteria
from ttl_deploy.cli.forms import form
from ttl_deploy.cli.options import PixelCache
from ttl_deploy.spec import Placement, Reading, Trust
from ttl_deploy.spec.said import Without

NAME = "dossier"
ORDER = 16
NEEDS_ARGUMENTS = True


@form
def run(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    criteria: Annotated[
        Path, typer.Option(help="Acceptance criteria, fixed beforehand in a YAML file; see verify.", show_default=False)
    ],
    source: Annotated[
        Path | None,
        typer.Option("--run", "--against", help="The run it comes from.", show_default="the run around the artifact"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Images to check on: a folder, CSV or .npz.", show_default="the run's test split"),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder.")] = Path("dossier"),
    *,
    reading: Annotated[Reading, Without("classes", "skip_unreadable", "val_data", "test_data")],
    placement: Placement,
    trust: Trust,
    sign_key: Annotated[
        Path | None,
        typer.Option(help="Private elliptic-curve key (PEM) that signs the folder; ttl-deploy sign makes one."),
    ] = None,
    allow_inconclusive: Annotated[
        bool, typer.Option("--allow-inconclusive", help="Exit with 0 too where a criterion cannot be judged.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the dossier at --out.")] = False,
    cache: PixelCache = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict and the criteria as JSON.")] = False,
) -> int:
    """Judge an artifact by acceptance criteria and write all that this stands on into one folder.

    Exit code 0 pass, 1 fail or inconclusive; the folder is written either way, verdict first. In it: the dossier as
    page and Markdown, the check, hashes of data, run and artifact, machine, versions, commands, the criteria and a bill
    of materials in CycloneDX 1.6. Needs the extra dossier, and with --sign-key the extra signing.
    """
    from ttl_deploy.verbs.dossier import dossier

    made = dossier(
        artifact,
        criteria=criteria,
        out=out,
        run=source,
        data=data,
        reading=reading,
        placement=placement,
        trust=trust,
        sign_key=sign_key,
        cache=cache,
        overwrite=overwrite,
        reporter=console.ConsoleReporter(quiet=as_json),
    )
    if as_json:
        console.print_json(made.as_dict())
    else:
        print_criteria(made.acceptance)
        console.line(made.lead)
        console.line(f"dossier: {made.out}")
    return 0 if made.result in (("pass", "inconclusive") if allow_inconclusive else ("pass",)) else 1
