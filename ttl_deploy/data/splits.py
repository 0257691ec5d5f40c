"""Divides a data set into training, validation and test: by patient where patients are known, stratified by class.

Images of one patient, and identical images without a patient, are never on two sides; every side has every class, and
of labels that an image may have several of, every one that enough patients have. The division depends on the seed and
on the images, not on their order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.data.divide_several import Several, divide_several
from ttl_deploy.data.folds import grouped_folds, stratified_folds
from ttl_deploy.data.items import Dataset, Item
from ttl_deploy.data.sides import (
    KEPT,
    NOT_KEPT,
    SIDES,
    TOLERANCE,
    asked,
    farthest,
    fold_is_tested,
    seeds,
    taken_from_training,
    test_share,
    validation_share,
)
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import SplitSpec

_COARSEST = 10
"""A fraction is rounded to one with at most this denominator, so that folds stay large enough to hold rare classes."""

_MOST_OF_A_SIDE = 0.5
"""Share of a side's images above which one patient is told."""

_ENOUGH = 10
"""Images that a side needs before a patient's share of it means anything."""


@dataclass(frozen=True)
class Division:
    """A division of a data set.

    Attributes:
        sides: `train`, `val` or `test` for each item.
        notes: What a user should know: how it was divided and the fractions that came out.
        warnings: What may make results look better than they are.
    """

    sides: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Problem:
    """What is divided, in arrays.

    Attributes:
        classes: Names.
        labels: (N,) int64; (N, K) where an image may have several.
        groups: (N,) int64; images of one group stay together.
        unit: What a group is called.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    unit: str

    def restricted(self, chosen: NDArray[np.bool_]) -> _Problem:
        """The problem of dividing some of the images."""
        return _Problem(self.classes, self.labels[chosen], self.groups[chosen], self.unit)

    def complete(self, chosen: NDArray[np.bool_]) -> bool:
        """Whether some of the images have every class."""
        return len(np.unique(self.labels[chosen])) == len(self.classes)

    def groups_per_class(self) -> NDArray[np.int64]:
        """Number of groups with at least one image of each class."""
        pairs = np.unique(np.stack([self.labels, self.groups]), axis=1)
        return np.bincount(pairs[0], minlength=len(self.classes)).astype(np.int64)


def divide(dataset: Dataset, spec: SplitSpec, digests: Sequence[str] | None = None) -> Division:
    """Divides a data set.

    A division that comes with the data is kept (a validation side is taken from its training side where it has none),
    except for cross-validation.

    Args:
        dataset: The images.
        spec: Fractions, folds and seed.
        digests: Content digest of each image; None: computed here.

    Returns:
        The division; the same for the same images and seed, in whatever order they are.

    Raises:
        BadInputError: A class is too small to be on every side, the given division has a patient on two sides, or it
            lacks a side. Of several labels one may be missing on a side, with a warning, but not all.
    """
    items = dataset.items
    contents = list(digests) if digests is not None else [item.source.digest() for item in items]
    problem = _problem(dataset, contents)
    given = _given(dataset)
    kept = given is not None and spec.folds is None
    if given is not None and kept:
        _refuse_straddling(dataset, given)
    rare: tuple[str, ...] = ()
    if dataset.task.SEVERAL:
        truth = dataset.task.truth(problem.labels)
        several = Several(dataset.path, dataset.classes, truth, problem.groups, problem.unit)
        sides, notes, rare = divide_several(several, spec, given)
    elif spec.folds is not None:
        sides, notes = _cross_validation(problem, dataset, spec, ignored=given is not None)
    elif given is not None:
        sides, notes = _keep_given(problem, dataset, spec, given)
    else:
        sides, notes = _fresh(problem, dataset, spec)
    notes = (*notes, _fractions(sides))
    warnings_ = [
        *rare,
        *_warnings(items, contents, sides, given=kept),
        *_uneven(problem, items, spec, sides, given=kept),
    ]
    return Division(tuple(sides.tolist()), notes, tuple(warnings_))


def _problem(dataset: Dataset, contents: Sequence[str]) -> _Problem:
    """Groups: the patient; without one, the patient of an identical image; without that, the content."""
    items = dataset.items
    owners: dict[str, str] = {}
    for item, content in zip(items, contents, strict=True):
        if item.patient is not None:
            owners[content] = min(item.patient, owners.get(content, item.patient))
    names = []
    for item, content in zip(items, contents, strict=True):
        patient = item.patient if item.patient is not None else owners.get(content)
        names.append(("content", content) if patient is None else ("patient", patient))
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    groups = np.array([numbers[name] for name in names], dtype=np.int64)
    labels = dataset.labels if dataset.task.SEVERAL else dataset.task.strata(dataset.labels)
    return _Problem(dataset.classes, labels, groups, "patient" if dataset.has_patients else "different image")


def _given(dataset: Dataset) -> NDArray[np.str_] | None:
    """The division that comes with the data, checked, or None."""
    splits = [item.split for item in dataset.items]
    if not any(splits):
        return None
    if None in splits:
        without = dataset.items[splits.index(None)]
        raise BadInputError(f"{without.id} has no split, others do", where=dataset.path, fix="give all a split or none")
    for side in ("train", "test"):
        if side not in splits:
            raise BadInputError(
                f"its own division has no {side} side", where=dataset.path, fix=_undivided(dataset, side)
            )
    return np.array(splits)


def _undivided(dataset: Dataset, side: str) -> str:
    """The way out where a given division lacks a side."""
    if dataset.path.is_dir():
        other = "one of its sides" if side == "train" else "its training side"
        return f"add a folder {side} with a folder per class, or pass {other} alone and let it be divided"
    return f"mark some images as {side}, or remove the division and let it be made anew"


def _keep_given(
    problem: _Problem, dataset: Dataset, spec: SplitSpec, given: NDArray[np.str_]
) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    _refuse_absent(problem, dataset, given)
    notes: tuple[str, ...] = (KEPT,)
    sides = given.copy()
    if "val" not in given:
        training = given == "train"
        chosen = _carve(problem.restricted(training), validation_share(spec), spec.seed)
        if chosen is None:
            raise _too_small(problem.restricted(training), dataset, "a validation side taken from training")
        sides[np.flatnonzero(training)[chosen]] = "val"
        notes += (taken_from_training(_by(problem)),)
    return sides, notes


def _refuse_absent(problem: _Problem, dataset: Dataset, sides: NDArray[np.str_]) -> None:
    for side in (name for name in SIDES if name in sides):
        absent = set(range(len(problem.classes))) - set(problem.labels[sides == side].tolist())
        if absent:
            what = f"class {problem.classes[min(absent)]!r} has no images on the {side} side{_alone(problem, sides)}"
            way = "the images" if dataset.path.is_dir() else "the division"
            fix = f"move some there, correct the class's name where it is another, or remove {way}"
            raise BadInputError(what, where=dataset.path, fix=fix)


def _alone(problem: _Problem, sides: NDArray[np.str_]) -> str:
    """The classes that only one side has, which may be one class under several names."""
    places = [set(sides[problem.labels == label].tolist()) for label in range(len(problem.classes))]
    found = {
        side: [name for name, where in zip(problem.classes, places, strict=True) if where == {side}] for side in SIDES
    }
    said = [f"only on {side}: {', '.join(names[:4])}" for side, names in found.items() if names]
    return f" ({'; '.join(said)})" if len(said) > 1 else ""


def _refuse_straddling(dataset: Dataset, sides: NDArray[np.str_]) -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for item, side in zip(dataset.items, sides.tolist(), strict=True):
        if item.patient is not None:
            found[item.patient].add(side)
    both = {patient: where for patient, where in found.items() if len(where) > 1}
    if both:
        patient = min(both)
        what = f"patient {patient} is on the sides {' and '.join(s for s in SIDES if s in both[patient])}"
        more = f" (and {len(both) - 1} more patients)" if len(both) > 1 else ""
        raise BadInputError(
            what + more, where=dataset.path, fix="move each patient to one side, or remove the division"
        )


def _fresh(problem: _Problem, dataset: Dataset, spec: SplitSpec) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    _refuse_rare(problem, dataset, 3, "a split", "one for each of training, validation and test")
    for seed in seeds(spec.seed):
        found: list[NDArray[np.str_]] = []
        for test in _candidates(problem, spec.test, seed):
            sides = _with_validation(problem, test, spec)
            if sides is not None and farthest(sides, spec) <= TOLERANCE:
                return sides, ()
            found += [sides] if sides is not None else []
        if found:
            # A patient with very many images makes every division of this kind uneven; the least uneven is taken.
            return min(found, key=lambda sides: farthest(sides, spec)), ()
    raise _too_small(problem, dataset, "training, validation and test")


def _cross_validation(
    problem: _Problem, dataset: Dataset, spec: SplitSpec, *, ignored: bool
) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    """The first shuffle whose folds all have every class serves all folds, so that each image is tested once."""
    assert spec.folds is not None and spec.fold is not None
    _refuse_rare(problem, dataset, spec.folds, f"{spec.folds} folds", "one for each fold")
    notes = (NOT_KEPT,) if ignored else ()
    for seed in seeds(spec.seed):
        folds = _folds(problem, spec.folds, seed)
        if folds is None or not all(problem.complete(folds == fold) for fold in range(spec.folds)):
            continue
        if spec.fold_holds == "val+test":
            sides = _with_test(problem, folds == spec.fold, spec)
        else:
            sides = _with_validation(problem, folds == spec.fold, spec)
        if sides is None:
            break
        return sides, (fold_is_tested(spec), *notes)
    raise _too_small(problem, dataset, f"{spec.folds} folds and a validation side")


def _with_validation(problem: _Problem, test: NDArray[np.bool_], spec: SplitSpec) -> NDArray[np.str_] | None:
    """The sides for a test side, or None where they cannot all have every class."""
    if not problem.complete(test):
        return None
    rest = problem.restricted(~test)
    chosen = _carve(rest, validation_share(spec), spec.seed)
    if chosen is None:
        return None
    sides = np.where(test, "test", "train").astype("<U5")
    sides[np.flatnonzero(~test)[chosen]] = "val"
    return sides


def _with_test(problem: _Problem, held: NDArray[np.bool_], spec: SplitSpec) -> NDArray[np.str_] | None:
    """The sides where validation and test are what is held out, or None where they cannot both have every class."""
    chosen = _carve(problem.restricted(held), test_share(spec), spec.seed)
    if chosen is None or not problem.complete(~held):
        return None
    sides = np.where(held, "val", "train").astype("<U5")
    sides[np.flatnonzero(held)[chosen]] = "test"
    return sides


def _carve(problem: _Problem, fraction: float, seed: int) -> NDArray[np.bool_] | None:
    """A fraction of the groups that leaves every class inside and outside, or None."""
    for shuffle in seeds(seed):
        for chosen in _candidates(problem, fraction, shuffle):
            if problem.complete(chosen) and problem.complete(~chosen):
                return chosen
    return None


def _candidates(problem: _Problem, fraction: float, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Every run of neighbouring folds that makes up the fraction."""
    take, of = _as_folds(fraction)
    folds = _folds(problem, of, seed)
    if folds is not None:
        yield from ((folds - start) % of < take for start in range(of))


