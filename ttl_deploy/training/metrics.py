"""How good a classifier is on labelled images: discrimination, calibration, and how sure one can be of the numbers.

Takes arrays and gives a record that is valid JSON: a number that the data cannot define is None, never NaN. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttl_deploy.spec import Record
from ttl_deploy.training import intervals
from ttl_deploy.training.delong import shares
from ttl_deploy.training.intervals import Estimate, Interval

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

FEWEST = 10
"""Patients of a class below which no metric of it tells much."""
ECE_BINS = 15
_CELLS_AT_ONCE = 4_000_000
_MOST_TRIES = 20


class ClassMetrics(Record):
    """One class against the rest.

    Attributes:
        name: The class.
        images: How many images have it.
        patients: How many patients have such an image; None where patients are not known, or not recorded.
        auroc: Area under the ROC curve; a tie counts one half.
        auroc_interval: 95 %, as in `Metrics`.
        auprc: Average precision: the sum of precision times the recall gained at each threshold, not interpolated.
        auprc_interval: 95 %, as in `Metrics`.
        sensitivity_at_90_specificity: See `sensitivity_at`.
        sensitivity_at_95_specificity: See `sensitivity_at`.
    """

    name: str
    images: int
    patients: int | None = None
    auroc: float | None
    auroc_interval: Interval | None
    auprc: float | None
    auprc_interval: Interval | None
    sensitivity_at_90_specificity: float | None
    sensitivity_at_95_specificity: float | None


class Metrics(Record):
    """All numbers of one evaluation.

    The headline AUROC, AUPRC and sensitivities are those of the second, positive class where there are two classes
    (as in the paper), else the plain mean over the classes that occur in the labels.

    Attributes:
        images: How many images.
        patients: How many patients; None where they are not known, so that every image counts as one.
        auroc: Headline.
        auroc_interval: 95 %, by DeLong's variance over patients on the logit scale (`ttl_deploy.training.intervals`);
            None where a class has fewer than two patients with it or without it.
        auprc: Headline.
        auprc_interval: 95 %, by the bootstrap's standard error over patients on the logit scale.
        sensitivity_at_90_specificity: Headline.
        sensitivity_at_95_specificity: Headline.
        accuracy: Fraction of images whose most probable class is right.
        balanced_accuracy: Mean over the classes in the labels of the fraction recognised.
        brier: Two classes: mean of (p - y)^2 of the positive class, 0 to 1. More: mean of the sum over all classes of
            (p - y)^2, 0 to 2 (Brier 1950).
        ece: Expected calibration error of the most probable class, 15 bins of equal width (Guo et al. 2017).
        bootstrap: How many resamples the AUPRC intervals come from; 0 where there are none.
        seed: Seed of the resampling.
        per_class: Each class against the rest, in the order of the outputs.
        caution: Which classes have so few patients that no metric tells much; None where none has.
    """

    images: int
    patients: int | None
    auroc: float | None
    auroc_interval: Interval | None
    auprc: float | None
    auprc_interval: Interval | None
    sensitivity_at_90_specificity: float | None
    sensitivity_at_95_specificity: float | None
    accuracy: float
    balanced_accuracy: float
    brier: float
    ece: float
    bootstrap: int
    seed: int
    per_class: tuple[ClassMetrics, ...]
    caution: str | None = None


def evaluate(
    labels: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Metrics:
    """Computes every metric.

    Args:
        labels: (N,) integers, indices into `classes`.
        probabilities: (N, K), each row adding up to 1.
        classes: K names; of two, the second is the positive one.
        groups: The patient of each image. With it the intervals count whole patients, because the images of one
            patient resemble each other and are less evidence than as many patients.
        bootstrap: How many resamples; 0: no intervals at all. A resample in which a class of the labels is missing is
            drawn again.
        seed: Seed of the resampling.

    Raises:
        ValueError: A shape, a label or a probability is impossible, or not a number.
    """
    truth, scores = _checked(labels, probabilities, len(classes))
    _check_distribution(scores)
    clusters, patients = _clusters(groups, len(truth))
    resamples = _Resamples(truth, scores, clusters, bootstrap, seed)
    sure = _Intervals(truth, scores, clusters, resamples) if bootstrap else None
    counts = [len(np.unique(clusters[truth == k])) for k in range(len(classes))]
    per_class = tuple(
        _class_metrics(truth, scores, k, name, sure, counts[k] if groups is not None else None)
        for k, name in enumerate(classes)
    )
    headline = headline_classes(truth, len(classes))
    return Metrics(
        images=len(truth),
        patients=patients,
        auroc=_mean([per_class[k].auroc for k in headline]),
        auroc_interval=sure and sure.auroc(headline),
        auprc=_mean([per_class[k].auprc for k in headline]),
        auprc_interval=sure and sure.auprc(headline),
        sensitivity_at_90_specificity=_mean([per_class[k].sensitivity_at_90_specificity for k in headline]),
        sensitivity_at_95_specificity=_mean([per_class[k].sensitivity_at_95_specificity for k in headline]),
        accuracy=float((scores.argmax(axis=1) == truth).mean()),
        balanced_accuracy=balanced_accuracy(truth, scores),
        brier=brier(truth, scores),
        ece=expected_calibration_error(truth, scores),
        bootstrap=resamples.count,
        seed=seed,
        per_class=per_class,
        caution=_caution(per_class, counts),
    )


def resampled(
    labels: ArrayLike,
    probabilities: ArrayLike,
    metric: str,
    *,
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Floats:
    """The headline AUROC or AUPRC on bootstrap resamples; its standard deviation is the metric's standard error.

    The resamples depend on labels, groups and seed alone: two models are measured on the same ones.

    Args:
        labels: As in `evaluate`.
        probabilities: As in `evaluate`.
        metric: `auroc` or `auprc`.
        groups: As in `evaluate`.
        bootstrap: How many resamples.
        seed: Seed of the resampling.

    Returns:
        (bootstrap,), or (0,) where the data cannot give enough resamples with every class in them.

    Raises:
        ValueError: As `evaluate`.
    """
    truth, scores = _checked(labels, probabilities, None)
    resamples = _Resamples(truth, scores, _clusters(groups, len(truth))[0], bootstrap, seed)
    return resamples.values(metric, headline_classes(truth, scores.shape[1]))


def auroc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The headline AUROC: of the second class of two, else the mean over the classes that occur.

    Args:
        labels: (N,) integers.
        probabilities: (N, K).

    Raises:
        ValueError: A score is not a number, a shape is wrong, or all labels are the same.
    """
    return _headline(labels, probabilities, _auroc)


