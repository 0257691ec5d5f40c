"""How a model is trained: the record of a run, and what a user asks for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ttl_deploy.aliases import device_of
from ttl_deploy.spec.data import Reading, SplitSpec
from ttl_deploy.spec.inputs import OneInput, PreprocessSpec
from ttl_deploy.spec.model import WHOLE, Init, ModelSpec
from ttl_deploy.spec.protocol import HeadSpec, OptimSpec, ScheduleSpec
from ttl_deploy.spec.record import INPUT_VERSION, SCHEMA_VERSION, PathText, Record
from ttl_deploy.spec.said import Said
from ttl_deploy.spec.task import AskedPoint


def _steps(given: Any) -> Any:
    """Steps from `crop=0.8,hflip=0.5`; anything else is left to be judged."""
    return tuple(step.strip() for step in given.split(",") if step.strip()) if isinstance(given, str) else given


def _place_or_name(given: Any) -> Any:
    """The whole path of a TOML file, whatever folder the next command runs in; names stay."""
    given = str(given) if isinstance(given, Path) else given
    return os.path.realpath(given) if isinstance(given, str) and given.endswith(".toml") else given


class AugmentSpec(Record):
    """Training-time augmentation: random crop and slight rotation (paper, appendix A.1), or any steps."""

    crop_scale: float = Field(
        default=0.8, gt=0, le=1, description="Smallest area of the random crop as a fraction of the image; 1: none."
    )
    rotation: float = Field(
        default=10.0, ge=0, le=180, description="Largest random rotation to either side, degrees; 0: none."
    )
    flip: float = Field(
        default=0.0, ge=0, le=1, description="Probability of a horizontal flip. 0: mirrored anatomy is another anatomy."
    )
    steps: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(_steps),
        Field(
            description="All steps, in order, in place of --rotation, --crop-scale and --flip: rotation=DEGREES, "
            "crop=AREA, hflip=P, vflip=P, shift=PART, shear=DEGREES, zoom=PART, and of volumes tilt=DEGREES, "
            "slide=PART, dflip=P (through the slices), which are one movement, then "
            "jitter=B:C:S:H:P (brightness, contrast, saturation, hue, how often), grey=P; '' for none.",
            exclude_if=lambda steps: steps is None,
        ),
        Said(("--augment",), text=True, default="rotation=10,crop=0.8"),
    ] = None
    border: Annotated[
        Literal["black", "edge"],
        Field(
            description="What rotation, shift, shear and zoom bring in: black, or the image's edge.",
            exclude_if=lambda border: border == "black",
        ),
    ] = "black"

    @property
    def words(self) -> tuple[str, ...]:
        """The steps, as `rotation=10`."""
        if self.steps is not None:
            return self.steps
        asked = (("rotation", self.rotation, 0), ("crop", self.crop_scale, 1), ("hflip", self.flip, 0))
        return tuple(f"{name}={amount!r}" for name, amount, none in asked if amount != none)

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if self.steps is not None and self.model_fields_set & {"rotation", "crop_scale", "flip"}:
            plain = {name: type(self).model_fields[name].default for name in ("rotation", "crop_scale", "flip")}
            if any(getattr(self, name) != value for name, value in plain.items()):
                raise ValueError("steps stand in place of rotation, crop_scale and flip: say these among them")
        return self


class Recipe(Record):
    """How a model is trained; defaults are the paper's protocol (appendix A.1)."""

    recipe: Annotated[
        PathText | None,
        BeforeValidator(_place_or_name),
        Field(
            description="A paper's protocol in place of the defaults here; options win over it: ttl, pe-ct, lung-seg, "
            "transfusion, feature-reuse, radimagenet, radimagenet-freeze, or a TOML file of your own.",
            exclude_if=lambda name: name is None,
        ),
        Said(text=True),
    ] = None
    epochs: Annotated[
        int | None, Field(ge=1, description="Most epochs."), Said(default="until the rate is too small")
    ] = None
    max_minutes: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="Most minutes of training, resumed time included; the epoch in which they end is dropped, "
            "unless it is the first. The result then depends on the machine's speed.",
        ),
        Said(default="no limit"),
    ] = None
    learning_rate: Annotated[
        float,
        # At most what float32 holds.
        Field(gt=0, le=3e38, description="The optimizer's base rate."),
        Said(("--learning-rate", "--lr")),
    ] = 1e-4
    batch_size: Annotated[int, Field(ge=1, le=2**20, description="Images per step and device.")] = 64
    patience: Annotated[
        int,
        Field(
            ge=0,
            description="Epochs without a better validation AUPRC before the rate is halved (not in the paper; "
            "PyTorch's default).",
        ),
    ] = 10
    factor: Annotated[float, Field(gt=0, lt=1, description="What the rate is then multiplied by.")] = 0.5
    min_learning_rate: Annotated[float, Field(ge=0, description="Training ends when the rate falls below.")] = 1e-7
    class_weights: Annotated[
        Literal["none", "balanced"],
        Field(description="none, or balanced: the loss is weighed by inverse class frequency (not of multilabel)."),
    ] = "none"
    pos_weight: Annotated[
        Literal["none", "balanced"],
        Field(
            description="multilabel: none, or balanced: a yes weighs as much as the no's of its label.",
            exclude_if=lambda weighing: weighing == "none",
        ),
    ] = "none"
    operating_point: AskedPoint = None
    augment: AugmentSpec = Field(default_factory=AugmentSpec)
    seed: Annotated[int, Field(ge=0, lt=2**63, description="Seed of weights, order and augmentation.")] = 0
    workers: Annotated[int, Field(ge=0, le=1024, description="Processes that augment images.")] = 0
    cache_features: Annotated[
        int,
        Field(
            ge=0,
            le=2**20,
            alias="cached_views",
            description="lwft: keep the frozen layers' features of this many augmentation views on disk and train on "
            "them, about twice as fast; 0: compute them every time, as in the paper. With as many views as epochs the "
            "result is the same.",
        ),
    ] = 0
    cache_limit: Annotated[
        float,
        Field(gt=0, allow_inf_nan=False, alias="cached_gib", description="Most disk for --cache-features, GiB."),
    ] = 8.0
    optim: Annotated[OptimSpec, Field(exclude_if=lambda spec: spec == OptimSpec())] = OptimSpec()
    schedule: Annotated[ScheduleSpec, Field(exclude_if=lambda spec: spec == ScheduleSpec())] = ScheduleSpec()
    head_training: Annotated[HeadSpec, Field(exclude_if=lambda spec: spec == HeadSpec())] = HeadSpec()