def _as_folds(fraction: float) -> tuple[int, int]:
    """(how many folds, of how many): a fifth is one of five, 0.3 is three of ten, 0.05 is one of twenty."""
    if fraction <= 1 / _COARSEST:
        return 1, round(1 / fraction)
    ratio = min(Fraction(fraction).limit_denominator(_COARSEST), Fraction(_COARSEST - 1, _COARSEST))
    return ratio.numerator, ratio.denominator


def _folds(problem: _Problem, count: int, seed: int) -> NDArray[np.int64] | None:
    """Fold of each image, or None where there are too few images or groups for so many folds."""
    # Sorted by group, because the shuffles depend on the order.
    order = np.lexsort((problem.labels, problem.groups))
    labels, groups = problem.labels[order], problem.groups[order]
    if len(np.unique(groups)) < count or np.bincount(labels).max() < count:
        return None
    # Without images to keep together it is much faster on a million images.
    alone = len(np.unique(groups)) == len(groups)
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = stratified_folds(labels, count, seed) if alone else grouped_folds(labels, groups, count, seed)
    return folds


def _refuse_rare(problem: _Problem, dataset: Dataset, least: int, what: str, why: str) -> None:
    counts = problem.groups_per_class()
    rarest = int(counts.argmin())
    if counts[rarest] < least:
        raise BadInputError(
            f"class {problem.classes[rarest]!r} has {_groups(problem, rarest)}; "
            f"{what} by {_by(problem)} needs at least {least}: {why}",
            where=dataset.path,
            fix="add images or leave the class out",
        )


