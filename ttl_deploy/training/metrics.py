"""How good a classifier is on labelled images: discrimination, calibration, and how sure one can be of the numbers.

Takes arrays and gives a record that is valid JSON: a number that the data cannot define is None, never NaN. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from ttl_deploy.spec import Record
from ttl_deploy.tasks import UNKNOWN, Task
from ttl_deploy.tasks.roc import auroc as auroc_of
from ttl_deploy.tasks.roc import average_precision, roc_curve
from ttl_deploy.tasks.task import Labels, Truth, rankable
from ttl_deploy.training import intervals
from ttl_deploy.training.delong import shares_of
from ttl_deploy.training.intervals import Interval, ScoreEstimate
from ttl_deploy.training.ranked import Counted, Ranked, most_false
from ttl_deploy.training.resampling import Floats, Sides, Times, blocks, counting, distinct, numbered, once

KAPPA = "quadratic_kappa"
FEWEST = 10
"""Patients of a class below which no metric of it tells much."""
ECE_BINS = 15
SPECIFICITIES = (90, 95)
"""Percent, at which sensitivities are told."""
_CELLS_AT_ONCE = 4_000_000
_MOST_TRIES = 20
_NEARLY = 1e-3


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
        sensitivity_at_90_specificity_interval: 95 %, as in `Metrics`.
        sensitivity_at_95_specificity: See `sensitivity_at`.
        sensitivity_at_95_specificity_interval: 95 %, as in `Metrics`.
    """

    name: str
    images: int
    patients: int | None = None
    auroc: float | None
    auroc_interval: Interval | None
    auprc: float | None
    auprc_interval: Interval | None
    sensitivity_at_90_specificity: float | None
    sensitivity_at_90_specificity_interval: Interval | None = None
    sensitivity_at_95_specificity: float | None
    sensitivity_at_95_specificity_interval: Interval | None = None


