"""What every way to divide a data set has in common: the sides, the shuffles that are tried, and what is told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.spec import SplitSpec

SIDES = ("train", "val", "test")
"""The sides of a division."""

TOLERANCE = 0.1
"""How far a side's share of the images may be from what was asked before that is told."""

KEPT = "the division that comes with the data is used"
NOT_KEPT = "the division that comes with the data is not used for cross-validation"

_ATTEMPTS = 10
"""How many shuffles are tried before a division with every class on every side is given up."""


def taken_from_training(unit: str) -> str:
    """That a given division was completed.

    Args:
        unit: What is not divided, a patient or an image.
    """
    return f"it has no validation side: one was taken from training, by {unit}"


def fold_is_tested(spec: SplitSpec) -> str:
    """Which fold it is."""
    held = "the test side" if spec.fold_holds == "test" else "the validation and the test side"
    return f"fold {spec.fold} of {spec.folds} is {held}"


def validation_share(spec: SplitSpec) -> float:
    """Share of validation in what is not the test side."""
    return spec.val / (spec.train + spec.val)


def test_share(spec: SplitSpec) -> float:
    """Share of the test side in what is not for training."""
    return spec.test / (spec.val + spec.test)


def seeds(seed: int) -> Iterator[int]:
    """The seed itself, then others that follow from it."""
    yield seed % 2**32
    yield from np.random.SeedSequence(seed % 2**32).generate_state(_ATTEMPTS - 1).tolist()


def asked(spec: SplitSpec, side: str) -> float:
    """Share of the images that a side is to have."""
    return {"train": spec.train, "val": spec.val, "test": spec.test}[side]


def farthest(sides: NDArray[np.str_], spec: SplitSpec) -> float:
    """Largest distance of a side's share of the images from what was asked."""
    return max(abs(float((sides == side).mean()) - asked(spec, side)) for side in SIDES)
