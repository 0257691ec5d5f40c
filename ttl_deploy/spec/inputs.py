"""What one input of a network is, and how a picture becomes one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from ttl_deploy.spec.record import INPUT_VERSION, Record
from ttl_deploy.spec.said import Said

MOST_CHANNELS = 16
DEFAULT_SIZE = 224

_SEVERAL = re.compile(r"\d+(\s*[x,]\s*\d+){1,2}")


def _extents(value: object) -> object:
    """`224` as a number, `224x320` and `16x64x64` as two and three; what is none is left to be refused."""
    if not isinstance(value, str):
        return value
    if _SEVERAL.fullmatch(value.strip()):
        return tuple(map(int, re.split("[x,]", value)))
    return int(value) if value.strip().isdecimal() else value


Extent = Annotated[int, Field(ge=8, le=4096)]

ImageSize = Annotated[Extent | tuple[Extent, Extent] | tuple[Extent, Extent, Extent], BeforeValidator(_extents)]
"""Pixels of a side, of height and width, or of depth, height and width."""

AskedSize = Annotated[
    ImageSize | None,
    Field(description="Input size in pixels: 224, or height x width: 224x320."),
    Said(text=True, default="the backbone's, 224"),
]
Channels = Annotated[
    int,
    Field(
        ge=1,
        le=MOST_CHANNELS,
        description="3: grey is replicated. 1: colour is reduced to luma. Others: arrays (.npz, .npy) that have them.",
    ),
]
Crop = Annotated[
    Literal["center", "none"],
    Field(
        description="center: the largest centred part of the input's proportions, as in the paper. none: the whole "
        "image squeezed."
    ),
]
HighBitDepth = Annotated[
    Literal["full-range", "min-max"], Field(description="16-bit images: full-range, or min-max of each image.")
]


Window = Annotated[
    tuple[float, float],
    BeforeValidator(lambda given: _numbers(given, 2)),
    Field(
        description="Volumes: the values that become black and white, Hounsfield units in CT; what is outside becomes "
        "the nearer end."
    ),
]
Spacing = Annotated[
    tuple[float, float, float] | None,
    BeforeValidator(lambda given: _numbers(given, 3)),
    Field(
        description="Volumes: millimetres from slice to slice, row to row and column to column that every study is "
        "brought to, and its centre taken. Without: the whole study becomes the input's size."
    ),
]
SliceStride = Annotated[
    int | None,
    Field(
        ge=1,
        description="Volumes: read a study as windows of the input's depth, so many slices from one to the next; what "
        "is said of the study is the maximum over its windows. Without: a study is one input.",
        exclude_if=lambda stride: stride is None,
    ),
]
DEFAULT_WINDOW = (-100.0, 900.0)
"""What PENet clips to (Huang 2020): contrast in vessels."""


def _numbers(given: object, count: int) -> object:
    """Numbers from `-100,900`; anything else is left to be judged."""
    if not isinstance(given, str):
        return given
    try:
        found = tuple(float(part) for part in given.split(","))
    except ValueError:
        found = ()
    if len(found) != count:
        raise ValueError(f"{given!r} is not {count} numbers with commas between")
    return found


_AXES = {"image": 2, "volume": 3}


class InputSpec(Record):
    """One input of a network: the one owner of its shape.

    Attributes:
        kind: `image`, or `volume`, of three axes.
        channels: Of the array; see `PreprocessSpec` for how a picture gets them.
        size: (height, width), or (depth, height, width); pixels.
    """

    kind: Literal["image", "volume"] = "image"
    channels: Channels = 3
    size: tuple[Extent, ...] = (DEFAULT_SIZE, DEFAULT_SIZE)

    @field_validator("size", mode="before")
    @classmethod
    def _sides(cls, size: object, given: ValidationInfo) -> object:
        found = _extents(size)
        return (found,) * _AXES[given.data.get("kind", "image")] if isinstance(found, int) else found

    @model_validator(mode="after")
    def _one_per_axis(self) -> Self:
        axes = _AXES[self.kind]
        if len(self.size) != axes:
            raise ValueError(f"the size of one {self.kind} is {axes} numbers, not {len(self.size)}")
        return self

    @classmethod
    def image(cls, size: int | str | Sequence[int] = DEFAULT_SIZE, channels: int = 3) -> Self:
        """A picture: of a side, or of (height, width); `224` and `224x320` too."""
        return cls.model_validate({"channels": channels, "size": size})

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width), or (channels, depth, height, width)."""
        return (self.channels, *self.size)

    @property
    def array_shape(self) -> tuple[int, ...]:
        """As the pixels come: channels last."""
        return (*self.size, self.channels)

    @property
    def told(self) -> str:
        """`3 x 224 x 224`."""
        return " x ".join(map(str, self.shape))

    @property
    def is_plain(self) -> bool:
        """Whether a square side and 1 or 3 channels say all, as they did before there was this record."""
        return self.kind == "image" and len(set(self.size)) == 1 and self.channels in (1, 3)


def version_of(given: InputSpec) -> int:
    """The lowest schema version in which a record of this input is understood."""
    return 1 if given.is_plain else INPUT_VERSION


_FIELD, _OLD = "input", ("image_size", "channels")


