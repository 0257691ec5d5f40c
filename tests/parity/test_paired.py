"""Intervals of paired changes: what they contain, what narrows them, and what they say of few images."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from ttl_deploy.parity import paired
from ttl_deploy.parity.paired import Change, changes, images_needed
from ttl_deploy.tasks import Multiclass, softmax
from ttl_deploy.training.metrics import expected_calibration_error
from ttl_deploy.training.resampling import numbered


def of(probabilities: NDArray[np.float64]) -> Multiclass:
    """As many classes as there are columns."""
    return Multiclass(tuple("abc"[: probabilities.shape[1]]))


Floats = NDArray[np.float64]


def pair(
    images: int = 200, noise: float = 0.3, classes: int = 2, seed: int = 0
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Labels, and the probabilities of a model and of the same with noise on its logits."""
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    logits = generator.normal(size=(images, classes)) + np.eye(classes)[labels]
    return labels, softmax(logits), softmax(logits + noise * generator.normal(size=logits.shape))


def width(change: Change) -> float:
    assert change.interval is not None
    return change.interval[1] - change.interval[0]


def test_the_numbers_are_the_librarys() -> None:
    labels, first, second = pair()
    found = changes(labels, first, second, of(first))
    for change, measure in (
        (found.auroc, roc_auc_score),
        (found.auprc, average_precision_score),
        (found.brier, brier_score_loss),
    ):
        expected = [measure(labels, side[:, 1]) for side in (first, second)]
        assert (change.reference, change.candidate) == pytest.approx(tuple(expected))
        assert change.difference == pytest.approx(expected[1] - expected[0])
        assert change.interval is not None
        assert change.interval[0] < change.difference < change.interval[1]


def test_the_interval_of_average_precision_is_the_bootstraps() -> None:
    labels, first, second = pair()
    generator = np.random.default_rng(8)
    found = []
    for _ in range(1000):
        drawn = np.concatenate([generator.choice(np.flatnonzero(labels == k), 100) for k in range(2)])
        areas = [average_precision_score(labels[drawn], side[drawn, 1]) for side in (first, second)]
        found.append(areas[1] - areas[0])
    expected = np.percentile(found, [2.5, 97.5])
    interval = changes(labels, first, second, of(first)).auprc.interval
    assert interval == pytest.approx(tuple(expected), abs=0.1 * (expected[1] - expected[0]))


def test_every_resample_is_the_librarys_with_the_counts_as_weights() -> None:
    labels, *sides = pair(120)
    sides = [np.round(side, 1) for side in sides]
    clusters = numbered([f"p{int(40 * (i / 120) ** 2)}" for i in range(120)], 120)
    both = paired._Pair(of(sides[0]), labels, (sides[0], sides[1]), clusters)
    times = np.concatenate(list(paired._resamples(both.truth, clusters, 50, 3)), axis=1)
    found = paired._resampled(both, 50, 3)
    assert len(found["auprc"]) == times.shape[1] > 25
    for measure, name in ((average_precision_score, "auprc"), (brier_score_loss, "brier")):
        values = [[measure(labels, side[:, 1], sample_weight=w) for side in sides] for w in times[clusters].T]
        assert found[name] == pytest.approx(np.diff(values)[:, 0], abs=1e-12)
    repeated = [np.repeat(np.arange(120), w) for w in times[clusters].T]
    errors = [[expected_calibration_error(labels[r], side[r], both.task) for side in sides] for r in repeated]
    assert found["ece"] == pytest.approx(np.diff(errors)[:, 0], abs=1e-12)