class Metrics(Record):
    """All numbers of one evaluation.

    The headline AUROC, AUPRC and sensitivities are the plain mean over the columns that the task names: of two
    exclusive classes the second, positive one (as in the paper), of more all that occur in the labels, of grades the
    positive ones against the others, of labels all that some images have and some have not.

    Attributes:
        images: How many images.
        patients: How many patients; None where they are not known, so that every image counts as one.
        auroc: Headline.
        auroc_interval: 95 %, by DeLong's variance over patients on the logit scale (`ttl_deploy.training.intervals`);
            None where a class has fewer than two patients with it or without it.
        auprc: Headline.
        auprc_interval: 95 %, by the bootstrap's standard error over patients on the logit scale.
        sensitivity_at_90_specificity: Headline.
        sensitivity_at_90_specificity_interval: 95 %, by the bootstrap's standard error over patients on the logit
            scale: the threshold is chosen anew in each resample.
        sensitivity_at_95_specificity: Headline.
        sensitivity_at_95_specificity_interval: Likewise.
        quadratic_kappa: Cohen's kappa of the most probable grade with quadratic weights (Cohen 1968); None of tasks
            without grades.
        quadratic_kappa_interval: 95 %, percentiles of the bootstrap over patients.
        accuracy: Fraction of images whose most probable class is right; of labels, of the answers that are known.
        balanced_accuracy: Mean over the classes in the labels of the fraction recognised; of labels, mean of
            sensitivity and specificity.
        brier: Two classes: mean of (p - y)^2 of the positive class, 0 to 1. More: mean of the sum over all classes of
            (p - y)^2, 0 to 2 (Brier 1950). Labels: mean of (p - y)^2 over those that are known of an image.
        ece: Expected calibration error of the most probable class, of labels that of every answer, 15 bins of equal
            width (Guo et al. 2017).
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
    sensitivity_at_90_specificity_interval: Interval | None = None
    sensitivity_at_95_specificity: float | None
    sensitivity_at_95_specificity_interval: Interval | None = None
    quadratic_kappa: float | None = Field(default=None, exclude_if=lambda value: value is None)
    quadratic_kappa_interval: Interval | None = Field(default=None, exclude_if=lambda value: value is None)
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
    task: Task,
    *,
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Metrics:
    """Computes every metric.

    Args:
        labels: (N,) or (N, K), as the task has them.
        probabilities: (N, K).
        task: What they mean.
        groups: The patient of each image. With it the intervals count whole patients, because the images of one
            patient resemble each other and are less evidence than as many patients.
        bootstrap: How many resamples; 0: no intervals at all. A resample in which a class of the labels is missing is
            drawn again.
        seed: Seed of the resampling.

    Raises:
        ValueError: A shape, a label or a probability is impossible, or not a number.
    """
    known, given = _checked(labels, probabilities, task)
    _check_probabilities(task, given)
    clusters = numbered(groups, len(known))
    truth, scores = task.truth(known), task.scores(given)
    resamples = _Resamples(task, known, given, clusters, bootstrap, seed)
    sure = _Intervals(truth, scores, clusters, resamples) if bootstrap else None
    counts = [distinct(clusters[truth[:, k] == 1]) for k in range(len(task.columns))]
    per_class = tuple(
        _class_metrics(truth, scores, k, name, sure, counts[k] if groups is not None else None)
        for k, name in enumerate(task.columns)
    )
    headline = task.headline(truth)
    kappa = quadratic_kappa(known, given, task) if KAPPA in task.METRICS else None
    return Metrics(
        images=len(known),
        patients=None if groups is None else int(clusters.max()) + 1,
        auroc=_mean([per_class[k].auroc for k in headline]),
        auroc_interval=sure and sure.auroc(headline),
        auprc=_mean([per_class[k].auprc for k in headline]),
        auprc_interval=sure and sure.auprc(headline),
        sensitivity_at_90_specificity=_mean([per_class[k].sensitivity_at_90_specificity for k in headline]),
        sensitivity_at_90_specificity_interval=sure and sure.sensitivity(90, headline),
        sensitivity_at_95_specificity=_mean([per_class[k].sensitivity_at_95_specificity for k in headline]),
        sensitivity_at_95_specificity_interval=sure and sure.sensitivity(95, headline),
        quadratic_kappa=kappa,
        quadratic_kappa_interval=resamples.kappa_interval(kappa, distinct(clusters)),
        accuracy=accuracy(known, given, task),
        balanced_accuracy=task.balanced_accuracy(known, given),
        brier=brier(known, given, task),
        ece=expected_calibration_error(known, given, task),
        bootstrap=resamples.count,
        seed=seed,
        per_class=per_class,
        caution=_caution(per_class, counts),
    )


def resampled(
    labels: ArrayLike,
    probabilities: ArrayLike,
    task: Task,
    metric: str,
    *,
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Floats:
    """A metric of the headline on bootstrap resamples; its standard deviation is the metric's standard error.

    The resamples depend on labels, groups and seed alone: two models are measured on the same ones.

    Args:
        labels: As in `evaluate`.
        probabilities: As in `evaluate`.
        task: As in `evaluate`.
        metric: One of `Task.METRICS`.
        groups: As in `evaluate`.
        bootstrap: How many resamples.
        seed: Seed of the resampling.

    Returns:
        (bootstrap,), or (0,) where the data cannot give enough resamples with every class in them.

    Raises:
        ValueError: As `evaluate`.
    """
    known, given = _checked(labels, probabilities, task)
    resamples = _Resamples(task, known, given, numbered(groups, len(known)), bootstrap, seed)
    return resamples.values(metric, task.headline(task.truth(known)))


def auroc(labels: ArrayLike, probabilities: ArrayLike, task: Task) -> float:
    """The headline AUROC, see `Metrics`.

    Args:
        labels: (N,) or (N, K), as the task has them.
        probabilities: (N, K).
        task: What they mean.

    Raises:
        ValueError: A score is not a number, a shape is wrong, or all labels are the same.
    """
    return _headline(labels, probabilities, task, _auroc)


def auprc(labels: ArrayLike, probabilities: ArrayLike, task: Task) -> float:
    """The headline AUPRC (average precision), see `Metrics`; as `auroc`."""
    return _headline(labels, probabilities, task, _auprc)


def quadratic_kappa(labels: ArrayLike, probabilities: ArrayLike, task: Task) -> float:
    """Cohen's kappa with quadratic weights of the most probable grades; 0 where there is but one grade to be right on.

    Args:
        labels: (N,) grades.
        probabilities: (N, K).
        task: What they mean.

    Raises:
        ValueError: A score is not a number, or a shape is wrong.
    """
    known, given = _checked(labels, probabilities, task)
    images = np.arange(len(known))
    return float(Agreement(known, given, images).kappas(once(images))[0])


MEASURES: dict[str, Callable[[ArrayLike, ArrayLike, Task], float]] = {
    "auroc": auroc,
    "auprc": auprc,
    KAPPA: quadratic_kappa,
}
"""What `Task.METRICS` names, of labels, probabilities and their task."""

TITLES = {"auroc": "AUROC", "auprc": "AUPRC", KAPPA: "quadratic kappa", "dice": "Dice", "jaccard": "Jaccard"}
"""What people call them."""


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
    if positive.all() or not positive.any():
        return None
    false_positive, true_positive, _ = roc_curve(positive, scores)
    return float(true_positive[false_positive <= most_false(specificity)].max())


def accuracy(labels: Labels, probabilities: Floats, task: Task) -> float:
    """Fraction of the most probable answers that are right, of those that are known."""
    right = task.right(labels, task.certain(probabilities))
    return float((right[right != UNKNOWN] == 1).mean())


def brier(labels: Labels, probabilities: Floats, task: Task) -> float:
    """The Brier score: see `Metrics.brier` for the definitions."""
    return float(task.brier(labels, probabilities).mean())


def expected_calibration_error(labels: Labels, probabilities: Floats, task: Task, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over bins of the most probable answer's probability.

    Bins are equal in width and closed above, ((m-1)/M, m/M], and weighted by their images (Guo et al. 2017, "On
    Calibration of Modern Neural Networks", equation 3).
    """
    answers = task.certain(probabilities)
    right = task.right(labels, answers)
    known = right != UNKNOWN
    confidence = task.confidence(probabilities, answers)[known]
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right[known] - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def least_error(labels: Labels, groups: Sequence[str], task: Task) -> float:
    """The standard error that a perfect score deserves on these patients.

    A bootstrap of a perfect score is perfect every time, and its error 0. But n successes of n leave a probability
    open: under Jeffreys' prior it has the distribution Beta(n + 1/2, 1/2) (Brown, Cai and DasGupta 2001, "Interval
    Estimation for a Binomial Proportion"), with a standard deviation of about 0.7 / n. AUROC and average precision are
    means over the positives of numbers in 0 to 1, and vary at most as a proportion of the rarer side does: var(AUROC)
    is at most A (1 - A) / min(positives, negatives) (Birnbaum and Klose 1957). So n is the number of patients on the
    rarer side of a class; for a mean over classes the errors are added in squares.

    Args:
        labels: (N,) or (N, K), as the task has them.
        groups: Patient of each image.
        task: What they mean.
    """
    patients, truth = np.asarray(groups), task.truth(labels)
    chosen = task.headline(truth)
    counts = [min(len(np.unique(patients[truth[:, k] == side])) for side in (0, 1)) for k in chosen]
    return float(np.sqrt(sum(intervals.least_error_of(count) ** 2 for count in counts)) / len(counts))


