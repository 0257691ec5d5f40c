"""DeLong's variance against its definition, a case computed by hand, and the bootstrap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ttl_deploy.parity.delong import error_of_difference
from ttl_deploy.training.delong import placements, shares


def columns(labels: NDArray[np.int64]) -> NDArray[np.int8]:
    """Each class against the rest."""
    return np.eye(int(labels.max()) + 1, dtype=np.int8)[labels]


Floats = NDArray[np.float64]


def psi(x: float, y: float) -> float:
    """The Mann-Whitney kernel."""
    return 1.0 if x > y else 0.5 if x == y else 0.0


def brute_force(positive: NDArray[np.bool_], *models: Floats) -> tuple[list[float], Floats]:
    """AUROCs and their covariance matrix, from the double sums of DeLong, DeLong and Clarke-Pearson (1988)."""
    v10 = [[np.mean([psi(x, y) for y in s[~positive]]) for x in s[positive]] for s in models]
    v01 = [[np.mean([psi(x, y) for x in s[positive]]) for y in s[~positive]] for s in models]
    covariance = np.cov(v10) / positive.sum() + np.cov(v01) / (~positive).sum()
    return [float(np.mean(row)) for row in v10], np.atleast_2d(covariance)


def two_models(images: int = 60, seed: int = 0, digits: int = 1) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Correlated models with many ties."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(images) % 3 == 0).astype(np.int64)
    common = generator.normal(size=images) + labels
    first, second = (np.round(common + generator.normal(size=images) * noise, digits) for noise in (0.4, 0.9))
    return labels, np.column_stack([-first, first]), np.column_stack([-second, second])


def alone(images: int) -> NDArray[np.int64]:
    return np.arange(images)


def test_a_case_computed_by_hand() -> None:
    # Positives 3 and 1, negatives 2 and 0. V10 = (1, 1/2), V01 = (1/2, 1), AUROC 3/4. Each has the sample variance
    # 1/8, so the variance of the AUROC is 1/8 / 2 + 1/8 / 2 = 1/8.
    positive, scores = np.array([True, True, False, False]), np.array([3.0, 1.0, 2.0, 0.0])
    v10, v01 = placements(positive, scores)
    assert v10.tolist() == [1.0, 0.5]
    assert v01.tolist() == [0.5, 1.0]
    found = shares(positive, scores, alone(4))
    assert found is not None
    assert (found**2).sum() == pytest.approx(1 / 8)


@pytest.mark.parametrize("seed", range(4))
def test_the_definition_with_ties(seed: int) -> None:
    labels, first, second = two_models(seed=seed)
    positive = labels == 1
    areas, covariance = brute_force(positive, first[:, 1], second[:, 1])
    v10, v01 = placements(positive, first[:, 1])
    assert v10.mean() == pytest.approx(areas[0])
    assert v01.mean() == pytest.approx(areas[0])
    assert roc_auc_score(labels, first[:, 1]) == pytest.approx(areas[0])
    own = shares(positive, first[:, 1], alone(60))
    assert own is not None
    assert (own**2).sum() == pytest.approx(covariance[0, 0])
    expected = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert error_of_difference(columns(labels), first, second, [1], alone(60)) == pytest.approx(np.sqrt(expected))


def area(positive: NDArray[np.bool_], scores: Floats) -> float:
    """Mann and Whitney, pair by pair; there are no ties here."""
    return float((scores[positive][:, None] > scores[~positive]).mean())


def bootstrapped(
    labels: NDArray[np.int64], headline: Callable[[NDArray[np.int64], Floats], float], *models: Floats
) -> float:
    """Standard deviation of the difference over paired resamples within each class."""
    generator = np.random.default_rng(5)
    members = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    found = []
    for _ in range(800):
        drawn = np.concatenate([generator.choice(m, len(m)) for m in members])
        first, second = (headline(labels[drawn], scores[drawn]) for scores in models)
        found.append(second - first)
    return float(np.std(found))


def test_the_bootstrap_agrees() -> None:
    labels, first, second = two_models(300, digits=6)
    error = error_of_difference(columns(labels), first, second, [1], alone(300))
    assert error == pytest.approx(bootstrapped(labels, lambda y, s: area(y == 1, s[:, 1]), first, second), rel=0.1)


def three_classes(images: int = 300, seed: int = 0) -> tuple[NDArray[np.int64], Floats, Floats]:
    generator = np.random.default_rng(seed)
    labels = generator.choice(3, images, p=[0.5, 0.3, 0.2])
    common = generator.normal(size=(images, 3)) + np.eye(3)[labels]
    first, second = (common + generator.normal(size=(images, 3)) * noise for noise in (0.3, 0.8))
    return labels, first, second


def test_the_bootstrap_agrees_on_the_mean_over_classes() -> None:
    labels, first, second = three_classes()
    error = error_of_difference(columns(labels), first, second, [0, 1, 2], alone(300))

    def macro(y: NDArray[np.int64], s: Floats) -> float:
        return float(np.mean([area(y == k, s[:, k]) for k in range(3)]))

    assert error == pytest.approx(bootstrapped(labels, macro, first, second), rel=0.12)


def test_the_mean_over_two_mirrored_classes_is_the_binary_case() -> None:
    labels, first, second = two_models()
    both = error_of_difference(columns(labels), first, second, [0, 1], alone(60))
    assert both == pytest.approx(error_of_difference(columns(labels), first, second, [1], alone(60)))


def test_the_same_image_twice_is_no_more_evidence() -> None:
    labels, first, second = two_models()
    once = error_of_difference(columns(labels), first, second, [1], alone(60))
    again = [np.repeat(side, 2, axis=0) for side in (labels, first, second)]
    assert error_of_difference(columns(again[0]), again[1], again[2], [1], np.repeat(alone(60), 2)) == pytest.approx(
        once
    )
    naive = error_of_difference(columns(again[0]), again[1], again[2], [1], alone(120))
    assert naive is not None
    assert once is not None
    assert naive == pytest.approx(once / np.sqrt(2), rel=0.03)


def test_one_patient_of_a_class_gives_no_variance() -> None:
    labels, first, second = two_models(12)
    clusters = np.where(labels == 1, 0, np.arange(12) + 1)
    assert error_of_difference(columns(labels), first, second, [1], clusters) is None
    assert shares(labels == 1, first[:, 1], clusters) is None
