"""Divides images that may have several labels: each side has its share of the yes and of the no of every label.

A label with fewer patients than sides cannot be on all of them: that is told, and the others decide. What is refused is
a side on which no label at all can be told right from wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.data.sides import (
    KEPT,
    NOT_KEPT,
    SIDES,
    TOLERANCE,
    asked,
    fold_is_tested,
    seeds,
    taken_from_training,
    test_share,
    validation_share,
)
from ttl_deploy.data.stratify import stratify
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import SplitSpec
from ttl_deploy.tasks.task import rankable

_SHOWN = 5
"""How many labels are warned of by name."""

_Sides = NDArray[np.str_]
_Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Several:
    """What is divided.

    Attributes:
        path: For errors.
        names: Of the labels.
        truth: (N, K) 1, 0 or unknown.
        groups: (N,) images of one group stay together.
        unit: What a group is called.
    """

    path: Path
    names: tuple[str, ...]
    truth: NDArray[np.int8]
    groups: _Numbers
    unit: str

    def restricted(self, chosen: NDArray[np.bool_]) -> Several:
        """The problem of dividing some of the images."""
        return replace(self, truth=self.truth[chosen], groups=self.groups[chosen])

    def parts(self, shares: Sequence[float], seed: int) -> _Numbers:
        """(N,) which of the shares each image is in: of several shuffles that in which the fewest strata lack a part.

        A stratum is the yes or the no of a label; those with fewer groups than parts do not count.
        """
        present, groups = np.unique(self.groups, return_inverse=True)
        strata = np.concatenate([self.truth == 1, self.truth == 0], axis=1)
        counts = np.zeros((len(present), strata.shape[1]), dtype=np.int64)
        np.add.at(counts, groups, strata)
        sizes = np.bincount(groups).astype(np.int64)
        best = np.zeros(len(present), dtype=np.int64)
        least: tuple[float, float] = (math.inf, math.inf)
        for shuffle in seeds(seed):
            found = stratify(counts, sizes, shares, shuffle)
            fault: tuple[float, float] = _absent(counts, found, len(shares)), _uneven(sizes, found, shares)
            if fault < least:
                best, least = found, fault
            if not any(fault):
                break
        return best[groups]


def divide_several(
    problem: Several, spec: SplitSpec, given: _Sides | None
) -> tuple[_Sides, tuple[str, ...], tuple[str, ...]]:
    """The side of each image, what is told and what is warned of.

    Args:
        problem: The images.
        spec: Fractions, folds and seed.
        given: The division that comes with them; not used for cross-validation.

    Raises:
        BadInputError: On a side no label has images with and without it.
    """
    notes: tuple[str, ...] = ()
    if spec.folds is not None:
        folds = problem.parts([1 / spec.folds] * spec.folds, spec.seed)
        sides = _of_fold(problem, folds == spec.fold, spec)
        notes = (fold_is_tested(spec), *((NOT_KEPT,) if given is not None else ()))
    elif given is None:
        sides = np.array(SIDES)[problem.parts([asked(spec, side) for side in SIDES], spec.seed)]
    elif "val" in given:
        sides, notes = given, (KEPT,)
    else:
        by = "patient" if problem.unit == "patient" else "image"
        sides, notes = _with_validation(problem, given, spec), (KEPT, taken_from_training(by))
    _refuse_blind(problem, sides, given=given is not None and spec.folds is None)
    return sides, notes, tuple(_warnings(problem, sides))


def _of_fold(problem: Several, held: NDArray[np.bool_], spec: SplitSpec) -> _Sides:
    sides = np.where(held, "test", "train").astype("<U5")
    if spec.fold_holds == "test":
        return _with_validation(problem, sides, spec)
    share = test_share(spec)
    sides[np.flatnonzero(held)[problem.restricted(held).parts([1 - share, share], spec.seed) == 0]] = "val"
    return sides


def _absent(counts: _Numbers, parts: _Numbers, of: int) -> int:
    """How often a stratum that has enough groups lacks a part."""
    enough = (counts > 0).sum(axis=0) >= of
    return sum(int((~counts[parts == part].any(axis=0) & enough).sum()) for part in range(of))


def _uneven(sizes: _Numbers, parts: _Numbers, shares: Sequence[float]) -> float:
    """How much farther a part's share of the images is from what was asked than is allowed."""
    found = np.bincount(parts, weights=sizes, minlength=len(shares)) / sizes.sum()
    return max(0.0, float(np.abs(found - np.array(shares)).max()) - TOLERANCE)


def _with_validation(problem: Several, sides: _Sides, spec: SplitSpec) -> _Sides:
    """The sides with a validation side that is taken from training."""
    training = sides == "train"
    share = validation_share(spec)
    parts = problem.restricted(training).parts([1 - share, share], spec.seed)
    sides = sides.copy()
    sides[np.flatnonzero(training)[parts == 1]] = "val"
    return sides


def _refuse_blind(problem: Several, sides: _Sides, *, given: bool) -> None:
    """A side needs a label that some of its images have and some have not."""
    for side in SIDES:
        if not rankable(problem.truth[sides == side]):
            count = len(np.unique(problem.groups))
            which = f"{problem.unit}{'' if count == 1 else 's'}"
            fix = "move some there, or remove the division" if given else "add images, or ask for larger sides"
            what = f"no label has images with it and without it on the {side} side; there are {count:,} {which}"
            raise BadInputError(what, where=problem.path, fix=fix)


def _warnings(problem: Several, sides: _Sides) -> Iterator[str]:
    """The labels that are on no image of a side, or on all of it."""
    found = [line for k in range(len(problem.names)) for line in _one_sided(problem, k, sides)]
    yield from found[:_SHOWN]
    if len(found) > _SHOWN:
        yield f"{len(found) - _SHOWN:,} more labels have no metric on a side likewise"


def _one_sided(problem: Several, label: int, sides: _Sides) -> Iterator[str]:
    for value, says in ((1, "no image of the {} side has {!r}"), (0, "no image of the {} side is without {!r}")):
        having = problem.truth[:, label] == value
        where = [side for side in SIDES if not having[sides == side].any()]
        if where:
            count = len(np.unique(problem.groups[having]))
            number = f"{count:,} {problem.unit}{'' if count == 1 else 's'} of all"
            name = problem.names[label]
            yield f"{says.format(' and '.join(where), name)} ({number}): it has no metric there"