class _Resamples:
    """Bootstrap values of AUROC, AUPRC and sensitivities, per column, and of kappa where the task has it.

    Every column is measured on the same resamples, so that the macro mean is resampled as a whole. Where the data
    cannot give enough resamples with a yes and a no of every column in them, there are none.

    Attributes:
        count: How many resamples there are.
        ranked: The columns that have both a yes and a no.
    """

    def __init__(
        self, task: Task, labels: Labels, probabilities: Floats, clusters: Labels, count: int, seed: int
    ) -> None:
        self.count = 0
        self.ranked: dict[int, Ranked] = {}
        self._by_column: dict[int, dict[str, Floats]] = {}
        self._kappa = np.zeros(0)
        truth, scores = task.truth(labels), task.scores(probabilities)
        if not count:
            return
        self.ranked = {
            k: Ranked(truth[:, k] == 1, scores[:, k], clusters, truth[:, k] != UNKNOWN) for k in rankable(truth)
        }
        if not self.ranked:
            return
        agreement = Agreement(labels, probabilities, clusters) if KAPPA in task.METRICS else None
        chunks, kappas = [], []
        for times in _resamples(truth, clusters, count, np.random.default_rng(seed)):
            chunks.append({k: _measured(ranked.counted(times)) for k, ranked in self.ranked.items()})
            if agreement is not None:
                kappas.append(agreement.kappas(times))
        if sum(len(next(iter(chunk.values()))["auroc"]) for chunk in chunks) < count:
            return
        self.count = count
        self._kappa = np.concatenate(kappas) if kappas else self._kappa
        for k in self.ranked:
            self._by_column[k] = {name: np.concatenate([chunk[k][name] for chunk in chunks]) for name in chunks[0][k]}

    def values(self, metric: str, columns: Sequence[int]) -> Floats:
        """The resampled mean of a metric over some columns; empty where there are no resamples."""
        if metric == KAPPA:
            return self._kappa
        if not columns or any(k not in self._by_column for k in columns):
            return np.zeros(0)
        return np.asarray(np.mean([self._by_column[k][metric] for k in columns], axis=0))

    def kappa_interval(self, value: float | None, patients: int) -> Interval | None:
        """The interval of a kappa; None where nothing was resampled.

        Args:
            value: The kappa.
            patients: How many there are; those unlike any seen may agree by chance alone (`intervals.unseen`).
        """
        if value is None or not len(self._kappa):
            return None
        low, high = np.percentile(self._kappa, [2.5, 97.5])
        return min(float(low), value - abs(value) * intervals.unseen(patients)), float(high)


