"""What changes from one model to another on the same labelled images, and how sure one can be of the change.

AUROC by DeLong's paired covariance, everything else by a paired bootstrap: both models are measured on the same
resamples, so that what they share cancels. Whole patients are drawn where patients are known. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.parity.delong import error_of_difference
from ttl_deploy.spec import Record
from ttl_deploy.training.metrics import (
    ECE_BINS,
    Ranked,
    auprc,
    auroc,
    brier,
    expected_calibration_error,
    headline_classes,
)

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Interval = tuple[float, float]

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
        ece: Expected calibration error.
        calibration: The same of the probability that each gives to the reference's decision, in bins of the
            reference's: a probability that crosses the edge of a bin, or a decision that changes, is no shift of it.
        brier: Brier score.
        step: The least change of the AUROC that these images can show; None where it is not defined.
        patients: How many patients were drawn; None where patients are not known and images were drawn.
        bootstrap: How many resamples; 0 where there are none.
        seed: Seed of the resampling.
    """

    auroc: Change = Change()
    auprc: Change = Change()
    ece: Change = Change()
    calibration: Change = Change()
    brier: Change = Change()
    step: float | None = None
    patients: int | None = None
    bootstrap: int = 0
    seed: int = 0


def changes(
    labels: Labels,
    reference: Floats,
    candidate: Floats,
    *,
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Changes:
    """Measures the changes.

    Args:
        labels: (N,).
        reference: (N, K) probabilities.
        candidate: (N, K) probabilities.
        groups: The patient of each image; None: not known.
        bootstrap: How many resamples; 0: no intervals but AUROC's.
        seed: Seed of the resampling.

    Raises:
        ValueError: There are not as many groups as images.
    """
    if groups is not None and len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups for {len(labels)} images")
    clusters = _clusters(groups, len(labels))
    sides = (reference, candidate)
    rows = np.concatenate([*_resamples(labels, clusters, bootstrap, seed), np.empty((0, len(labels)), dtype=np.int32)])
    if len(rows) < bootstrap / 2:
        rows = rows[:0]  # what is left would say little and look like much
    ranked = len(np.unique(labels)) > 1
    return Changes(
        auroc=_auroc_change(labels, sides, clusters) if ranked else Change(),
        auprc=_auprc_change(labels, sides, rows) if ranked else Change(),
        ece=_ece_change(labels, sides, rows),
        step=_step(labels, headline_classes(labels, reference.shape[1])) if ranked else None,
        calibration=_calibration_change(labels, sides, rows),
        brier=_brier_change(labels, sides, rows),
        patients=None if groups is None else int(clusters.max()) + 1,
        bootstrap=len(rows),
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


def _auroc_change(labels: Labels, sides: tuple[Floats, Floats], clusters: Labels) -> Change:
    values = [auroc(labels, side) for side in sides]
    difference = values[1] - values[0]
    chosen = headline_classes(labels, sides[0].shape[1])
    error = error_of_difference(labels, *sides, chosen, clusters)
    rounding = _only_rounded(sides)
    if error is None:
        return _change(values, np.full(int(rounding), difference))
    half = QUANTILE_975 * error
    if half == 0 and not rounding:
        half = _step(labels, chosen)
    return Change(
        reference=values[0],
        candidate=values[1],
        difference=difference,
        interval=(difference - half, difference + half),
    )


def _only_rounded(sides: tuple[Floats, Floats]) -> bool:
    return bool(np.abs(sides[0] - sides[1]).max() <= ROUNDING)


def _step(labels: Labels, chosen: Sequence[int]) -> float:
    """The least change of the AUROC that these images can show: one pair of a positive and a negative exchanged.

    Two models that differ and happen to rank every pair the same have DeLong variance 0, as if no other images could
    tell them apart; the interval is then one step to either side.
    """
    counts = [int((labels == k).sum()) for k in chosen]
    return max(1 / (count * (len(labels) - count)) for count in counts) / len(chosen)


def _auprc_change(labels: Labels, sides: tuple[Floats, Floats], rows: NDArray[np.int32]) -> Change:
    chosen = headline_classes(labels, sides[0].shape[1])
    differences = np.zeros(len(rows))
    for k in chosen:
        for side, sign in zip(sides, (-1, 1), strict=True):
            ranked = Ranked(labels == k, side[:, k])
            differences += sign * np.concatenate([ranked.areas(w)[1] for w in _pieces(rows)]) if len(rows) else 0.0
    return _change([auprc(labels, side) for side in sides], differences / len(chosen))


def _ece_change(labels: Labels, sides: tuple[Floats, Floats], rows: NDArray[np.int32]) -> Change:
    gaps = []
    for side in sides:
        confidence = side.max(axis=1)
        gaps.append(((side.argmax(axis=1) == labels) - confidence)[:, None] * _in_bins(confidence))
    return _change([expected_calibration_error(labels, side) for side in sides], _gap_differences(gaps, rows))


def _calibration_change(labels: Labels, sides: tuple[Floats, Floats], rows: NDArray[np.int32]) -> Change:
    """The mean gap between confidence and accuracy over bins, the bins and the decisions those of the reference."""
    decided = sides[0].argmax(axis=1)
    images = np.arange(len(labels))
    members = _in_bins(sides[0][images, decided])
    gaps = [((decided == labels) - side[images, decided])[:, None] * members for side in sides]
    whole = np.ones((1, len(labels)))
    return _change([float(_mean_gap(whole, gap)[0]) for gap in gaps], _gap_differences(gaps, rows))


def _brier_change(labels: Labels, sides: tuple[Floats, Floats], rows: NDArray[np.int32]) -> Change:
    """The score is a mean over images, so a resample's is one of the images' own scores."""
    own = [np.array([brier(labels[i : i + 1], side[i : i + 1]) for i in range(len(labels))]) for side in sides]
    moved = own[1] - own[0]
    resampled = [(w @ moved) / w.sum(axis=1) for w in _pieces(rows)] if len(rows) else [np.zeros(0)]
    return _change([brier(labels, side) for side in sides], np.concatenate(resampled))


def _gap_differences(gaps: Sequence[Floats], rows: NDArray[np.int32]) -> Floats:
    """The difference of the mean gaps on every resample."""
    found = [_mean_gap(w, gaps[1]) - _mean_gap(w, gaps[0]) for w in _pieces(rows)] if len(rows) else [np.zeros(0)]
    return np.concatenate(found)


def _in_bins(confidence: Floats) -> Floats:
    """(N, bins) of 0 and 1, each bin closed above as in `expected_calibration_error`."""
    place = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    return np.eye(ECE_BINS)[place]


def _mean_gap(weights: Floats, gaps: Floats) -> Floats:
    """(B,) calibration errors of resamples (B, N) from gaps by bin (N, bins)."""
    errors: Floats = np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1)
    return errors


def _change(values: Sequence[float], resampled: Floats) -> Change:
    interval = None
    if len(resampled):
        low, high = np.percentile(resampled, [2.5, 97.5])
        interval = float(low), float(high)
    return Change(reference=values[0], candidate=values[1], difference=values[1] - values[0], interval=interval)


def _resamples(labels: Labels, clusters: Labels, count: int, seed: int) -> Iterator[NDArray[np.int32]]:
    """How often each image is in each resample, (B, N): patients drawn with replacement within their class.

    A patient with images of several classes belongs to the rarest of them, so that a resample that lacks a class is
    rare; one that does is left out.
    """
    counts = np.bincount(labels)
    order = np.argsort(-counts[labels], kind="stable")
    strata = np.empty(int(clusters.max()) + 1, dtype=np.int64)
    strata[clusters[order]] = labels[order]
    generator = np.random.default_rng(seed)
    present = np.unique(labels)
    piece = max(1, _CELLS_AT_ONCE // len(labels))
    for start in range(0, count, piece):
        size = min(piece, count - start)
        times = np.zeros((size, len(strata)), dtype=np.int32)
        for stratum in np.unique(strata):
            members = np.flatnonzero(strata == stratum)
            times[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=size)
        rows = times[:, clusters]
        yield rows[np.all([rows[:, labels == k].any(axis=1) for k in present], axis=0)]


def _pieces(rows: NDArray[np.int32]) -> Iterator[Floats]:
    size = max(1, _CELLS_AT_ONCE // rows.shape[1])
    for start in range(0, len(rows), size):
        yield rows[start : start + size].astype(np.float64)


def _clusters(groups: Sequence[str] | None, images: int) -> Labels:
    if groups is None:
        return np.arange(images)
    return np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)[1].astype(np.int64)
