"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ttl_deploy.parity import Bounds

DATA, MODEL, PROTOCOL = "Data", "Model", "Training protocol"


def device_word(value: str) -> str:
    """The device that the user means, such as cuda for `gpu`; typer calls it with an option's value."""
    from ttl_deploy.aliases import device_of

    return device_of(value)


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

Weights = Annotated[
    str,
    typer.Option(
        help="Starting weights: imagenet, random, a .safetensors or .pth file, or an earlier run's folder.",
        rich_help_panel=MODEL,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(help="Input size in pixels.", show_default="the backbone's, 224", rich_help_panel=MODEL),
]
Channels = Annotated[int, typer.Option(help="3, or 1 for grey input.", rich_help_panel=MODEL)]
IgnoreOtherLabels = Annotated[
    bool,
    typer.Option(
        "--ignore-other-labels", help="Leave out images whose label is not in --classes.", rich_help_panel=DATA
    ),
]
PatientPattern = Annotated[
    str | None,
    typer.Option(
        help="Regular expression with one group that finds the patient in a file's path.", rich_help_panel=DATA
    ),
]
PathColumn = Annotated[
    str | None,
    typer.Option(help="CSV: the column with the images' files.", show_default="path", rich_help_panel=DATA),
]
LabelColumn = Annotated[
    str | None, typer.Option(help="CSV: the column with the classes.", show_default="label", rich_help_panel=DATA)
]
PatientColumn = Annotated[
    str | None,
    typer.Option(
        help="CSV: the column with the patients; '' for none.",
        show_default="patient_id, PatientID, subject and the like",
        rich_help_panel=DATA,
    ),
]
SplitColumn = Annotated[
    str | None,
    typer.Option(
        help="CSV: the column with a division into train, val and test; '' to divide anew.",
        show_default="split",
        rich_help_panel=DATA,
    ),
]
SkipUnreadable = Annotated[
    bool,
    typer.Option("--skip-unreadable", help="Leave out unreadable images, and count them.", rich_help_panel=DATA),
]
PixelCache = Annotated[
    Path | None,
    typer.Option(help="Folder of the pixel cache.", show_default="the user's cache folder", rich_help_panel=DATA),
]

Backbone = Annotated[str, typer.Option(help="Network of the zoo.", rich_help_panel=MODEL)]
Head = Annotated[str, typer.Option(help="gap: pool, then linear. flatten: linear.", rich_help_panel=MODEL)]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Class names in order, comma-separated; of two, the second is the positive one. "
        "For .npz: the names of labels 0, 1, …",
        show_default="as found, sorted",
        rich_help_panel=DATA,
    ),
]
SplitSeed = Annotated[int, typer.Option(help="Seed of the split.", min=0, rich_help_panel=DATA)]
LearningRate = Annotated[
    float, typer.Option("--learning-rate", "--lr", help="Adam's base rate.", rich_help_panel=PROTOCOL)
]
BatchSize = Annotated[int, typer.Option(help="Images per step and device.", rich_help_panel=PROTOCOL)]
Patience = Annotated[
    int,
    typer.Option(
        help="Epochs without a better validation AUPRC before the rate is halved (not in the paper; "
        "PyTorch's default).",
        rich_help_panel=PROTOCOL,
    ),
]
ClassWeights = Annotated[
    str, typer.Option(help="none, or balanced: by inverse class frequency.", rich_help_panel=PROTOCOL)
]
Rotation = Annotated[float, typer.Option(help="Largest random rotation, degrees; 0: none.", rich_help_panel=PROTOCOL)]
CropScale = Annotated[float, typer.Option(help="Smallest area of the random crop; 1: none.", rich_help_panel=PROTOCOL)]
Seed = Annotated[int, typer.Option(help="Seed of weights, order and augmentation.", min=0, rich_help_panel=PROTOCOL)]
TrainingPrecision = Annotated[
    str,
    typer.Option(
        help="auto, fp32, bf16 or fp16. auto: bf16 where the processor or GPU is fast with it (the paper: fp32). "
        "Validation and test results are always of the fp32 model.",
        rich_help_panel=PROTOCOL,
    ),
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