def auprc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The headline AUPRC (average precision): of the second class of two, else the mean over the classes that occur.

    Args:
        labels: (N,) integers.
        probabilities: (N, K).

    Raises:
        ValueError: A score is not a number, a shape is wrong, or all labels are the same.
    """
    return _headline(labels, probabilities, _auprc)


def sensitivity_at(specificity: float, positive: NDArray[np.bool_], scores: Floats) -> float | None:
    """The highest sensitivity of any rule "positive from this score on" with at least the specificity.

    Images of the same score stand or fall together, and nothing is interpolated between thresholds, so the pair is
    one that a deployed threshold really gives on these images.

    Args:
        specificity: Between 0 and 1.
        positive: (N,).
        scores: (N,).

    Returns:
        The sensitivity, or None where one side is empty.
    """
    from sklearn.metrics import roc_curve

    if positive.all() or not positive.any():
        return None
    false_positive, true_positive, _ = roc_curve(positive, scores, drop_intermediate=False)
    # 1 - 0.9 is not 0.1 in binary; a point exactly on the bound belongs inside.
    return float(true_positive[false_positive <= 1 - specificity + 1e-12].max())


def balanced_accuracy(labels: Labels, probabilities: Floats) -> float:
    """Mean over the classes in the labels of the fraction of their images that is recognised."""
    right = probabilities.argmax(axis=1) == labels
    return float(np.mean([right[labels == k].mean() for k in np.unique(labels)]))


def brier(labels: Labels, probabilities: Floats) -> float:
    """The Brier score: see `Metrics.brier` for the two definitions."""
    errors = (probabilities - np.eye(probabilities.shape[1])[labels]) ** 2
    return float(errors[:, 1].mean() if errors.shape[1] == 2 else errors.sum(axis=1).mean())


def expected_calibration_error(labels: Labels, probabilities: Floats, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over bins of the most probable class's probability.

    Bins are equal in width and closed above, ((m-1)/M, m/M], and weighted by their images (Guo et al. 2017, "On
    Calibration of Modern Neural Networks", equation 3).
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


class _Resamples:
    """Bootstrap values of AUROC and AUPRC, per class.

    Every class is measured on the same resamples, so that the macro mean is resampled as a whole. Where the data
    cannot give enough resamples with every class in them, there are none.

    Attributes:
        count: How many resamples there are.
    """

    def __init__(self, labels: Labels, scores: Floats, clusters: Labels, count: int, seed: int) -> None:
        present = np.unique(labels)
        self.count = 0
        self._auroc: dict[int, Floats] = {}
        self._auprc: dict[int, Floats] = {}
        if count == 0 or len(present) < 2:
            return
        columns = {int(k): Ranked(labels == k, scores[:, k]) for k in present}
        chunks = [
            {k: ranked.areas(weights) for k, ranked in columns.items()}
            for weights in _resamples(labels, clusters, count, np.random.default_rng(seed))
        ]
        if sum(len(chunk[int(present[0])][0]) for chunk in chunks) < count:
            return
        self.count = count
        for k in columns:
            self._auroc[k] = np.concatenate([chunk[k][0] for chunk in chunks])
            self._auprc[k] = np.concatenate([chunk[k][1] for chunk in chunks])

    def values(self, metric: str, classes: Sequence[int]) -> Floats:
        """The resampled mean of `auroc` or `auprc` over some classes; empty where there are no resamples."""
        by_class = {"auroc": self._auroc, "auprc": self._auprc}[metric]
        if not classes or any(k not in by_class for k in classes):
            return np.zeros(0)
        return np.asarray(np.mean([by_class[k] for k in classes], axis=0))


class _Intervals:
    """The intervals of AUROC, by DeLong's shares, and of AUPRC, by the bootstrap; both by patient.

    Args:
        labels: (N,).
        scores: (N, K).
        clusters: (N,), the number of each image's patient.
        resamples: Of the same images.
    """

    def __init__(self, labels: Labels, scores: Floats, clusters: Labels, resamples: _Resamples) -> None:
        self._labels, self._scores, self._clusters, self._resamples = labels, scores, clusters, resamples

    def auroc(self, classes: Sequence[int]) -> Interval | None:
        """Interval of the mean AUROC of some classes; None where one has too few patients."""
        found = {k: shares(self._labels == k, self._scores[:, k], self._clusters) for k in classes}
        known = {k: share for k, share in found.items() if share is not None}
        if not classes or len(known) < len(classes):
            return None
        parts = [self._estimate(k, 0, self._error(share), 0.5) for k, share in known.items()]
        return intervals.mean(parts, self._error(np.mean(list(known.values()), axis=0))).interval

    def auprc(self, classes: Sequence[int]) -> Interval | None:
        """Interval of the mean AUPRC of some classes; None where one has too few patients, or none was resampled."""
        drawn = self._resamples.values("auprc", classes)
        if not len(drawn) or min(self._patients(k) for k in classes) < 2:
            return None
        errors = [_deviation(self._resamples.values("auprc", [k])) for k in classes]
        parts = [
            self._estimate(k, 1, error, float((self._labels == k).mean()))
            for k, error in zip(classes, errors, strict=True)
        ]
        return intervals.mean(parts, _deviation(drawn)).interval

    def _estimate(self, k: int, which: int, error: float, chance: float) -> Estimate:
        areas = Ranked(self._labels == k, self._scores[:, k]).areas(np.ones((1, len(self._labels))))
        return intervals.estimate(float(areas[which][0]), error, chance=chance, patients=self._patients(k))

    def _patients(self, k: int) -> int:
        """How many patients the rarer side has."""
        return min(len(np.unique(self._clusters[side])) for side in (self._labels == k, self._labels != k))

    def _error(self, share: Floats) -> float:
        return float(np.sqrt((np.bincount(self._clusters, weights=share) ** 2).sum()))


class Ranked:
    """The images of one class and the rest, sorted once, so that a resample costs two cumulative sums.

    Args:
        positive: (N,).
        scores: (N,).
    """

    def __init__(self, positive: NDArray[np.bool_], scores: Floats) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._positive = positive[self._order]
        ranked = scores[self._order]
        # The last image of every run of equal scores: the places where a threshold can stand.
        self._ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))

    def areas(self, weights: Floats) -> tuple[Floats, Floats]:
        """AUROC and average precision of resamples.

        Args:
            weights: (B, N), how often each image was drawn; both sides drawn at least once.

        Returns:
            (B,) and (B,).
        """
        ranked = weights[:, self._order]
        true = np.cumsum(ranked * self._positive, axis=1)[:, self._ends]
        found = np.cumsum(ranked, axis=1)[:, self._ends]
        false = found - true
        sensitivity, fall_out = true / true[:, -1:], false / false[:, -1:]
        gained = np.diff(sensitivity, axis=1, prepend=0.0)
        precision = np.divide(true, found, out=np.zeros_like(true), where=found > 0)
        before = np.concatenate([np.zeros((len(weights), 1)), sensitivity[:, :-1]], axis=1)
        area = (np.diff(fall_out, axis=1, prepend=0.0) * (sensitivity + before) / 2).sum(axis=1)
        return area, (gained * precision).sum(axis=1)


def _resamples(labels: Labels, clusters: Labels, count: int, generator: np.random.Generator) -> Iterator[Floats]:
    """Weights (B, N) of bootstrap resamples of whole clusters, in pieces that fit the memory.

    A resample without a class is drawn again. Where that keeps happening (two classes of one patient each among
    thousands), fewer than `count` come.
    """
    members = np.eye(int(labels.max()) + 1)[labels][:, np.unique(labels)]
    piece = max(1, _CELLS_AT_ONCE // len(labels))
    missing, tries = count, _MOST_TRIES * count
    while missing > 0 and tries > 0:
        drawn = _draw(clusters, min(piece, missing), generator)
        kept = drawn[(drawn @ members > 0).all(axis=1)]
        missing, tries = missing - len(kept), tries - len(drawn)
        if len(kept):
            yield kept


def _draw(clusters: Labels, count: int, generator: np.random.Generator) -> Floats:
    """How often each image is in each of `count` resamples: as often as its cluster was drawn."""
    size = int(clusters.max()) + 1
    chosen = generator.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
    times = np.bincount(chosen.ravel(), minlength=count * size).reshape(count, size)
    return times[:, clusters].astype(np.float64)


def _deviation(values: Floats) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _class_metrics(
    labels: Labels, scores: Floats, k: int, name: str, sure: _Intervals | None, patients: int | None
) -> ClassMetrics:
    positive, column = labels == k, scores[:, k]
    return ClassMetrics(
        name=name,
        images=int(positive.sum()),
        patients=patients,
        auroc=_auroc(positive, column),
        auroc_interval=sure and sure.auroc([k]),
        auprc=_auprc(positive, column),
        auprc_interval=sure and sure.auprc([k]),
        sensitivity_at_90_specificity=sensitivity_at(0.90, positive, column),
        sensitivity_at_95_specificity=sensitivity_at(0.95, positive, column),
    )


def _caution(classes: Sequence[ClassMetrics], patients: Sequence[int]) -> str | None:
    few = [_how_many(single) for single, count in zip(classes, patients, strict=True) if count < FEWEST]
    whom = "images" if all(single.patients is None for single in classes) else "patients"
    return f"too few to rely on any metric: {', '.join(few)}; at least {FEWEST} {whom} of each class" if few else None


def _how_many(single: ClassMetrics) -> str:
    of = "" if single.patients is None else f" of {_counted(single.patients, 'patient')}"
    return f"{_counted(single.images, 'image')}{of} {'is' if single.images == 1 else 'are'} {single.name!r}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _auroc(positive: NDArray[np.bool_], scores: Floats) -> float | None:
    from sklearn.metrics import roc_auc_score

    return None if positive.all() or not positive.any() else float(roc_auc_score(positive, scores))


def _auprc(positive: NDArray[np.bool_], scores: Floats) -> float | None:
    from sklearn.metrics import average_precision_score

    return None if positive.all() or not positive.any() else float(average_precision_score(positive, scores))


def _headline(
    labels: ArrayLike, probabilities: ArrayLike, area: Callable[[NDArray[np.bool_], Floats], float | None]
) -> float:
    truth, scores = _checked(labels, probabilities, None)
    chosen = headline_classes(truth, scores.shape[1])
    value = _mean([area(truth == k, scores[:, k]) for k in chosen])
    if value is None:
        raise ValueError("every image has the same label, so no ranking can be right or wrong")
    return value


def headline_classes(labels: Labels, count: int) -> list[int]:
    """The classes whose mean is the headline: the second of two, else all that occur in the labels."""
    return [1] if count == 2 else [int(k) for k in np.unique(labels)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _clusters(groups: Sequence[str] | None, images: int) -> tuple[Labels, int | None]:
    """The number of each image's patient from 0, and how many patients there are."""
    if groups is None:
        return np.arange(images), None
    if len(groups) != images:
        raise ValueError(f"{len(groups)} groups for {images} images")
    names, places = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    return places.astype(np.int64), len(names)


def _checked(labels: ArrayLike, probabilities: ArrayLike, classes: int | None) -> tuple[Labels, Floats]:
    truth: NDArray[Any] = np.asarray(labels)
    scores = np.asarray(probabilities, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != (classes or scores.shape[1]) or scores.shape[1] < 2:
        raise ValueError(f"probabilities are (images, {classes or 'classes'}), got {scores.shape}")
    if truth.shape != scores.shape[:1] or not len(truth):
        raise ValueError(f"labels are one integer per image, got {truth.shape} for probabilities {scores.shape}")
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise ValueError(f"labels are integers from 0 to {scores.shape[1] - 1}")
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores).all(axis=1)).sum())
        raise ValueError(f"the scores of {bad} of {len(truth)} images are not numbers (NaN or infinite)")
    return truth.astype(np.int64), scores


def _check_distribution(probabilities: Floats) -> None:
    sums = probabilities.sum(axis=1)
    if probabilities.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        raise ValueError("probabilities are at least 0 and add up to 1 for each image; pass logits through softmax")
