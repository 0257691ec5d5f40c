"""`ttl-deploy doctor`: what this machine can export and run, and why not the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.options import PixelCache
from ttl_deploy.first_use import importing

if TYPE_CHECKING:
    from ttl_deploy.verbs.doctor import Usable

NAME = "doctor"
ORDER = 25
NEEDS_ARGUMENTS = False


def run(
    cache: PixelCache = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which formats and runtimes this machine can use, and why not the others.

    Nothing is exported or run: usable means that what is needed is here. With trust: the runtime runs native code, so
    artifacts need --key or --trust there.
    """
    with importing():
        from ttl_deploy.verbs.doctor import doctor

    found = doctor(cache=cache)
    if as_json:
        console.print_json(found.model_dump(mode="json"))
        return
    console.table("this machine", ("", "value"), list(found.facts.items()), right_from=2)
    rows = [(u.kind, u.name, u.variant, _usable(u), u.reason) for u in (*found.formats, *found.runtimes)]
    console.table("formats and runtimes", ("", "name", "precision / device", "usable", "why not"), rows, right_from=5)


def _usable(found: Usable) -> str:
    from ttl_deploy.runtime import native_code

    if found.reason:
        return "no"
    return "with trust" if found.kind == "runtime" and native_code(found.name) else "yes"