class OfInput(Record):
    """A record with a field `input`; of plain ones a file holds `image_size` and `channels`, as it always did."""

    @model_validator(mode="before")
    @classmethod
    def _lifted(cls, content: Any) -> Any:
        if not isinstance(content, dict) or not content.keys() & set(_OLD):
            return content
        if _FIELD in content:
            raise ValueError(f"has {_FIELD} and also {' and '.join(name for name in _OLD if name in content)}")
        kept = {name: value for name, value in content.items() if name not in _OLD}
        old = {new: content[name] for name, new in zip(_OLD, ("size", "channels"), strict=True) if name in content}
        return {**kept, _FIELD: old}

    @model_serializer(mode="wrap")
    def _flattened(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        given: InputSpec = getattr(self, _FIELD)
        dumped: dict[str, Any] = handler(self)
        if _FIELD not in dumped or not given.is_plain:
            return dumped
        old = dict(zip(_OLD, (given.size[0], given.channels), strict=True))
        # In the place of the field: files of the same content stay the same.
        return {
            new: v for name, value in dumped.items() for new, v in (old if name == _FIELD else {name: value}).items()
        }


class VolumeSpec(Record):
    """How a study of slices becomes a volume; the rule itself is written in `ttl_deploy.inputs.volume`.

    Attributes:
        window: The values that become 0 and 255.
        spacing: Millimetres of a voxel: depth, height, width; None: the study becomes the input's size.
        slice_stride: Slices from one window of the input's depth to the next; None: a study is one input.
    """

    window: Window = DEFAULT_WINDOW
    spacing: Spacing = None
    slice_stride: SliceStride = None

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        low, high = self.window
        if not -1e6 < low < high < 1e6:
            raise ValueError(f"the window {low:g} to {high:g} is empty or beyond a million")
        if self.spacing is not None and not 0.01 <= min(self.spacing) <= max(self.spacing) <= 100:
            raise ValueError("a spacing is between 0.01 and 100 millimetres")
        return self


class PreprocessSpec(OfInput):
    """How an image file becomes the network's input; the rule itself is written in `ttl_deploy.inputs.image`.

    Attributes:
        input: Its shape. Of 3 channels, grey is replicated; of 1, colour is reduced to luma; of others, only arrays
            that have them are read.
        crop: `center`, the largest centred part of the input's proportions, as in the paper (appendix A.1: a square);
            `none`, the whole image squeezed.
        high_bit_depth: 16-bit images use their `full-range` (0..65535) or each image's own `min-max`.
        mean: Per channel, on the 0..1 scale.
        std: Per channel, on the 0..1 scale.
        volume: What else a volume needs; None, and not written, for images.
    """

    input: InputSpec = Field(default_factory=InputSpec)
    crop: Crop = "center"
    high_bit_depth: HighBitDepth = "full-range"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    volume: VolumeSpec | None = Field(default=None, exclude_if=lambda rule: rule is None)

    @model_validator(mode="after")
    def _one_per_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.input.channels:
            raise ValueError(f"mean and std need {self.input.channels} values, one per channel")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        if (self.volume is None) != (self.input.kind == "image"):
            said = "missing" if self.volume is None else "given"
            raise ValueError(f"volume is {said}, and the input is of kind {self.input.kind}")
        if self.windows is not None and self.windows[1] > self.windows[0]:
            depth, stride = self.windows
            raise ValueError(
                f"windows of {depth} slices, one every {stride}, leave slices out: slice_stride is too large"
            )
        return self

    @property
    def windows(self) -> tuple[int, int] | None:
        """Slices of a window, and from one to the next, where a study is read as several inputs; else None."""
        if self.volume is None or self.volume.slice_stride is None:
            return None
        return self.input.size[0], self.volume.slice_stride

    @classmethod
    def of(cls, given: InputSpec, **more: Any) -> Self:
        """The ImageNet normalisation for 3 channels, its mean over the channels for each of any other number."""
        if given.channels != 3:
            more = {"mean": (0.449,) * given.channels, "std": (0.226,) * given.channels, **more}
        if given.kind == "volume":
            more = {"volume": VolumeSpec(), **more}
        return cls(input=given, **more)

    def pixel_digest(self) -> str:
        """Digest of what decides the 8-bit pixels: everything but mean and std."""
        more = {} if self.volume is None else {"volume": self.volume}
        return PreprocessSpec.of(self.input, crop=self.crop, high_bit_depth=self.high_bit_depth, **more).digest()


class OneInput(Record):
    """A record with a `model` and a `preprocess`, which have one input; where a file writes it out, it does so once."""

    @model_validator(mode="before")
    @classmethod
    def _shared(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        model, preprocess = content.get("model"), content.get("preprocess")
        if not isinstance(model, dict) or not isinstance(preprocess, dict) or _FIELD not in model:
            return content
        if preprocess.keys() & {_FIELD, *_OLD}:
            return content
        return {**content, "preprocess": {_FIELD: model[_FIELD], **preprocess}}

    @model_validator(mode="after")
    def _agreed(self) -> Self:
        of_model, of_preprocess = self._input_of("model"), self._input_of("preprocess")
        if of_model != of_preprocess:
            raise ValueError(f"input is {of_model.told} in model and {of_preprocess.told} in preprocess")
        return self

    @model_serializer(mode="wrap")
    def _written_once(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        preprocess = dumped.get("preprocess")
        if isinstance(preprocess, dict) and _FIELD in dumped.get("model", {}):
            dumped["preprocess"] = {name: value for name, value in preprocess.items() if name != _FIELD}
        return dumped

    def _input_of(self, name: str) -> InputSpec:
        found: InputSpec = getattr(self, name).input
        return found