def _measured(counted: Counted) -> dict[str, Floats]:
    """Of each resample, by name."""
    auroc, auprc = counted.areas()
    found = {_sensitivity_name(percent): counted.sensitivities(percent / 100) for percent in SPECIFICITIES}
    return {"auroc": auroc, "auprc": auprc, **found}


def _sensitivity_name(percent: int) -> str:
    return f"sensitivity_at_{percent}_specificity"


class _Intervals:
    """The intervals of AUROC, by DeLong's shares, and of the others, by the bootstrap; all by patient.

    Args:
        truth: (N, M); see `Task.truth`.
        scores: (N, M).
        clusters: (N,), the number of each image's patient.
        resamples: Of the same images.
    """

    def __init__(self, truth: Truth, scores: Floats, clusters: Labels, resamples: _Resamples) -> None:
        self._truth, self._clusters, self._resamples = truth, clusters, resamples
        self._shares = [shares_of(truth[:, k], scores[:, k], clusters) for k in range(truth.shape[1])]
        self._values = {k: _measured(ranked.counted(once(clusters))) for k, ranked in resamples.ranked.items()}

    def auroc(self, classes: Sequence[int]) -> Interval | None:
        """Interval of the mean AUROC of some columns; None where one has too few patients."""
        known = {k: share for k in classes if (share := self._shares[k]) is not None}
        if not classes or len(known) < len(classes):
            return None
        parts = [self._estimate(k, "auroc", self._error(share), 0.5) for k, share in known.items()]
        return intervals.mean(parts, self._error(np.mean(list(known.values()), axis=0))).interval

    def auprc(self, classes: Sequence[int]) -> Interval | None:
        """Interval of the mean AUPRC of some columns; None where one has too few patients, or none was resampled."""
        return self._bootstrapped("auprc", classes, lambda k: float((self._truth[:, k] == 1)[self._known(k)].mean()))

    def sensitivity(self, percent: int, classes: Sequence[int]) -> Interval | None:
        """The same of the mean sensitivity at a specificity; patients unlike any seen may be missed or found."""
        name = _sensitivity_name(percent)
        return self._bootstrapped(name, classes, lambda k: float(self._values[k][name][0] < 0.5))

    def _bootstrapped(self, name: str, classes: Sequence[int], chance: Callable[[int], float]) -> Interval | None:
        drawn = self._resamples.values(name, classes)
        if not len(drawn) or min(self._patients(k) for k in classes) < 2:
            return None
        parts = [self._estimate(k, name, _deviation(self._resamples.values(name, [k])), chance(k)) for k in classes]
        return intervals.mean(parts, _deviation(drawn)).interval

    def _known(self, k: int) -> NDArray[np.bool_]:
        return np.asarray(self._truth[:, k] != UNKNOWN)

    def _estimate(self, k: int, name: str, error: float, chance: float) -> ScoreEstimate:
        return intervals.estimate(float(self._values[k][name][0]), error, chance=chance, patients=self._patients(k))

    def _patients(self, k: int) -> int:
        """How many patients the rarer side has."""
        return min(distinct(self._clusters[self._truth[:, k] == side]) for side in (0, 1))

    def _error(self, share: Floats) -> float:
        return float(np.sqrt((np.bincount(self._clusters, weights=share) ** 2).sum()))


