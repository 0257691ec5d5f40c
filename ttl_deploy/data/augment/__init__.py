"""Training-time augmentation as steps, a file for each kind: `crop=0.8,hflip=0.5,jitter=0.2:0.2:0.1:0.1:0.2`.

A step is a transform of torchvision's v2, which moves masks along with their image where it gets both as tv_tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torchvision.transforms import v2

from ttl_deploy.errors import BadInputError
from ttl_deploy.registry import Registry
from ttl_deploy.spec import AugmentSpec

Border = str
"""`black`, or `edge`: what is seen where an image was moved away."""


@dataclass(frozen=True)
class Step:
    """A kind of step.

    Attributes:
        make: The transform for its numbers, the size (height, width) of the images and their border.
        ranges: Of each number, least and most; the first must be given.
        defaults: Of the numbers after the first.
        channels: Numbers of channels that it can take; empty: any.
    """

    make: Callable[[Sequence[float], Sequence[int], Border], v2.Transform]
    ranges: tuple[tuple[float, float], ...]
    defaults: tuple[float, ...] = ()
    channels: tuple[int, ...] = ()


AUGMENTS: Registry[Step] = Registry("augmentation", "ttl_deploy.data.augment", entry_points="ttl_deploy.augmentations")


def augmentation(spec: AugmentSpec, size: Sequence[int]) -> v2.Transform | None:
    """The steps, one after the other, of an image (C, H, W) uint8; None where there are none.

    Args:
        spec: Which steps and how much of each.
        size: (height, width) of the images.
    """
    steps = [step.make(numbers, size, spec.border) for step, numbers in map(_read, spec.words)]
    return v2.Compose(steps) if steps else None


def refuse_augment(spec: AugmentSpec, channels: int) -> None:
    """Raises `BadInputError` where a step is none, or cannot be of images of so many channels."""
    for word in spec.words:
        allowed = _read(word)[0].channels
        if allowed and channels not in allowed:
            raise BadInputError(
                f"is of images of {' or '.join(map(str, allowed))} channels, and these have {channels}",
                where=f"augmentation {word}",
                fix="leave it out",
            )


def _read(word: str) -> tuple[Step, list[float]]:
    """The step of a word and its numbers in full.

    Raises:
        BadInputError: There is no such step, or its numbers are not what it takes.
    """
    name, _, said = word.partition("=")
    step = AUGMENTS.get(name.strip())
    try:
        numbers = [float(number) for number in said.split(":")]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) > len(step.ranges):
        raise BadInputError(
            f"{said!r:.80} is not 1 to {len(step.ranges)} numbers",
            where=f"augmentation {word}",
            fix=f"as in {name}=0.5",
        )
    numbers += step.defaults[len(numbers) - 1 :]
    for number, (least, most) in zip(numbers, step.ranges, strict=True):
        if not least <= number <= most:
            raise BadInputError(
                f"{number:g} is not {least:g} to {most:g}", where=f"augmentation {word}", fix="see --help"
            )
    return step, numbers