def _too_small(problem: _Problem, dataset: Dataset, what: str) -> BadInputError:
    rarest = int(problem.groups_per_class().argmin())
    return BadInputError(
        f"no division by {_by(problem)} puts every class on every side of {what}; the rarest class is "
        f"{problem.classes[rarest]!r} ({_groups(problem, rarest)})",
        where=dataset.path,
        fix="add images, leave the class out, or ask for larger sides",
    )


def _groups(problem: _Problem, label: int) -> str:
    count = problem.groups_per_class()[label]
    return f"{count} {problem.unit}{'' if count == 1 else 's'}"


def _by(problem: _Problem) -> str:
    return "patient" if problem.unit == "patient" else "image"


def _fractions(sides: NDArray[np.str_]) -> str:
    counts = {side: int((sides == side).sum()) for side in SIDES}
    return ", ".join(f"{side} {count:,} ({count / len(sides):.1%})" for side, count in counts.items())


def _uneven(
    problem: _Problem, items: Sequence[Item], spec: SplitSpec, sides: NDArray[np.str_], *, given: bool
) -> Iterator[str]:
    """What makes a side other than it seems: a share far from what was asked, or one patient who makes most of it."""
    sizes = np.bincount(problem.groups)
    largest = int(sizes.argmax())
    owner = items[int(np.flatnonzero(problem.groups == largest)[0])].patient
    if not given and spec.folds is None and farthest(sides, spec) > TOLERANCE:
        side = max(SIDES, key=lambda side: abs(float((sides == side).mean()) - asked(spec, side)))
        one = f"patient {owner}" if owner is not None else "one image with its copies"
        yield (
            f"the {side} side is {(sides == side).mean():.0%} of the images where {asked(spec, side):.0%} were asked "
            f"for: {one} has {sizes[largest]:,} of {len(sides):,} images, which stay together"
        )
    for side in SIDES:
        inside = np.bincount(problem.groups[sides == side])
        share = inside.max() / inside.sum()
        if share > _MOST_OF_A_SIDE and inside.sum() >= _ENOUGH and len(sizes) > len(SIDES):
            member = items[int(np.flatnonzero(problem.groups == int(inside.argmax()))[0])].patient
            one = f"patient {member}" if member is not None else "one image with its copies"
            yield f"{one} makes {share:.0%} of the {side} side ({inside.max():,} of {inside.sum():,} images)"


def _warnings(items: Sequence[Item], contents: Sequence[str], sides: NDArray[np.str_], *, given: bool) -> Iterator[str]:
    unknown = sum(item.patient is None for item in items)
    if unknown:
        some = f"{unknown:,} of {len(items):,} images have no patient_id"
        some = "no image has a patient_id" if unknown == len(items) else some
        unknown_to = "so nothing tells whether the division that comes with the data keeps their patients apart"
        divided = "these are divided by image, copies of one of them kept together"
        yield f"{some}, {unknown_to}" if given else f"{some}: {divided}"
    places: dict[str, set[str]] = defaultdict(set)
    for content, side in zip(contents, sides.tolist(), strict=True):
        places[content].add(side)
    straddling = {content for content, where in places.items() if len(where) > 1}
    if straddling:
        copies = sum(count for content, count in Counter(contents).items() if content in straddling)
        why = "the given division has them" if given else "they are of different patients,"
        yield (
            f"{copies:,} images are copies of one another ({len(straddling):,} contents), {why} on different sides: "
            "results on them are no test"
        )
