"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ttl_deploy.parity import Bounds

DATA = "Data"


def device_word(value: str | None) -> str | None:
    """The device that the user means, such as cuda for `gpu`; typer calls it with an option's value."""
    from ttl_deploy.aliases import device_of

    return None if value is None else device_of(value)


Key = Annotated[
    Path | None,
    typer.Option(
        "--key",
        help="Public key (PEM): refuse an artifact that it has not signed, file by file, before anything of it is "
        "read (extra signing; see sign).",
        show_default=False,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run native code in the artifact (TensorRT engines, AOTInductor packages), which may do whatever you may. "
        "Not needed for what --key has signed.",
    ),
]

INCONCLUSIVE_HELP = "Exit with 0 too where the machine was too disturbed to tell."
"""Of a measurement."""

AllowInconclusive = Annotated[bool, typer.Option("--allow-inconclusive", help=INCONCLUSIVE_HELP)]
Device = Annotated[str, typer.Option(help="cpu or cuda.", callback=device_word)]
SamplesFile = Annotated[Path | None, typer.Option(help="JSON file for the result with every raw sample.")]
SamplesAsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, raw samples included.")]

PixelCache = Annotated[
    Path | None,
    typer.Option(help="Folder of the pixel cache.", show_default="the user's cache folder", rich_help_panel=DATA),
]

BOUNDS = "Bounds"

MaxAurocDrop = Annotated[
    float | None,
    typer.Option(
        help="Most AUROC the artifact may lose. The whole 95 % interval of the loss inside: pass; all of it "
        "outside: fail; else inconclusive, with the number of images that would tell.",
        show_default="0.005",
        rich_help_panel=BOUNDS,
    ),
]
MaxAuprcDrop = Annotated[
    float | None,
    typer.Option(
        help="Most AUPRC the artifact may lose; judged likewise.", show_default="0.005", rich_help_panel=BOUNDS
    ),
]
MaxKappaDrop = Annotated[
    float | None,
    typer.Option(
        help="Grades: most quadratic kappa the artifact may lose; judged likewise.",
        show_default="0.005",
        rich_help_panel=BOUNDS,
    ),
]
MinLabelAgreement = Annotated[
    float | None,
    typer.Option(
        help="Least fraction of images with the same predicted class. Below it but not surely: inconclusive.",
        show_default="0.99",
        rich_help_panel=BOUNDS,
    ),
]
MaxProbabilityDifference = Annotated[
    float | None,
    typer.Option(
        help="Most that any probability of any image may change.",
        show_default="by precision: fp32 0.0001, fp16 0.1, bf16 0.2, int8 0.35",
        rich_help_panel=BOUNDS,
    ),
]
MaxP99Difference = Annotated[
    float | None,
    typer.Option(
        help="Most that the probabilities of 99 % of the images may change.",
        show_default="fp32 0.00005, fp16 0.1, bf16 0.1, int8 0.3",
        rich_help_panel=BOUNDS,
    ),
]
MaxMeanShift = Annotated[
    float | None,
    typer.Option(
        help="Most that a class's mean probability may change, to either side.",
        show_default="fp32 0.00002, fp16 0.005, bf16 0.015, int8 0.02",
        rich_help_panel=BOUNDS,
    ),
]
MaxScaleChange = Annotated[
    float | None,
    typer.Option(
        help="Most that the logits may be stretched or shrunk: 0.1 is by a tenth.",
        show_default="fp32 0.00005, fp16 0.02, bf16 0.03, int8 0.15",
        rich_help_panel=BOUNDS,
    ),
]
MaxLogitOffset = Annotated[
    float | None,
    typer.Option(
        help="Most that a class's logits may be moved, in units of how much logits vary between images.",
        show_default="fp32 0.00005, fp16 0.02, bf16 0.03, int8 0.05",
        rich_help_panel=BOUNDS,
    ),
]
MaxCalibrationShift = Annotated[
    float | None,
    typer.Option(
        help="Most that the calibration error (ECE) may change and the Brier score rise; judged by their intervals.",
        show_default="fp32 0.0001, fp16 0.015, bf16 0.015, int8 0.02",
        rich_help_panel=BOUNDS,
    ),
]


def bounds_of(precision: str, preset: str = "default", **given: float | None) -> Bounds:
    """The bounds of a preset, with the user's in their place; what neither says is left to the graph's precision.

    Args:
        precision: Of the artifact.
        preset: Name of the preset.
        given: Fields of `Bounds`; None: not given.

    Raises:
        BadInputError: A bound is out of range, or the preset is unknown.
    """
    from ttl_deploy.parity import Bounds
    from ttl_deploy.spec import make_record

    chosen = Bounds.preset(preset, precision)
    named = {} if preset == "default" else {name: getattr(chosen, name) for name in chosen.model_fields_set}
    return make_record(Bounds, **{**named, **{k: v for k, v in given.items() if v is not None}})


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