def test_more_resamples_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "_CELLS_AT_ONCE", 20_000)
    labels, first, second = pair(2000)
    peaks = []
    for count in (10, 100, 1000):
        tracemalloc.start()
        changes(labels, first, second, of(first), bootstrap=count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The thousand, kept, would be 8 MB; the first ten also load what is used.
    assert peaks[2] - peaks[1] < 1_000_000


def test_the_brier_score_is_a_mean_with_the_textbooks_standard_error() -> None:
    labels, first, second = pair(400)
    gaps = (second[:, 1] - labels) ** 2 - (first[:, 1] - labels) ** 2
    expected = 2 * 1.96 * gaps.std(ddof=1) / np.sqrt(len(gaps))
    assert width(changes(labels, first, second, of(first)).brier) == pytest.approx(expected, rel=0.1)


def test_the_same_twice_gives_the_same() -> None:
    labels, first, second = pair(classes=3)
    assert changes(labels, first, second, of(first)) == changes(labels, first, second, of(first))
    assert changes(labels, first, second, of(first), seed=1).auprc != changes(labels, first, second, of(first)).auprc


def test_images_of_one_patient_are_one_piece_of_evidence() -> None:
    labels, first, second = (np.repeat(side, 4, axis=0) for side in pair(80))
    patients = [f"p{i // 4}" for i in range(320)]
    apart, grouped = (
        changes(labels, first, second, of(first)),
        changes(labels, first, second, of(first), groups=patients),
    )
    assert (apart.patients, grouped.patients) == (None, 80)
    for name in ("auroc", "auprc", "ece", "brier"):
        assert 1.5 < width(getattr(grouped, name)) / width(getattr(apart, name)) < 2.6


def test_a_model_compared_with_itself_has_changed_by_nothing() -> None:
    labels, first, _ = pair(classes=3)
    found = changes(labels, first, first, of(first))
    for change in (found.auroc, found.auprc, found.ece, found.brier):
        assert (change.difference, change.interval) == (0, (0, 0))


def test_one_patient_per_class_gives_no_interval_unless_nothing_but_rounding_changed() -> None:
    labels, first, second = pair(20)
    patients = [f"p{label}" for label in labels]
    assert changes(labels, first, second, of(first), groups=patients).auroc.interval is None
    rounded = changes(labels, first, first * (1 + 1e-7), of(first), groups=patients).auroc
    assert rounded.interval == (0, 0)


def test_perfect_separation_of_few_images_proves_little() -> None:
    """Both rank everything right, so DeLong's variance is 0; one exchanged pair of 6 x 6 would be 1/36."""
    labels = np.repeat([0, 1], 6)
    scores = np.where(labels == 1, 0.9, 0.1)
    first, second = (np.column_stack([1 - s, s]) for s in (scores, scores * 0.9))
    assert changes(labels, first, second, of(first)).auroc.interval == pytest.approx((-1 / 36, 1 / 36))
    assert changes(labels, first, first + 1e-5, of(first)).auroc.interval == (0, 0)


def test_labels_of_one_class_have_no_ranking_but_a_calibration() -> None:
    _, first, second = pair()
    found = changes(np.zeros(200, dtype=np.int64), first, second, of(first))
    assert found.auroc == found.auprc == Change()
    assert found.ece.interval is not None


def test_a_rare_class_keeps_its_patients_in_every_resample() -> None:
    labels, first, second = pair(300)
    labels = (np.arange(300) < 4).astype(np.int64)
    patients = [f"p{i // 2}" for i in range(300)]
    assert changes(labels, first, second, of(first), groups=patients).bootstrap == 1000


def test_the_images_that_would_be_needed() -> None:
    # 0.001 with an interval to 0.007 against 0.005: the half-width 0.006 has to become 0.004.
    assert images_needed(170, 0.001, 0.007, 0.005) == 383
    # 0.009 with an interval from 0.003: the half-width 0.006 has to become 0.004 too, to fail.
    assert images_needed(170, 0.009, 0.003, 0.005) == 383
    assert images_needed(170, 0.005, 0.006, 0.005) is None


def test_a_number_of_images_that_nobody_has_is_not_named() -> None:
    # A half-width of 0.01 has to become 0.0001: 10,000 times as many images.
    assert images_needed(99, 0.0049, 0.0149, 0.005) == 990_000
    assert images_needed(101, 0.0049, 0.0149, 0.005) is None
    assert images_needed(170, 0.00499, 0.0149, 0.005) is None


def test_wrong_groups_are_refused() -> None:
    labels, first, second = pair(20)
    with pytest.raises(ValueError, match="3 groups for 20"):
        changes(labels, first, second, of(first), groups=["a", "b", "c"])