class Protocol(Recipe):
    """The training that a user asks for."""

    PANEL: ClassVar[str] = "Training protocol"

    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Field(
            description="auto, fp32, bf16 or fp16. auto: bf16 where the processor or GPU is fast with it (the paper: "
            "fp32). Validation and test results are always of the fp32 model."
        ),
    ] = "auto"
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        BeforeValidator(lambda word: device_of(word, ("auto", "cpu", "cuda")) if isinstance(word, str) else word),
        Field(description="auto, cpu or cuda."),
        Said(text=True, default="auto"),
    ] = "auto"


class TrainConfig(OneInput, Recipe):
    """Everything that decides a training's result.

    Attributes:
        data: Absolute path of the CSV, folder or .npz.
        data_digest: SHA-256 over every image's content and label; a resumed run refuses other data.
        model: What is trained.
        preprocess: Evaluation-time preprocessing.
        split: How the data was divided.
        reading: How the table or folder was read; runs of earlier versions do not say.
        weights: `imagenet`, `random`, or the absolute path of a weights file or run.
        init: What the reused layers take of the weights; not written where they take them all.
        precision: Already resolved (never `auto`).
        accelerator: Likewise.
    """

    NEWEST: ClassVar[int] = INPUT_VERSION

    schema_version: int = SCHEMA_VERSION
    data: PathText
    data_digest: str
    model: ModelSpec
    preprocess: PreprocessSpec
    split: SplitSpec = Field(default_factory=SplitSpec)
    reading: Reading = Field(default_factory=Reading)
    weights: PathText = "imagenet"
    init: Init = WHOLE
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accelerator: Literal["cpu", "cuda"] = "cpu"
