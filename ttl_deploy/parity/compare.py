"""Compares two models' logits on the same labelled images and judges the difference against bounds.

The comparison holds facts and no opinion; the verdict holds one number, its bound and the reason. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from ttl_deploy.runtime import softmax
from ttl_deploy.spec import ParityRecord, Record
from ttl_deploy.training.metrics import auprc, auroc

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Pair = tuple[float | None, float | None]
Result = Literal["pass", "fail", "inconclusive"]

WORST = 10
FP32_LOGIT_BOUND = 1e-3
SMALLEST_SPREAD = 0.1


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
        disagreements: On how many images the most probable class differs; images that are not finite count.
        label_agreement: Fraction of images on which it does not.
        auroc: (reference, candidate), headline as in `ttl_deploy.training.metrics`.
        auprc: (reference, candidate), headline.
        worst: Indices of the ten images with the largest difference, largest first; images that are not finite lead.
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


class Bounds(Record):
    """How much an exported model may differ.

    Attributes:
        max_auroc_drop: Most that the headline AUROC may be lower.
        max_auprc_drop: Most that the headline AUPRC may be lower.
        min_label_agreement: Least fraction of images with the same most probable class.
        max_logit_difference: Largest difference of a logit, in units of `Comparison.spread`; a spread below 0.1 counts
            as 0.1. Rounding grows with the logits, so an absolute bound would be lax for a network with small logits
            and unfair to one with large. None: not judged.
    """

    max_auroc_drop: float = Field(0.005, ge=0, le=1)
    max_auprc_drop: float = Field(0.005, ge=0, le=1)
    min_label_agreement: float = Field(0.99, ge=0, le=1)
    max_logit_difference: float | None = Field(None, gt=0)

    @classmethod
    def for_precision(cls, precision: str) -> Self:
        """The defaults for an artifact's precision.

        fp32 only rounds differently, so its logits are bound too: to a thousandth of their spread. Lower precisions
        move every logit by design and are judged by what that does to the decisions.
        """
        return cls(max_logit_difference=FP32_LOGIT_BOUND if precision == "fp32" else None)


class Verdict(Record):
    """A judgement: the measure that decided, what it came to, and what it was held against.

    Attributes:
        result: pass, fail or inconclusive.
        measure: What was judged; for a pass, the measure that came closest to its bound.
        number: Its value; None where there is none.
        bound: Its bound.
        reason: One line with both.
    """

    result: Result
    measure: str
    number: float | None
    bound: float | None
    reason: str


def compare(
    labels: ArrayLike, reference_logits: ArrayLike, candidate_logits: ArrayLike, classes: Sequence[str]
) -> Comparison:
    """Compares a candidate's logits with the reference's.

    Args:
        labels: (N,) integers, indices into `classes`.
        reference_logits: (N, K).
        candidate_logits: (N, K), of the same images in the same order.
        classes: K names.

    Raises:
        ValueError: The shapes do not fit, or there is no image.
    """
    truth = np.asarray(labels)
    reference, candidate = (np.asarray(side, dtype=np.float64) for side in (reference_logits, candidate_logits))
    _check_shapes(truth, reference, candidate, len(classes))
    finite: Mask = np.asarray(np.isfinite(reference).all(axis=1) & np.isfinite(candidate).all(axis=1))
    differences = np.abs(reference[finite] - candidate[finite])
    agree = finite.copy()
    agree[finite] = reference[finite].argmax(axis=1) == candidate[finite].argmax(axis=1)
    return Comparison(
        images=len(truth),
        not_finite=int((~finite).sum()),
        **_statistics(differences),
        spread=float(reference[finite].std(axis=0).max()) if finite.any() else None,
        disagreements=int((~agree).sum()),
        label_agreement=float(agree.mean()),
        auroc=(_area(auroc, truth, reference), _area(auroc, truth, candidate)),
        auprc=(_area(auprc, truth, reference), _area(auprc, truth, candidate)),
        worst=_worst(differences, finite),
    )


def verdict(comparison: Comparison, bounds: Bounds) -> Verdict:
    """Judges a comparison: fail if any bound is broken, else inconclusive if any cannot be judged, else pass."""
    criteria = list(_criteria(comparison, bounds))
    for result in ("fail", "inconclusive"):
        for criterion in criteria:
            if criterion.result == result:
                return criterion.verdict(criterion.reason)
    closest = max(criteria, key=lambda criterion: criterion.strain)
    return closest.verdict("; ".join(criterion.reason for criterion in criteria))


def to_record(comparison: Comparison, judged: Verdict, *, reference: str, split: str) -> ParityRecord:
    """The form that travels in an artifact's manifest.

    Args:
        comparison: The facts.
        judged: The verdict on them.
        reference: What the artifact was compared with.
        split: Which images, such as `test`.
    """
    return ParityRecord(
        reference=reference,
        images=comparison.images,
        split=split,
        max_logit_difference=comparison.max_difference,
        mean_logit_difference=comparison.mean_difference,
        label_agreement=comparison.label_agreement,
        auroc=comparison.auroc,
        auprc=comparison.auprc,
        verdict=judged.result,
        reason=judged.reason,
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

    def verdict(self, reason: str) -> Verdict:
        return Verdict(result=self.result, measure=self.measure, number=self.number, bound=self.bound, reason=reason)


def _criteria(comparison: Comparison, bounds: Bounds) -> Iterator[_Criterion]:
    """Every bound, the most telling first: of several failures the first is reported."""
    if comparison.not_finite:
        count, images = comparison.not_finite, comparison.images
        yield _Criterion("finite logits", "fail", count, 0, f"logits of {count} of {images} images are not finite")
    yield _agreement(comparison, bounds.min_label_agreement)
    yield _drop("AUROC", comparison.auroc, bounds.max_auroc_drop)
    yield _drop("AUPRC", comparison.auprc, bounds.max_auprc_drop)
    if bounds.max_logit_difference is not None and comparison.max_difference is not None:
        yield _logits(comparison, bounds.max_logit_difference)


def _agreement(comparison: Comparison, least: float) -> _Criterion:
    """One image of fewer than 1/(1-least) breaks the bound alone, which is chance: then more images are needed."""
    value, differing = comparison.label_agreement, comparison.disagreements
    reason = f"label agreement {value:.2%} (at least {least:.2%}: {differing} of {comparison.images} images differ)"
    result: Result = "pass" if value >= least else "fail"
    if result == "fail" and differing == 1 and least < 1 and not comparison.not_finite:
        needed = math.ceil(1 / (1 - least) - 1e-9)
        result, reason = "inconclusive", f"{reason}; at least {needed} images are needed to tell"
    return _Criterion("label agreement", result, value, least, reason, _strain(1 - value, 1 - least))


def _drop(name: str, pair: Pair, most: float) -> _Criterion:
    reference, candidate = pair
    if reference is None or candidate is None:
        reason = f"{name} is not defined on these images (one class only, or logits that are not finite)"
        return _Criterion(f"{name} drop", "inconclusive", None, most, reason)
    drop = reference - candidate
    reason = f"{name} {reference:.4f} to {candidate:.4f} (drop at most {most:g})"
    return _Criterion(f"{name} drop", "pass" if drop <= most else "fail", drop, most, reason, _strain(drop, most))


def _logits(comparison: Comparison, most: float) -> _Criterion:
    difference = comparison.max_difference or 0.0
    bound = most * max(comparison.spread or 0.0, SMALLEST_SPREAD)
    reason = f"largest logit difference {difference:.2g} (at most {bound:.2g})"
    result: Result = "pass" if difference <= bound else "fail"
    return _Criterion("logit difference", result, difference, bound, reason, _strain(difference, bound))


def _strain(number: float, bound: float) -> float:
    return number / bound if bound > 0 else float(number > 0)


def _check_shapes(labels: NDArray[np.int64], reference: Floats, candidate: Floats, classes: int) -> None:
    expected = (len(labels), classes)
    if reference.shape != expected or candidate.shape != expected or labels.ndim != 1:
        raise ValueError(
            f"{len(labels)} labels of {classes} classes need logits {expected}, "
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


def _area(area: Callable[[ArrayLike, ArrayLike], float], labels: NDArray[np.int64], logits: Floats) -> float | None:
    """None where the logits are not finite or the labels are all of one class."""
    if not np.isfinite(logits).all() or len(np.unique(labels)) < 2:
        return None
    return area(labels, softmax(logits))


def _worst(differences: Floats, finite: Mask) -> tuple[int, ...]:
    ranking = np.full(len(finite), np.inf)
    ranking[finite] = differences.max(axis=1)
    return tuple(int(i) for i in np.argsort(-ranking, kind="stable")[:WORST])
