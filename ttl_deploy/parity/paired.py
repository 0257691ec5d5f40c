"""What changes from one model to another on the same labelled images, and how sure one can be of the change.

AUROC by DeLong's paired covariance, everything else by a paired bootstrap: both models are measured on the same
resamples, so that what they share cancels. Whole patients are drawn where patients are known. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ttl_deploy.parity.delong import error_of_difference
from ttl_deploy.spec import Record
from ttl_deploy.tasks import UNKNOWN, Task
from ttl_deploy.tasks.task import Truth, rankable, rarest
from ttl_deploy.training.metrics import (
    ECE_BINS,
    KAPPA,
    Agreement,
    auprc,
    auroc,
    brier,
    expected_calibration_error,
    quadratic_kappa,
)
from ttl_deploy.training.ranked import Ranked
from ttl_deploy.training.resampling import Floats, Sides, Times, blocks, numbered, once

Labels = NDArray[np.int64]
Interval = tuple[float, float]
Move = Callable[[Times], Floats]
"""Of resamples, how much a measure is higher of the candidate than of the reference, (B,)."""

QUANTILE_975 = 1.959963984540054
"""Of the normal distribution: half of a 95 % interval in standard errors."""
ROUNDING = 1e-3
"""Where no probability moves by more, two models are one model that was rounded differently."""
MOST_IMAGES = 1_000_000
"""More images than anyone will label to settle a verdict."""
_CELLS_AT_ONCE = 4_000_000


class Change(Record):
    """A measure of two models on the same images.

    Attributes:
        reference: Of the reference; None where the images or the logits cannot define it.
        candidate: Of the candidate; None likewise.
        difference: Candidate minus reference.
        interval: 95 % interval of the difference; None where there is none.
    """

    reference: float | None = None
    candidate: float | None = None
    difference: float | None = None
    interval: Interval | None = None


class Changes(Record):
    """All measures.

    Attributes:
        auroc: Headline AUROC, as in `ttl_deploy.training.metrics`; the interval is DeLong's.
        auprc: Headline AUPRC; this and the following have percentile bootstrap intervals.
        quadratic_kappa: Of grades; not written of tasks without.
        dice: Of masks, mean over the images; not written of others.
        jaccard: Likewise.
        ece: Expected calibration error.
        calibration: The same of the probability that each gives to the reference's answer, in bins of the
            reference's: a probability that crosses the edge of a bin, or a decision that changes, is no shift of it.
        brier: Brier score.
        step: The least change of the AUROC that these images can show; None where it is not defined.
        patients: How many patients were drawn; None where patients are not known and images were drawn.
        bootstrap: How many resamples; 0 where there are none.
        seed: Seed of the resampling.
    """

    auroc: Change = Change()
    auprc: Change = Change()
    quadratic_kappa: Change | None = Field(default=None, exclude_if=lambda change: change is None)
    dice: Change | None = Field(default=None, exclude_if=lambda change: change is None)
    jaccard: Change | None = Field(default=None, exclude_if=lambda change: change is None)
    ece: Change = Change()
    calibration: Change = Change()
    brier: Change = Change()
    step: float | None = None
    patients: int | None = None
    bootstrap: int = 0
    seed: int = 0

    @property
    def headline(self) -> dict[str, Change]:
        """The changes that a verdict holds against its bounds, by metric."""
        if self.dice is not None:
            return {"dice": self.dice}
        found = {KAPPA: self.quadratic_kappa, "auroc": self.auroc, "auprc": self.auprc}
        return {name: change for name, change in found.items() if change is not None}


def changes(
    labels: Labels,
    reference: Floats,
    candidate: Floats,
    task: Task,
    *,
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Changes:
    """Measures the changes.

    Args:
        labels: (N,) or (N, K), as the task has them.
        reference: (N, K) probabilities.
        candidate: (N, K) probabilities.
        task: What they mean.
        groups: The patient of each image; None: not known.
        bootstrap: How many resamples; 0: no intervals but AUROC's.
        seed: Seed of the resampling.

    Raises:
        ValueError: There are not as many groups as images.
    """
    clusters = numbered(groups, len(labels))
    pair = _Pair(task, labels, (reference, candidate), clusters)
    drawn = _resampled(pair, bootstrap, seed)
    return Changes(
        auroc=_auroc_change(pair) if pair.ranked else Change(),
        auprc=_change(pair.measured(auprc), drawn["auprc"]) if pair.ranked else Change(),
        quadratic_kappa=_change(pair.measured(quadratic_kappa), drawn[KAPPA]) if KAPPA in task.METRICS else None,
        ece=_change(pair.measured(expected_calibration_error), drawn["ece"]),
        step=_step(pair) if pair.ranked else None,
        calibration=_change(_calibrations(pair), drawn["calibration"]),
        brier=_change(pair.measured(brier), drawn["brier"]),
        patients=None if groups is None else int(clusters.max()) + 1,
        bootstrap=len(drawn["brier"]),
        seed=seed,
    )


def images_needed(images: int, number: float, end: float, bound: float) -> int | None:
    """How many images would tell on which side of a bound a number lies.

    An interval narrows with the square root of the images, so n images with a half-width h at a distance d from the
    bound become n (h / d)^2, if the number stays and the new images are of the same kind (classes, patients).

    Args:
        images: How many there are.
        number: The estimate.
        end: The end of its interval on the bound's side.
        bound: The bound.

    Returns:
        The count; None where it is above `MOST_IMAGES`, because the estimate lies on the bound or all but on it.
    """
    distance = abs(bound - number)
    if distance * np.sqrt(MOST_IMAGES) <= abs(end - number) * np.sqrt(images):
        return None
    return int(np.ceil(images * (abs(end - number) / distance) ** 2 - 1e-9))


class _Pair:
    """Two models' probabilities of the same images.

    Attributes:
        task: What they mean.
        labels: (N,) or (N, K), as the task has them.
        sides: Reference and candidate, (N, K) each.
        clusters: (N,), the number of each image's patient.
        truth: (N, M); see `Task.truth`.
        scores: Of each side, (N, M).
        chosen: The columns of the headline.
    """

    def __init__(self, task: Task, labels: Labels, sides: tuple[Floats, Floats], clusters: Labels) -> None:
        self.task, self.labels, self.sides, self.clusters = task, labels, sides, clusters
        self.truth = task.truth(labels)
        self.scores = task.scores(sides[0]), task.scores(sides[1])
        self.chosen = task.headline(self.truth)

    @property
    def ranked(self) -> bool:
        """Whether every column of the headline has images of both kinds."""
        return bool(self.chosen) and set(self.chosen) <= set(rankable(self.truth))

    def measured(self, measure: Callable[..., float]) -> list[float]:
        """A measure of each side."""
        return [measure(self.labels, side, self.task) for side in self.sides]


def _auroc_change(pair: _Pair) -> Change:
    values = pair.measured(auroc)
    difference = values[1] - values[0]
    error = error_of_difference(pair.truth, *pair.scores, pair.chosen, pair.clusters)
    rounding = _only_rounded(pair.sides)
    if error is None:
        return _change(values, np.full(int(rounding), difference))
    half = QUANTILE_975 * error
    if half == 0 and not rounding:
        half = _step(pair)
    return Change(
        reference=values[0],
        candidate=values[1],
        difference=difference,
        interval=(difference - half, difference + half),
    )


def _only_rounded(sides: tuple[Floats, Floats]) -> bool:
    return bool(np.abs(sides[0] - sides[1]).max() <= ROUNDING)


def _step(pair: _Pair) -> float:
    """The least change of the AUROC that these images can show: one pair of a positive and a negative exchanged.

    Two models that differ and happen to rank every pair the same have DeLong variance 0, as if no other images could
    tell them apart; the interval is then one step to either side.
    """
    counts = [[int((pair.truth[:, k] == side).sum()) for side in (0, 1)] for k in pair.chosen]
    return max(1 / (no * yes) for no, yes in counts) / len(pair.chosen)


def _resampled(pair: _Pair, count: int, seed: int) -> dict[str, Floats]:
    """How much each measure moves on the resamples, by its name; where most lack a class, on none.

    Every resample is measured and forgotten, so that the memory does not grow with their number.
    """
    moves = {"ece": _ece_move(pair), "calibration": _calibration_move(pair), "brier": _brier_move(pair)}
    if pair.ranked:
        moves["auprc"] = _auprc_move(pair)
    if KAPPA in pair.task.METRICS:
        moves[KAPPA] = _kappa_move(pair)
    parts = [
        {name: move(times) for name, move in moves.items()}
        for times in _resamples(pair.truth, pair.clusters, count, seed)
    ]
    found = {name: np.concatenate([np.zeros(0), *(part[name] for part in parts)]) for name in moves}
    if len(found["brier"]) < count / 2:
        return {name: values[:0] for name, values in found.items()}  # what is left would say little and look like much
    return found


def _auprc_move(pair: _Pair) -> Move:
    columns = [(k, pair.truth[:, k]) for k in pair.chosen]
    before, after = (
        [Ranked(truth == 1, scores[:, k], pair.clusters, truth != UNKNOWN) for k, truth in columns]
        for scores in pair.scores
    )

    def move(times: Times) -> Floats:
        both = zip(before, after, strict=True)
        return np.asarray(np.mean([new.areas(times)[1] - old.areas(times)[1] for old, new in both], axis=0))

    return move


def _kappa_move(pair: _Pair) -> Move:
    before, after = (Agreement(pair.labels, side, pair.clusters) for side in pair.sides)
    return lambda times: after.kappas(times) - before.kappas(times)


def _ece_move(pair: _Pair) -> Move:
    answers = [pair.task.certain(side) for side in pair.sides]
    return _gap_move(
        pair,
        [
            _gaps(pair, side, own, pair.task.confidence(side, own))
            for side, own in zip(pair.sides, answers, strict=True)
        ],
    )


def _calibration_gaps(pair: _Pair) -> list[Floats]:
    """Gaps of both sides, the bins and the answers those of the reference."""
    decided = pair.task.certain(pair.sides[0])
    places = pair.task.confidence(pair.sides[0], decided)
    return [_gaps(pair, side, decided, places) for side in pair.sides]


def _calibrations(pair: _Pair) -> list[float]:
    """The mean gap between confidence and accuracy of both sides, over such bins."""
    counted = _counted(pair)
    return [float(_mean_gap(once(pair.clusters), gaps, counted)[0]) for gaps in _calibration_gaps(pair)]


def _calibration_move(pair: _Pair) -> Move:
    return _gap_move(pair, _calibration_gaps(pair))


def _brier_move(pair: _Pair) -> Move:
    """The score is a mean over images, so a resample's is one of the images' own scores."""
    before, after = (pair.task.brier(pair.labels, side) for side in pair.sides)
    moved, images = np.bincount(pair.clusters, weights=after - before), np.bincount(pair.clusters)
    return lambda times: np.asarray((moved @ times) / (images @ times))


def _gap_move(pair: _Pair, gaps: Sequence[Floats]) -> Move:
    counted = _counted(pair)
    return lambda times: _mean_gap(times, gaps[1], counted) - _mean_gap(times, gaps[0], counted)


def _gaps(pair: _Pair, side: Floats, answers: Labels, places: Floats) -> Floats:
    """(C, bins) sums, over a patient's answers, of being right less the confidence, in the bins of `places`.

    Each bin is closed above as in `expected_calibration_error`.
    """
    right = pair.task.right(pair.labels, answers)
    gaps = np.where(right == UNKNOWN, 0.0, right - pair.task.confidence(side, answers))
    bins = np.clip(np.ceil(places * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    patients = int(pair.clusters.max()) + 1
    cells = (pair.clusters[:, None] * ECE_BINS + bins).ravel()
    sums = np.bincount(cells, weights=gaps.ravel(), minlength=patients * ECE_BINS)
    return np.asarray(sums.reshape(patients, ECE_BINS), dtype=np.float64)


def _counted(pair: _Pair) -> Floats:
    """(C,) how many answers of each patient are known to be right or wrong."""
    right = pair.task.right(pair.labels, pair.task.certain(pair.sides[0]))
    return np.asarray(np.bincount(pair.clusters, weights=(right != UNKNOWN).sum(axis=1)), dtype=np.float64)


def _mean_gap(times: Times, gaps: Floats, counted: Floats) -> Floats:
    """(B,) calibration errors of resamples from gaps by bin (C, bins) of so many answers (C,)."""
    return np.asarray(np.abs(gaps.T @ times).sum(axis=0) / (counted @ times))


def _change(values: Sequence[float], resampled: Floats) -> Change:
    interval = None
    if len(resampled):
        low, high = np.percentile(resampled, [2.5, 97.5])
        interval = float(low), float(high)
    return Change(reference=values[0], candidate=values[1], difference=values[1] - values[0], interval=interval)


def _resamples(truth: Truth, clusters: Labels, count: int, seed: int) -> Iterator[Times]:
    """Resamples in blocks: patients drawn with replacement within their class.

    A patient with images of several classes belongs to the rarest of them, so that a resample that lacks a class is
    rare; one that does is left out.
    """
    own, rarity = rarest(truth)
    order = np.argsort(-rarity, kind="stable")
    strata = np.empty(int(clusters.max()) + 1, dtype=np.int64)
    strata[clusters[order]] = own[order]
    generator, sides = np.random.default_rng(seed), Sides(truth, clusters)
    piece = max(1, _CELLS_AT_ONCE // len(truth))
    for start in range(0, count, piece):
        size = min(piece, count - start)
        times = np.zeros((size, len(strata)), dtype=np.int32)
        for stratum in np.unique(strata):
            members = np.flatnonzero(strata == stratum)
            times[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=size)
        yield from map(sides.complete, blocks(times, len(truth)))
