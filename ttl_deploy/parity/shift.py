"""How far a model's probabilities lie from another's on the same images, image by image and as a whole. No torch.

None of these numbers needs labels or many images: they describe what the two models said, not how good that is. Where
softmax follows, a constant added to all logits of an image changes nothing, so logits are taken less their image's
mean before they are compared. Scale and offset are medians over images: a network that answers one odd image with
logits of hundreds rounds that image by hundreds of times more, and a mean would show nothing else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.spec import Record
from ttl_deploy.tasks import softmax

Floats = NDArray[np.float64]

SMALLEST_SPREAD = 0.1
"""Logits that vary by less between images count as if they varied by this much."""


class Shift(Record):
    """What changed from the reference to the candidate. A number that cannot be had is None.

    Attributes:
        largest: Largest absolute change of any probability.
        p99: 99th percentile over images of the largest change on an image.
        mean: Change of each class's mean probability, candidate minus reference: what a constant on a class's logit
            does, however rare the class.
        scale: By how much the logits were multiplied, each class taken from its own median: the median over the half
            of the images whose logits vary most. 1: not at all.
        offset: By how much the logits were moved: the largest median change of a class, in units of how much the
            reference's logits typically vary.
    """

    largest: float | None = None
    p99: float | None = None
    mean: tuple[float, ...] = ()
    scale: float | None = None
    offset: float | None = None


def shift(reference: Floats, candidate: Floats, *, sigmoid: bool = False) -> Shift:
    """Measures the change.

    Args:
        reference: (N, K) finite logits.
        candidate: (N, K) finite logits of the same images.
        sigmoid: Whether each logit is a probability of its own; else softmax makes them of all logits of an image.

    Returns:
        The change; without images, nothing but None.
    """
    if not len(reference):
        return Shift()
    one, other = (probabilities(side, sigmoid=sigmoid) for side in (reference, candidate))
    moved = np.abs(other - one).max(axis=1)
    before, after = (side if sigmoid else side - side.mean(axis=1, keepdims=True) for side in (reference, candidate))
    return Shift(
        largest=float(moved.max()),
        p99=float(np.percentile(moved, 99)),
        mean=tuple(float(value) for value in (other - one).mean(axis=0)),
        scale=_scale(before, after),
        offset=_offset(before, after),
    )


def probabilities(logits: Floats, *, sigmoid: bool = False) -> Floats:
    """(N, K) probabilities of logits.

    Args:
        logits: (N, K).
        sigmoid: Each logit alone; else softmax.
    """
    return 1 / (1 + np.exp(-np.clip(logits, -700, 700))) if sigmoid else softmax(logits)


def _scale(before: Floats, after: Floats) -> float:
    """The median of each image's own factor; of logits that hardly vary it would be noise, so a least size counts."""
    x, y = (side - np.median(side, axis=0) for side in (before, after))
    energy = (x**2).sum(axis=1)
    factors = (x * (y - x)).sum(axis=1) / np.maximum(energy, SMALLEST_SPREAD**2)
    return 1 + float(np.median(factors[energy >= np.median(energy)]))


def _offset(before: Floats, after: Floats) -> float:
    variation = np.abs(before - np.median(before, axis=0)).max(axis=1)
    moved = np.abs(np.median(after - before, axis=0)).max()
    return float(moved / max(float(np.median(variation)), SMALLEST_SPREAD))
