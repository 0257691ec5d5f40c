"""Compares two models' logits on the same images and judges the difference against bounds.

The comparison holds facts and no opinion; the verdict holds one number, its bound and the reason. No torch.

How a verdict comes about. A drop of AUROC or AUPRC, a shift of the calibration error and a rise of the Brier score are
estimates for images not seen, so their 95 % interval is judged, as in a non-inferiority trial: pass if all of it is
inside the bound, fail if all of it is outside, else inconclusive, with the number of images that would tell. Decisions,
probabilities and logits describe the images at hand: the number itself passes or fails, on twenty images as on twenty
thousand; only agreement below its bound fails where the whole interval (Clopper-Pearson) is below, else it is
inconclusive. `Verdict.within` says whether at least no number by itself breaks its bound.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttl_deploy.parity.paired import Change, Changes, changes, images_needed
from ttl_deploy.parity.shift import SMALLEST_SPREAD, Shift, shift
from ttl_deploy.spec import Bounds, ParityRecord, Record
from ttl_deploy.tasks import UNKNOWN, Labels, Task
from ttl_deploy.training.metrics import KAPPA, TITLES

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Pair = tuple[float | None, float | None]
Result = Literal["pass", "fail", "inconclusive"]

WORST = 10
_EXACT = 1e-12
"""A number on its bound is inside, whatever the last bit says."""


class Similarity(Record):
    """How often two models are right or wrong on the same images (Juodelyte et al. 2023, section 3.2, equation 2).

    Attributes:
        observed: Fraction of images that both classify rightly or both wrongly; of several labels, all of them rightly.
        independent: The same, if two models of these accuracies a and b erred independently: ab + (1 - a)(1 - b).
        accuracy: (reference, candidate).
    """

    observed: float
    independent: float
    accuracy: tuple[float, float]


class Comparison(Record):
    """What two models made of the same images. A number that cannot be had is None.

    Differences are absolute, over all logits of the images on which both sides are finite.

    Attributes:
        images: How many images.
        not_finite: On how many of them the reference or the candidate gave NaN or an infinite logit.
        max_difference: Largest difference.
        mean_difference: Mean difference.
        p50_difference: Median.
        p95_difference: 95th percentile.
        p99_difference: 99th percentile.
        spread: How much the reference's logits vary between images: the largest standard deviation of a class.
        disagreements: On how many images the decision differs, of labels any of them, of masks any pixel; images that
            are not finite count.
        label_agreement: Fraction of images on which it does not; of masks, of pixels.
        threshold: The operating point's probability from which on the positive side is decided for; None: the more
            probable one is.
        largest_relative: Largest difference of a logit relative to the size of the logits, of which rounding is a
            fraction: the largest of the image's own, the spread and 0.1.
        typical_relative: The median over images of the largest such difference on an image.
        shift: How far the probabilities moved.
        auroc: (reference, candidate), headline as in `ttl_deploy.training.metrics`.
        auprc: (reference, candidate), headline.
        worst: Indices of the ten images with the largest difference, largest first; images that are not finite lead.
        labelled: Whether the labels are known; without, nothing but logits and agreement is compared.
        changes: The measures that need labels, with the intervals of their differences.
        similarity: Whether the two err on the same images; None without labels.
        overlap: Of masks, Dice of the two: the mean over the images, and the least.
    """

    images: int
    not_finite: int
    max_difference: float | None
    mean_difference: float | None
    p50_difference: float | None
    p95_difference: float | None
    p99_difference: float | None
    spread: float | None
    disagreements: int
    label_agreement: float
    auroc: Pair
    auprc: Pair
    worst: tuple[int, ...]
    labelled: bool = True
    changes: Changes = Changes()
    similarity: Similarity | None = None
    threshold: float | None = None
    largest_relative: float | None = None
    typical_relative: float | None = None
    shift: Shift = Shift()
    overlap: tuple[float, float] | None = None


class Verdict(Record):
    """A judgement: the measure that decided, what it came to, and what it was held against.

    Attributes:
        result: pass, fail or inconclusive.
        measure: What was judged; for a pass, the measure that came closest to its bound.
        number: Its value; None where there is none.
        bound: Its bound.
        reason: One line with both.
        images_needed: For an inconclusive verdict, about how many images would tell; None where that is not known.
        within: Whether no number by itself breaks its bound (one differing label is allowed as chance, and so is a
            drop on so few images that one pair of them breaks the bound). An export keeps such a model even where its
            test split is too small to tell; `verify` does not pass it.
    """

    result: Result
    measure: str
    number: float | None
    bound: float | None
    reason: str
    images_needed: int | None = None
    within: bool = True


def compare(
    labels: ArrayLike | None,
    reference_logits: ArrayLike,
    candidate_logits: ArrayLike,
    task: Task,
    *,
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    sigmoid: bool = False,
) -> Comparison:
    """Compares a candidate's logits with the reference's.

    Args:
        labels: (N,) or (N, K), as the task has them; None: not known.
        reference_logits: (N, K).
        candidate_logits: (N, K), of the same images in the same order.
        task: What the logits mean, and where it decides.
        groups: The patient of each image; None: not known.
        bootstrap: Resamples for the intervals; 0: none but AUROC's, which needs none.
        seed: Seed of the resampling.
        sigmoid: Whether a sigmoid follows even where the task's softmax would, so that every logit counts for itself.

    Raises:
        ValueError: The shapes do not fit, or there is no image.
    """
    reference, candidate = (np.asarray(side, dtype=np.float64) for side in (reference_logits, candidate_logits))
    truth = np.array([task.unlabelled] * len(reference), dtype=np.int64) if labels is None else np.asarray(labels)
    _check_shapes(truth, reference, candidate, task)
    finite: Mask = np.asarray(np.isfinite(reference).all(axis=1) & np.isfinite(candidate).all(axis=1))
    differences = np.abs(reference[finite] - candidate[finite])
    agree = finite.copy()
    agree[finite] = same(task.decide_by_logits(reference[finite]), task.decide_by_logits(candidate[finite]))
    measured = Changes()
    if labels is not None and finite.all():
        both = task.probabilities(reference), task.probabilities(candidate)
        measured = changes(truth, *both, task, groups=groups, bootstrap=bootstrap, seed=seed)
    return Comparison(
        images=len(truth),
        not_finite=int((~finite).sum()),
        **_statistics(differences),
        spread=float(reference[finite].std(axis=0).max()) if finite.any() else None,
        **_relative(reference[finite], candidate[finite]),
        shift=shift(reference[finite], candidate[finite], sigmoid=sigmoid or task.ACTIVATION == "sigmoid"),
        threshold=task.threshold,
        disagreements=int((~agree).sum()),
        label_agreement=float(agree.mean()),
        auroc=(measured.auroc.reference, measured.auroc.candidate),
        auprc=(measured.auprc.reference, measured.auprc.candidate),
        worst=_worst(differences, finite),
        labelled=labels is not None,
        changes=measured,
        similarity=None if labels is None else _similarity(truth, reference, candidate, task),
    )


def verdict(comparison: Comparison, bounds: Bounds) -> Verdict:
    """Judges a comparison: fail if any bound is broken, else inconclusive if any cannot be judged, else pass."""
    criteria = list(_criteria(comparison, bounds))
    within = all(criterion.within for criterion in criteria)
    for result in ("fail", "inconclusive"):
        found = [criterion for criterion in criteria if criterion.result == result]
        if found:
            return found[0].verdict("; ".join(criterion.reason for criterion in found), within, _most_needed(found))
    closest = max(criteria, key=lambda criterion: criterion.strain)
    return closest.verdict("; ".join(criterion.reason for criterion in criteria), within)


def to_record(
    comparison: Comparison,
    judged: Verdict,
    *,
    reference: str,
    split: str,
    worst: Sequence[str] = (),
    precision: str | None = None,
    runtime: str | None = None,
) -> ParityRecord:
    """The form that travels in an artifact's manifest.

    Args:
        comparison: The facts.
        judged: The verdict on them.
        reference: What the artifact was compared with.
        split: Which images, such as `test`.
        worst: Ids of the images on which the two differ most.
        precision: Whose bounds it was judged by; None: bounds of no precision.
        runtime: The engine that was judged; None: the format's first.
    """
    measured, similarity, moved = comparison.changes, comparison.similarity, comparison.shift
    kappa = measured.quadratic_kappa
    return ParityRecord(
        reference=reference,
        images=comparison.images,
        split=split,
        max_logit_difference=comparison.max_difference,
        mean_logit_difference=comparison.mean_difference,
        label_agreement=comparison.label_agreement,
        auroc=comparison.auroc,
        auprc=comparison.auprc,
        quadratic_kappa=None if kappa is None else (kappa.reference, kappa.candidate),
        verdict=judged.result,
        reason=judged.reason,
        images_needed=judged.images_needed,
        auroc_interval=measured.auroc.interval,
        auprc_interval=measured.auprc.interval,
        ece=(measured.ece.reference, measured.ece.candidate),
        brier=(measured.brier.reference, measured.brier.candidate),
        prediction_similarity=(similarity.observed, similarity.independent) if similarity else None,
        worst=tuple(worst),
        precision=precision,
        probability_difference=None if moved.largest is None or moved.p99 is None else (moved.p99, moved.largest),
        mean_probability_shift=moved.mean,
        logit_scale=moved.scale,
        logit_offset=moved.offset,
        calibration_interval=measured.calibration.interval,
        mask_overlap=comparison.overlap,
        dice=None if measured.dice is None else (measured.dice.reference, measured.dice.candidate),
        dice_interval=None if measured.dice is None else measured.dice.interval,
        runtime=runtime,
    )


@dataclass(frozen=True)
class _Criterion:
    """One bound held against one number. `strain` is how much of the bound is used up; above 1 it is broken."""

    measure: str
    result: Result
    number: float | None
    bound: float
    reason: str
    strain: float = 0.0
    within: bool = True
    needed: int | None = None
    interval: tuple[float, float] | None = None

    def verdict(self, reason: str, within: bool, needed: int | None = None) -> Verdict:
        return Verdict(
            result=self.result,
            measure=self.measure,
            number=self.number,
            bound=self.bound,
            reason=reason,
            images_needed=needed,
            within=within,
        )


_DROPS = tuple(f"{TITLES[name]} drop" for name in ("auroc", "auprc", KAPPA, "dice"))
_BOUNDED: dict[str, tuple[str, ...]] = {
    "preset": _DROPS,
    "max_auroc_drop": (f"{TITLES['auroc']} drop",),
    "max_auprc_drop": (f"{TITLES['auprc']} drop",),
    "max_kappa_drop": (f"{TITLES[KAPPA]} drop",),
    "max_dice_drop": (f"{TITLES['dice']} drop",),
    "min_mask_overlap": ("mask overlap",),
    "min_label_agreement": ("label agreement",),
    "max_probability_difference": ("probability difference",),
    "max_p99_difference": ("99th percentile",),
    "max_mean_shift": ("mean shift",),
    "max_scale_change": ("logit scale",),
    "max_logit_offset": ("logit offset",),
    "max_calibration_shift": ("calibration error shift", "Brier score rise"),
    "max_logit_difference": ("logit difference",),
    "max_typical_difference": ("rounding",),
    "min_metric_ratio": _DROPS,
}
"""The measures that a bound is held against, by its name."""


@dataclass(frozen=True)
class Judged:
    """One measure held against one bound.

    Attributes:
        measure: Which.
        result: pass, fail or inconclusive.
        number: What it came to; None where it cannot be had.
        bound: What it was held against.
        interval: 95 % interval of the number, where it is an estimate.
        reason: One line.
    """

    measure: str
    result: Result
    number: float | None
    bound: float
    interval: tuple[float, float] | None
    reason: str


def against_bound(comparison: Comparison, bounds: Bounds, name: str) -> list[Judged]:
    """What became of one bound; nothing where these images, or this task, have nothing that it bounds.

    Args:
        comparison: The facts.
        bounds: All that is tolerated, with the defaults of the precision (`Bounds.filled`).
        name: A field of `Bounds`.
    """
    return [
        Judged(each.measure, each.result, each.number, each.bound, each.interval, each.reason)
        for each in _criteria(comparison, bounds)
        if each.measure in _BOUNDED[name]
    ]


def _most_needed(criteria: Sequence[_Criterion]) -> int | None:
    """The count that settles all; None where one of them cannot be settled by more images, or all are settled."""
    counts = [criterion.needed for criterion in criteria if criterion.result == "inconclusive"]
    known = [count for count in counts if count is not None]
    return max(known) if known and len(known) == len(counts) else None


def _criteria(comparison: Comparison, bounds: Bounds) -> Iterator[_Criterion]:
    """Every bound, the most telling first: of several failures the first is reported."""
    images, measured = comparison.images, comparison.changes
    if comparison.not_finite:
        count = comparison.not_finite
        reason = f"logits of {count} of {images} images are not finite"
        yield _Criterion("finite logits", "fail", count, 0, reason, within=False)
    if comparison.overlap is None:
        yield _agreement(comparison, bounds.min_label_agreement)
    else:
        yield _overlapping(comparison.overlap, bounds.min_mask_overlap)
    if comparison.labelled:
        drops = {
            "auroc": bounds.max_auroc_drop,
            "auprc": bounds.max_auprc_drop,
            KAPPA: bounds.max_kappa_drop,
            "dice": bounds.max_dice_drop,
        }
        for name, change in measured.headline.items():
            bound = _tighter(drops[name], bounds.min_metric_ratio, change.reference)
            yield _moved(TITLES[name], "drop", change, bound, images, step=measured.step or 0.0)
    if comparison.labelled and comparison.overlap is None and bounds.max_calibration_shift is not None:
        yield _moved("calibration error", "shift", measured.calibration, bounds.max_calibration_shift, images)
        yield _moved("Brier score", "rise", measured.brier, bounds.max_calibration_shift, images)
    yield from _shifted(comparison, bounds)


def _shifted(comparison: Comparison, bounds: Bounds) -> Iterator[_Criterion]:
    """What is known of the images at hand for certain, so it passes or fails."""
    found = comparison.shift
    furthest = max(map(abs, found.mean), default=None)
    change = None if found.scale is None else abs(found.scale - 1)
    scale = "" if found.scale is None else f"logits scaled by {found.scale:.4g}, a change of {{}}"
    for measure, words, number, most in (
        (
            "probability difference",
            "largest probability difference {}",
            found.largest,
            bounds.max_probability_difference,
        ),
        ("99th percentile", "99th percentile of the probability differences {}", found.p99, bounds.max_p99_difference),
        ("mean shift", "mean probability shift of a class {}", furthest, bounds.max_mean_shift),
        ("logit scale", scale, change, bounds.max_scale_change),
        ("logit offset", "logits of a class moved by {} of their size", found.offset, bounds.max_logit_offset),
        (
            "logit difference",
            "largest logit difference {} of their size",
            comparison.largest_relative,
            bounds.max_logit_difference,
        ),
        (
            "rounding",
            "median logit difference {} of their size",
            comparison.typical_relative,
            bounds.max_typical_difference,
        ),
    ):
        if number is not None and most is not None:
            yield _certain(measure, words, number, most)


def _overlapping(overlap: tuple[float, float], least: float | None) -> _Criterion:
    mean, worst = overlap
    bound = 0.0 if least is None else least
    result: Result = "pass" if mean >= bound - _EXACT else "fail"
    reason = f"masks overlap with Dice {mean:.4f} (at least {bound:.4g}), {worst:.4f} on the worst image"
    return _Criterion("mask overlap", result, mean, bound, reason, _strain(1 - mean, 1 - bound), result == "pass")


def _certain(measure: str, words: str, number: float, most: float) -> _Criterion:
    result: Result = "pass" if number <= most + _EXACT else "fail"
    reason = f"{words.format(f'{number:.2g}')} (at most {most:.2g})"
    return _Criterion(measure, result, number, most, reason, _strain(number, most), within=result == "pass")


def _agreement(comparison: Comparison, least: float) -> _Criterion:
    """One image of fewer than 1/(1-least) breaks the bound alone, which is chance: then more images are needed."""
    value, differing, images = comparison.label_agreement, comparison.disagreements, comparison.images
    reason = f"label agreement {value:.2%} (at least {least:.2%}: {differing} of {images} images differ)"
    strain = _strain(1 - value, 1 - least)
    if value >= least:
        return _Criterion("label agreement", "pass", value, least, reason, strain)
    most = _highest_rate(images - differing, images)
    if most < least or comparison.not_finite:
        return _Criterion("label agreement", "fail", value, least, reason, strain, within=False)
    alone = differing == 1
    needed = math.ceil(1 / (1 - least) - 1e-9) if alone else images_needed(images, value, most, least)
    reason = f"{reason}; {f'at least {needed} images are needed to tell' if needed else _telling(needed)}"
    return _Criterion("label agreement", "inconclusive", value, least, reason, strain, within=alone, needed=needed)


def _highest_rate(hits: int, trials: int) -> float:
    """Upper end of the 95 % Clopper-Pearson interval of a rate."""
    from scipy.special import betaincinv

    return 1.0 if hits == trials else float(betaincinv(hits + 1, trials - hits, 0.975))


def _tighter(most: float, ratio: float | None, reference: float | None) -> float:
    return most if ratio is None or reference is None else min(most, (1 - ratio) * reference)


def _moved(
    name: str,
    way: Literal["drop", "rise", "shift"],
    change: Change,
    most: float,
    images: int,
    *,
    step: float = 0.0,
) -> _Criterion:
    """Judges how far a measure moved for the worse, or for a shift to either side, by the interval of that.

    Where the least change that the images can show breaks the bound alone, it is chance, and only an interval that is
    all outside counts against the model.
    """
    measure = f"{name} {way}"
    if change.difference is None or change.reference is None or change.candidate is None:
        reason = f"{name} is not defined on these images (one class only, or logits that are not finite)"
        return _Criterion(measure, "inconclusive", None, most, reason)
    turn = _TURNS[way]
    number = turn(change.difference)
    reason = f"{name} {change.reference:.4f} to {change.candidate:.4f}"
    strain, inside = _strain(number, most), number <= most + _EXACT
    within = inside or number <= step + _EXACT
    if change.interval is None:
        reason = f"{reason}, too few patients of a class for an interval ({way} at most {most:.4g})"
        return _Criterion(measure, "inconclusive", number, most, reason, strain, within)
    low, high = sorted(turn(end) for end in change.interval)
    if way == "shift" and change.interval[0] < 0 < change.interval[1]:
        low = 0.0
    reason = f"{reason}, {way} {_range(low, high)} (at most {most:.4g})"
    sure = (low, high)
    if high <= most + _EXACT:
        return _Criterion(measure, "pass", number, most, reason, strain, interval=sure)
    if low > most + _EXACT:
        return _Criterion(measure, "fail", number, most, reason, strain, within=False, interval=sure)
    within = inside or step > most
    needed = images_needed(images, number, high if inside else low, most)
    reason = f"{reason}: {_telling(needed)}, {images} are here"
    return _Criterion(measure, "inconclusive", number, most, reason, strain, within, needed, sure)


_TURNS: dict[str, Callable[[float], float]] = {"drop": operator.neg, "rise": float, "shift": abs}


def _telling(needed: int | None) -> str:
    """How many images would tell, in words."""
    if needed is None:
        return "too near the bound for any practical number of such images to tell"
    return f"about {needed} images would tell"


def _range(low: float, high: float) -> str:
    """An interval in words; minus zero is zero."""
    return f"{round(low, 4) + 0.0:.4f} to {round(high, 4) + 0.0:.4f}"


def _relative(reference: Floats, candidate: Floats) -> dict[str, float | None]:
    if not len(reference):
        return {"largest_relative": None, "typical_relative": None}
    sizes = np.maximum(np.abs(reference).max(axis=1), max(float(reference.std(axis=0).max()), SMALLEST_SPREAD))
    moved = np.abs(candidate - reference).max(axis=1) / sizes
    return {"largest_relative": float(moved.max()), "typical_relative": float(np.median(moved))}


def _strain(number: float, bound: float) -> float:
    return number / bound if bound > 0 else float(number > 0)


def same(one: Labels, other: Labels) -> Mask:
    """(N,) whether all that is decided of an image is the same."""
    alike = one == other
    return np.asarray(alike if alike.ndim == 1 else alike.all(axis=1))


def _check_shapes(labels: Labels, reference: Floats, candidate: Floats, task: Task) -> None:
    expected = (len(labels), len(task.classes))
    if reference.shape != expected or candidate.shape != expected or labels.ndim != np.ndim(task.unlabelled) + 1:
        raise ValueError(
            f"{len(labels)} labels of {len(task.classes)} classes need logits {expected}, "
            f"got {reference.shape} of the reference and {candidate.shape} of the candidate"
        )
    if not len(labels):
        raise ValueError("there is no image to compare on")


def _statistics(differences: Floats) -> dict[str, float | None]:
    names = ("max_difference", "mean_difference", "p50_difference", "p95_difference", "p99_difference")
    if not differences.size:
        return dict.fromkeys(names)
    values = (differences.max(), differences.mean(), *np.percentile(differences, [50, 95, 99]))
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _similarity(labels: Labels, reference: Floats, candidate: Floats, task: Task) -> Similarity:
    """A logit that is not a number makes the image an error; of labels, one that is wrong does."""
    right = []
    for side in (reference, candidate):
        finite: Mask = np.asarray(np.isfinite(side).all(axis=1))
        decided = task.decide_by_logits(np.where(finite[:, None], side, 0.0))
        right.append(finite & same(np.where(labels == UNKNOWN, UNKNOWN, decided), labels))
    first, second = (float(side.mean()) for side in right)
    return Similarity(
        observed=float((right[0] == right[1]).mean()),
        independent=first * second + (1 - first) * (1 - second),
        accuracy=(first, second),
    )


def _worst(differences: Floats, finite: Mask) -> tuple[int, ...]:
    ranking = np.full(len(finite), np.inf)
    ranking[finite] = differences.max(axis=1)
    return tuple(int(i) for i in np.argsort(-ranking, kind="stable")[:WORST])
