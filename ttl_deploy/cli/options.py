"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ttl_deploy.parity import Bounds

Weights = Annotated[
    str,
    typer.Option(
        help="Starting weights: imagenet, random, a .safetensors or .pth file, or an earlier run's folder.",
        rich_help_panel="Model",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(help="Input size in pixels.", show_default="the backbone's, 224", rich_help_panel="Model"),
]
Channels = Annotated[int, typer.Option(help="3, or 1 for grey input.", rich_help_panel="Model")]
IgnoreOtherLabels = Annotated[
    bool,
    typer.Option(
        "--ignore-other-labels", help="Leave out images whose label is not in --classes.", rich_help_panel="Data"
    ),
]
PatientPattern = Annotated[
    str | None,
    typer.Option(
        help="Regular expression with one group that finds the patient in a file's path.", rich_help_panel="Data"
    ),
]
SkipUnreadable = Annotated[
    bool,
    typer.Option("--skip-unreadable", help="Leave out unreadable images, and count them.", rich_help_panel="Data"),
]
PixelCache = Annotated[
    Path | None,
    typer.Option(help="Folder of the pixel cache.", show_default="the user's cache folder", rich_help_panel="Data"),
]


def bounds_of(
    precision: str,
    auroc: float | None,
    auprc: float | None,
    agreement: float | None,
    logit_difference: float | None = None,
    calibration_shift: float | None = None,
    preset: str = "default",
) -> Bounds:
    """The bounds of a preset for a precision, with the user's in their place.

    Args:
        precision: Of the artifact.
        auroc: `max_auroc_drop`; None: the preset's, as for all that follow.
        auprc: `max_auprc_drop`.
        agreement: `min_label_agreement`.
        logit_difference: `max_logit_difference`.
        calibration_shift: `max_calibration_shift`.
        preset: Name of the preset.

    Raises:
        BadInputError: A bound is out of range, or the preset is unknown.
    """
    from ttl_deploy.parity import Bounds
    from ttl_deploy.spec import make_record

    given = {
        "max_auroc_drop": auroc,
        "max_auprc_drop": auprc,
        "min_label_agreement": agreement,
        "max_logit_difference": logit_difference,
        "max_calibration_shift": calibration_shift,
    }
    defaults = Bounds.preset(preset, precision).model_dump()
    return make_record(Bounds, **{**defaults, **{k: v for k, v in given.items() if v is not None}})


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
