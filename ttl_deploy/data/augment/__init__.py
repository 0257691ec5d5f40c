"""Training-time augmentation as steps, a file for each kind: `crop=0.8,hflip=0.5,jitter=0.2:0.2:0.1:0.1:0.2`.

Steps that move an image (crop, flip, rotation, shift, shear, zoom) are one movement, in the order in which they are
said: each pixel is interpolated once from the image as it was, so what one step moves out of sight a later one brings
back. Every slice of a volume moves alike, unless a step moves it through its slices too (tilt, slide, dflip): then the
whole is one movement in space, which MONAI carries out. Every other step is a transform of torchvision's v2 and
follows, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torchvision.transforms import v2

from ttl_deploy.data.movement import Draw, Movement, composed, moved
from ttl_deploy.errors import BadInputError, MissingDependencyError
from ttl_deploy.registry import Registry
from ttl_deploy.spec import AugmentSpec


@dataclass(frozen=True)
class Step:
    """A kind of step; one of `move` and `change` is there.

    Attributes:
        ranges: Of each number, least and most; the first must be given.
        defaults: Of the numbers after the first.
        channels: Numbers of channels that it can take; empty: any.
        volumes: Whether it is of volumes only.
        move: For its numbers and the size (height, width) of the images, what draws a movement; where it is of volumes
            only, for the size (slices, height, width), one in space.
        change: For its numbers, a transform of images (C, H, W) uint8 that leaves each pixel where it is.
    """

    ranges: tuple[tuple[float, float], ...]
    defaults: tuple[float, ...] = ()
    channels: tuple[int, ...] = ()
    volumes: bool = False
    move: Callable[[Sequence[float], Sequence[int]], Draw] | None = None
    change: Callable[[Sequence[float]], v2.Transform] | None = None


_VOLUME = 3

AUGMENTS: Registry[Step] = Registry("augmentation", "ttl_deploy.data.augment", entry_points="ttl_deploy.augmentations")


class Augmentation:
    """Some steps of images of one size.

    Args:
        spec: Which steps and how much of each.
        size: (height, width) of the images, or (slices, height, width).
    """

    def __init__(self, spec: AugmentSpec, size: Sequence[int]) -> None:
        steps = [_read(word) for word in spec.words]
        moves = [(step.move, numbers, size if step.volumes else size[-2:]) for step, numbers in steps if step.move]
        self._draws = [move(numbers, extents) for move, numbers, extents in moves]
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
        return composed([draw() for draw in self._draws])

    def _changed(self, image: Tensor, seed: int) -> Tensor:
        # Not the movement's numbers once more, which would tie how bright an image is to how far it is turned.
        torch.default_generator.manual_seed(seed ^ 1)
        for change in self._changes:
            image = change(image)
        return image


def refuse_augment(spec: AugmentSpec, channels: int, size: Sequence[int]) -> None:
    """Refuses what cannot be of images of so many channels and such a size, or of volumes.

    Raises:
        BadInputError: A step is none, or is of other images.
        MissingDependencyError: A step is MONAI's, which is not installed.
    """
    for word in spec.words:
        step, where = _read(word)[0], f"augmentation {word}"
        if step.channels and channels not in step.channels:
            what = f"is of images of {' or '.join(map(str, step.channels))} channels, and these have {channels}"
            raise BadInputError(what, where=where, fix="leave it out")
        if step.volumes and len(size) < _VOLUME:
            raise BadInputError("is of volumes, and these are images", where=where, fix="leave it out")
        if step.volumes and find_spec("monai") is None:
            what = f"{where}: MONAI, which moves volumes through their slices, is not installed"
            raise MissingDependencyError(what, fix="pip install 'ttl-deploy[medical]'")


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
