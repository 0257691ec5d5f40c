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


def bounds_of(precision: str, auroc: float | None, auprc: float | None, agreement: float | None) -> Bounds:
    """The default bounds of a precision, with the user's in their place.

    Raises:
        BadInputError: A bound is out of range.
    """
    from ttl_deploy.parity import Bounds
    from ttl_deploy.spec import make_record

    given = {"max_auroc_drop": auroc, "max_auprc_drop": auprc, "min_label_agreement": agreement}
    defaults = Bounds.for_precision(precision).model_dump()
    return make_record(Bounds, **{**defaults, **{k: v for k, v in given.items() if v is not None}})
