"""The operating point between two classes: chosen by a rule on some images, measured on others.

A threshold is put halfway between two scores that were seen, so that rounding, another engine or another precision
moves no image of the validation side across it unless it moves its score by half that gap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.spec import OperatingPoint, Record
from ttl_deploy.tasks.roc import roc_curve

Interval = tuple[float, float]
Mask = NDArray[np.bool_]

CONFIDENCE = 0.95
_EXACT = 1e-12
"""1 - 0.9 is not 0.1 in binary; a rate exactly on its bound belongs inside."""


class Share(Record):
    """A fraction of images, and how sure it is.

    Attributes:
        hits: Images counted.
        images: Of so many.
        value: hits / images; None of none.
        interval: 95 %; see `share`.
    """

    hits: int
    images: int
    value: float | None
    interval: Interval | None


class Reached(Record):
    """What a threshold does on some images.

    Attributes:
        sensitivity: Of the images of the second class, those that are said to be.
        specificity: Of the images of the first class, those that are said to be.
        positive_predictive_value: Of the images said to be of the second class, those that are. Like the next, it
            holds only where the classes are as frequent as here.
        negative_predictive_value: Of the images said to be of the first class, those that are.
    """

    sensitivity: Share
    specificity: Share
    positive_predictive_value: Share
    negative_predictive_value: Share


class Operation(Record):
    """An operating point, and what it does on both sides.

    Attributes:
        point: The point.
        val: On the images that it was chosen on.
        test: On the others.
    """

    point: OperatingPoint
    val: Reached
    test: Reached


def choose(rule: str, positive: Mask, scores: NDArray[np.float64]) -> OperatingPoint:
    """The operating point that a rule gives on some images.

    `youden`: the threshold of the largest sensitivity + specificity - 1 (Youden 1950). `sensitivity=S`: the highest
    threshold with at least that sensitivity. `specificity=S`: the lowest with at least that specificity. A number is
    the threshold itself. Between equally good thresholds the highest is taken.

    Args:
        rule: As `OperatingPoint.rule`.
        positive: (N,) whether an image is of the second class; both are there.
        scores: (N,) probability of the second class.

    Raises:
        ValueError: One class only, or a score that is no number.
    """
    name, _, bound = rule.partition("=")
    if name not in ("youden", "sensitivity", "specificity"):
        return OperatingPoint(rule=rule, threshold=float(rule))
    found, missed, thresholds = _curve(positive, scores)
    if name == "youden":
        best = int(np.argmax(found - missed))
    elif name == "sensitivity":
        best = int(np.argmax(found >= float(bound) - _EXACT))
    else:
        best = int(np.flatnonzero(missed <= 1 - float(bound) + _EXACT)[-1])
    return OperatingPoint(rule=rule, threshold=float(thresholds[best]))


def _curve(
    positive: Mask, scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sensitivity, 1 - specificity and threshold of every way to divide the images, the highest threshold first."""
    if positive.all() or not positive.any():
        raise ValueError("an operating point is chosen on images of both classes")
    missed, found, seen = roc_curve(positive, scores)
    edges = np.concatenate([[1.0], seen[1:], [0.0]])
    return found, missed, (edges[:-1] + edges[1:]) / 2


def measure(
    threshold: float, positive: Mask, scores: NDArray[np.float64], groups: Sequence[str] | None = None
) -> Reached:
    """What a threshold does on some images.

    Args:
        threshold: Positive is what scores at least this.
        positive: (N,) whether an image is of the second class.
        scores: (N,) probability of the second class.
        groups: The patient of each image; None: every image counts for itself.
    """
    said = scores >= threshold
    patients = np.arange(len(said)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    return Reached(
        sensitivity=share(said[positive], patients[positive]),
        specificity=share(~said[~positive], patients[~positive]),
        positive_predictive_value=share(positive[said], patients[said]),
        negative_predictive_value=share(~positive[~said], patients[~said]),
    )


def share(hits: Mask, patients: NDArray[np.int64]) -> Share:
    """A fraction with the interval of Clopper and Pearson (1934), for as many images as the patients are worth.

    Images of one patient resemble each other, so they are worth fewer: Korn and Graubard (1998, "Confidence intervals
    for proportions with small expected number of positive counts estimated from survey data"). Where every image is a
    hit, or none, their resemblance cannot be seen, and every patient counts once.

    Args:
        hits: (N,).
        patients: (N,) the number of each image's patient.
    """
    images, count = len(hits), int(hits.sum())
    if not images:
        return Share(hits=0, images=0, value=None, interval=None)
    value = count / images
    return Share(hits=count, images=images, value=value, interval=_clopper_pearson(value, _worth(hits, patients)))


def _worth(hits: Mask, patients: NDArray[np.int64]) -> float:
    """So many independent images tell as much: p (1 - p) over the variance by patient, for their degrees of freedom."""
    from scipy.special import stdtrit

    images, value = len(hits), float(hits.mean())
    clusters = len(np.unique(patients))
    if clusters == images:
        return images
    if value in (0.0, 1.0) or clusters < 2:
        return clusters
    residues = np.bincount(patients, weights=hits - value)
    variance = clusters / (clusters - 1) * float((residues**2).sum()) / images**2
    if variance <= 0:
        return images
    quantile = (1 + CONFIDENCE) / 2
    uncertain = (stdtrit(images - 1, quantile) / stdtrit(clusters - 1, quantile)) ** 2
    return min(float(images), value * (1 - value) / variance * float(uncertain))


def _clopper_pearson(value: float, images: float) -> Interval:
    from scipy.special import betaincinv

    tail, hits = (1 - CONFIDENCE) / 2, value * images
    low = 0.0 if value == 0 else float(betaincinv(hits, images - hits + 1, tail))
    high = 1.0 if value == 1 else float(betaincinv(hits + 1, images - hits, 1 - tail))
    return low, high