class Agreement:
    """What was said and what is true of images, counted once, so that a resample's kappa costs one sparse product.

    Args:
        labels: (N,) grades.
        probabilities: (N, K).
        clusters: (N,), the number of each image's patient.
    """

    def __init__(self, labels: Labels, probabilities: Floats, clusters: Labels) -> None:
        self._grades = probabilities.shape[1]
        places = labels * self._grades + probabilities.argmax(axis=1)
        self._cells = counting(places, clusters, (self._grades**2, int(clusters.max()) + 1))

    def kappas(self, times: Times) -> Floats:
        """(B,) Cohen's kappa with quadratic weights of resamples; 0 where chance would agree on all."""
        confusions = (self._cells @ times).reshape(self._grades, self._grades, -1).astype(np.float64)
        places = np.arange(self._grades)
        away = (places[:, None] - places[None]) ** 2
        images = confusions.sum(axis=(0, 1))
        seen = np.einsum("ijb,ij->b", confusions, away) / images
        by_chance = np.einsum("ib,ij,jb->b", confusions.sum(axis=1), away, confusions.sum(axis=0)) / images**2
        return np.asarray(1 - np.divide(seen, by_chance, out=np.ones_like(seen), where=by_chance > 0))


def _resamples(truth: Truth, clusters: Labels, count: int, generator: np.random.Generator) -> Iterator[Times]:
    """Bootstrap resamples of whole clusters, in blocks that fit the memory.

    A resample without a yes or a no of a column is drawn again. Where that keeps happening (two classes of one patient
    each among thousands), fewer than `count` come.
    """
    sides, size = Sides(truth, clusters), int(clusters.max()) + 1
    piece = max(1, _CELLS_AT_ONCE // len(truth))
    missing, tries = count, _MOST_TRIES * count
    while missing > 0 and tries > 0:
        drawn = _draw(size, min(piece, missing), generator)
        tries -= len(drawn)
        for times in blocks(drawn, len(truth)):
            kept = sides.complete(times)
            missing -= kept.shape[1]
            if kept.size:
                yield kept


def _draw(size: int, count: int, generator: np.random.Generator) -> Times:
    """How often each of so many clusters is in each of `count` resamples, (count, size)."""
    chosen = generator.integers(size, size=(count, size))
    return np.stack([np.bincount(row, minlength=size).astype(np.int32) for row in chosen])


def _deviation(values: Floats) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _class_metrics(
    truth: Truth, scores: Floats, k: int, name: str, sure: _Intervals | None, patients: int | None
) -> ClassMetrics:
    known = truth[:, k] != UNKNOWN
    positive, column = truth[known, k] == 1, scores[known, k]
    return ClassMetrics(
        name=name,
        images=int(positive.sum()),
        patients=patients,
        auroc=_auroc(positive, column),
        auroc_interval=sure and sure.auroc([k]),
        auprc=_auprc(positive, column),
        auprc_interval=sure and sure.auprc([k]),
        sensitivity_at_90_specificity=sensitivity_at(0.90, positive, column),
        sensitivity_at_90_specificity_interval=sure and sure.sensitivity(90, [k]),
        sensitivity_at_95_specificity=sensitivity_at(0.95, positive, column),
        sensitivity_at_95_specificity_interval=sure and sure.sensitivity(95, [k]),
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
    return None if positive.all() or not positive.any() else auroc_of(positive, scores)


def _auprc(positive: NDArray[np.bool_], scores: Floats) -> float | None:
    return None if positive.all() or not positive.any() else average_precision(positive, scores)


def _headline(
    labels: ArrayLike, probabilities: ArrayLike, task: Task, area: Callable[[NDArray[np.bool_], Floats], float | None]
) -> float:
    known, given = _checked(labels, probabilities, task)
    truth, scores = task.truth(known), task.scores(given)
    rows = [(truth[:, k] != UNKNOWN, k) for k in task.headline(truth)]
    value = _mean([area(truth[said, k] == 1, scores[said, k]) for said, k in rows])
    if value is None:
        raise ValueError("every image has the same label, so no ranking can be right or wrong")
    return value


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _checked(labels: ArrayLike, probabilities: ArrayLike, task: Task) -> tuple[Labels, Floats]:
    truth: NDArray[Any] = np.asarray(labels)
    scores = np.asarray(probabilities, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(task.classes):
        raise ValueError(f"probabilities are (images, {len(task.classes)}), got {scores.shape}")
    known = task.check(truth, scores)
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores).all(axis=1)).sum())
        raise ValueError(f"the scores of {bad} of {len(truth)} images are not numbers (NaN or infinite)")
    return known, scores


def _check_probabilities(task: Task, probabilities: Floats) -> None:
    if probabilities.min() < 0 or probabilities.max() > 1 + _NEARLY:
        raise ValueError(f"probabilities are 0 to 1; pass logits through {task.ACTIVATION}")
    if task.ACTIVATION == "softmax" and np.abs(probabilities.sum(axis=1) - 1).max() > _NEARLY:
        raise ValueError("probabilities are at least 0 and add up to 1 for each image; pass logits through softmax")
