"""How a picture becomes the network's input."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ttl_deploy.spec.record import Record

Channels = Annotated[Literal[1, 3], Field(description="3: grey is replicated. 1: colour is reduced to luma.")]
Crop = Annotated[
    Literal["center", "none"],
    Field(description="center: the largest centred square, as in the paper. none: the whole image squeezed."),
]
HighBitDepth = Annotated[
    Literal["full-range", "min-max"], Field(description="16-bit images: full-range, or min-max of each image.")
]


class PreprocessSpec(Record):
    """How an image file becomes the network's input; the rule itself is written in `ttl_deploy.preprocess`.

    Attributes:
        image_size: Height and width of the input, pixels.
        channels: 3, grey replicated, or 1, colour reduced to luma.
        crop: `center`, the largest centred square, as in the paper (appendix A.1); `none`, the whole image squeezed.
        high_bit_depth: 16-bit images use their `full-range` (0..65535) or each image's own `min-max`.
        mean: Per channel, on the 0..1 scale.
        std: Per channel, on the 0..1 scale.
    """

    image_size: int = Field(224, ge=8, le=4096)
    channels: Channels = 3
    crop: Crop = "center"
    high_bit_depth: HighBitDepth = "full-range"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _one_per_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one per channel")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self

    @classmethod
    def of(cls, image_size: int, channels: Literal[1, 3] = 3, **more: Any) -> Self:
        """The ImageNet normalisation for 3 channels, its mean over the channels for 1."""
        if channels == 1:
            more = {"mean": (0.449,), "std": (0.226,), **more}
        return cls(image_size=image_size, channels=channels, **more)

    def pixel_digest(self) -> str:
        """Digest of what decides the 8-bit pixels: everything but mean and std."""
        return PreprocessSpec.of(
            self.image_size, self.channels, crop=self.crop, high_bit_depth=self.high_bit_depth
        ).digest()
