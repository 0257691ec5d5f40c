"""What a transfer model is made of: its records, and what a user asks for."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from ttl_deploy.spec.inputs import AskedSize, Channels, InputSpec, OfInput
from ttl_deploy.spec.methods import MethodOptions, Slim, TrainedLayers
from ttl_deploy.spec.record import Record
from ttl_deploy.spec.task import TaskSpec

Backbone = Annotated[str, Field(description="Network of the zoo, or timm:NAME for one of timm's.")]
Method = Annotated[
    str,
    Field(
        description="ttl: keep the bottom up to the cut. tf: slim what is above it. lwft: train only above it. "
        "ftl: keep and train everything."
    ),
]
Cut = Annotated[str | None, Field(description="Cut point: a name of `ttl-deploy cuts`, its index, or block:N.")]
WHOLE = "weights"
"""The initialisation in which every reused layer takes its weights."""

Init = Annotated[
    str,
    Field(
        description="What the reused layers start from. weights: --weights. stats: drawn with the mean and deviation "
        "of each tensor there. random. gabor: Gabor filters in the first convolution, the rest random. Two, as in "
        "weights:block:2+stats or weights:layer2.1+random: the first up to a cut or block, the second above.",
        exclude_if=lambda init: init == WHOLE,
    ),
]
Head = Annotated[
    str,
    Field(
        description="gap: pool, then linear. flatten: linear. unet: a mask (segmentation). Of transformers cls: the "
        "class token, then linear; mean: the mean of the others. If not said: unet for segmentation, else the first of "
        "gap, cls and mean that reads what the backbone gives."
    ),
]


class ModelSpec(OfInput):
    """Everything needed to rebuild a transfer model without its weights.

    Attributes:
        backbone: Name in the zoo.
        method: `ftl`, `ttl`, `tf` or `lwft`.
        cut: Name of the cut point: the last unit kept (ttl), reused (tf) or frozen (lwft). None for ftl.
        layers: LWFT's k counted from the head (paper, section 3.1); an alternative to `cut`.
        head: `gap` or another head; where nothing is said, the one that reads what the backbone gives.
        slim: TF's divisor of the channels above the cut.
        task: What the outputs mean; not written where they are exclusive classes.
        classes: Class names in the order of the outputs; of two exclusive ones the second is the positive one.
        input: What it takes; of a plain image, a file holds `image_size` and `channels`.
        method_options: What another package's method asks for beside these; its record judges them.
    """

    backbone: Backbone
    method: Method = "ftl"
    cut: Cut = None
    layers: TrainedLayers = None
    head: Head = "gap"
    slim: Slim = 2
    task: TaskSpec = Field(default_factory=TaskSpec, exclude_if=lambda task: task == TaskSpec())
    classes: tuple[str, ...] = Field(min_length=1)
    input: InputSpec = Field(default_factory=InputSpec)
    method_options: MethodOptions = Field(default_factory=dict)

    @model_validator(mode="after")
    def _enough_classes(self) -> Self:
        if len(self.classes) < self.task.fewest_classes:
            raise ValueError(f"{self.task.kind} has at least {self.task.fewest_classes} classes")
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input without the batch: (channels, height, width)."""
        return self.input.shape

    @property
    def words(self) -> str:
        """It in words: `resnet50 TTL layer3.3`."""
        where = self.cut or (f"top {self.layers}" if self.layers else "")
        return " ".join(part for part in (self.backbone, self.method.upper(), where) if part)


class Network(Record):
    """The model that a user asks for, but for where it is cut: what a search is given.

    `method` and what follows are as in `ModelSpec`.
    """

    PANEL: ClassVar[str] = "Model"

    backbone: Backbone = "resnet50"
    method: Method = "ttl"
    head: Head = "gap"
    slim: Slim = 2
    weights: Annotated[
        str,
        Field(
            description="Starting weights: imagenet, random, a .safetensors or .pth file, or an earlier run's folder."
        ),
    ] = "imagenet"
    init: Init = WHOLE
    image_size: AskedSize = None
    channels: Channels = 3
    method_options: MethodOptions = Field(default_factory=dict)


class Model(Network):
    """The model that a user asks for."""

    LEADING: ClassVar[tuple[str, ...]] = ("backbone", "method", "cut")

    cut: Cut = None
    layers: TrainedLayers = None
