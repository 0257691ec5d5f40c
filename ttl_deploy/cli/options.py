"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def device_word(value: str | None) -> str | None:
    """The device that the user means, such as cuda for `gpu`; typer calls it with an option's value."""
    from ttl_deploy.aliases import device_of

    return None if value is None else device_of(value)


INCONCLUSIVE_HELP = "Exit with 0 too where the machine was too disturbed to tell."
"""Of a measurement."""

AllowInconclusive = Annotated[bool, typer.Option("--allow-inconclusive", help=INCONCLUSIVE_HELP)]
Device = Annotated[str, typer.Option(help="cpu or cuda.", callback=device_word)]
PixelCache = Annotated[
    Path | None, typer.Option(help="Folder of the pixel cache.", show_default="the user's cache folder")
]
SamplesFile = Annotated[Path | None, typer.Option(help="JSON file for the result with every raw sample.")]
SamplesAsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, raw samples included.")]

Log = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        help="Tell csv (history.csv in a run's folder), tensorboard (event files there) or mlflow of every epoch too; "
        "mlflow goes to MLFLOW_TRACKING_URI, else to a store here. Commas between them, or several times.",
        metavar="NAME",
        show_default="none",
        rich_help_panel="Output",
    ),
]
"""Loggers of a training."""


def integers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Numbers from 1 up, written `1,8,32`; None stays None.

    Args:
        text: What the user wrote.
        option: Whose value it is, for the error.

    Raises:
        BadInputError: Something in it is no such number.
    """
    from ttl_deploy.errors import BadInputError

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise BadInputError(f"{text!r} is not a list of whole numbers from 1", where=option, fix="write 1 or 1,8,32")
    return tuple(int(part) for part in parts)
