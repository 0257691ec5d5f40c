"""Training-time augmentation as steps, a file for each kind: `crop=0.8,hflip=0.5,jitter=0.2:0.2:0.1:0.1:0.2`.

Steps that move an image (crop, flip, rotation, shift, shear, zoom) are one movement, in the order in which they are
said: each pixel is interpolated once from the image as it was, so what one step moves out of sight a later one brings
back. Every other step is a transform of torchvision's v2 and follows, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from ttl_deploy.data.movement import STILL, Draw, Movement, moved
from ttl_deploy.errors import BadInputError
from ttl_deploy.registry import Registry
from ttl_deploy.spec import AugmentSpec


@dataclass(frozen=True)
class Step:
    """A kind of step; one of `move` and `change` is there.

    Attributes:
        ranges: Of each number, least and most; the first must be given.
        defaults: Of the numbers after the first.
        channels: Numbers of channels that it can take; empty: any.
        move: For its numbers and the size (height, width) of the images, what draws a movement.
        change: For its numbers, a transform of images (C, H, W) uint8 that leaves each pixel where it is.
    """

    ranges: tuple[tuple[float, float], ...]
    defaults: tuple[float, ...] = ()
    channels: tuple[int, ...] = ()
    move: Callable[[Sequence[float], Sequence[int]], Draw] | None = None
    change: Callable[[Sequence[float]], v2.Transform] | None = None


AUGMENTS: Registry[Step] = Registry("augmentation", "ttl_deploy.data.augment", entry_points="ttl_deploy.augmentations")


class Augmentation:
    """Some steps of images of one size.

    Args:
        spec: Which steps and how much of each.
        size: (height, width) of the images.
    """

    def __init__(self, spec: AugmentSpec, size: Sequence[int]) -> None:
        steps = [_read(word) for word in spec.words]
        self._draws = [step.move(numbers, size) for step, numbers in steps if step.move]
        self._changes = [step.change(numbers) for step, numbers in steps if step.change]
        self._edge = spec.border == "edge"

    def __bool__(self) -> bool:
        return bool(self._draws or self._changes)

    def __call__(
        self, images: Tensor, seeds: Sequence[int], masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Images changed, each by what its own seed draws, and their masks by the same movement.

        Args:
            images: (N, C, H, W) uint8, or volumes (N, D, C, H, W), whose slices change all alike.
            seeds: N of 63 bits.
            masks: (N, 1, H, W) uint8; each pixel becomes the nearest one.
        """
        with torch.random.fork_rng(devices=[]):
            if self._draws:
                drawn = [self._drawn(seed) for seed in seeds]
                images = moved(images, drawn, edge=self._edge)
                masks = None if masks is None else moved(masks, drawn, edge=self._edge, nearest=True)
            if self._changes:
                images = torch.stack([self._changed(image, seed) for image, seed in zip(images, seeds, strict=True)])
        return images, masks

    def _drawn(self, seed: int) -> Movement:
        torch.default_generator.manual_seed(seed)
        whole = STILL
        for draw in self._draws:
            whole = whole @ draw()
        return whole

    def _changed(self, image: Tensor, seed: int) -> Tensor:
        # Not the movement's numbers once more, which would tie how bright an image is to how far it is turned.
        torch.default_generator.manual_seed(seed ^ 1)
        for change in self._changes:
            image = change(image)
        return image


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
