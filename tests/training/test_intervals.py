"""The intervals of `evaluate` against simulated truth, against a published limit, and where they end."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from ttl_deploy.tasks import Multiclass
from ttl_deploy.training import metrics
from ttl_deploy.training.intervals import ScoreEstimate, estimate, mean, of_mean_share, unseen
from ttl_deploy.training.metrics import Metrics, evaluate

Floats = NDArray[np.float64]
TRIALS = 400

BINARY = Multiclass(("no", "yes"))


def binormal(
    generator: np.random.Generator, positives: int, negatives: int, distance: float
) -> tuple[NDArray[np.int64], Floats]:
    """Scores whose true AUROC is Phi(distance / sqrt 2)."""
    labels = np.repeat([1, 0], [positives, negatives])
    return labels, generator.normal(size=len(labels)) + distance * labels


def of_patients(
    generator: np.random.Generator, positives: int, negatives: int, distance: float
) -> tuple[NDArray[np.int64], Floats]:
    """The same, three images a patient that resemble each other."""
    labels = np.repeat(np.repeat([1, 0], [positives, negatives]), 3)
    shared = np.repeat(generator.normal(size=positives + negatives), 3)
    return labels, np.sqrt(0.5) * (shared + generator.normal(size=len(labels))) + distance * labels


def measured(labels: NDArray[np.int64], scores: Floats, *, images: int = 1, bootstrap: int = 200) -> Metrics:
    probability = norm.cdf(scores - 1)
    groups = [f"p{i // images}" for i in range(len(labels))]
    return evaluate(labels, np.column_stack([1 - probability, probability]), BINARY, groups=groups, bootstrap=bootstrap)


def intervals_of(labels: NDArray[np.int64], scores: Floats, clusters: NDArray[np.int64]) -> list[tuple[float, float]]:
    """AUROC's and AUPRC's interval alone: `evaluate` spends most of its time on other metrics."""
    both = np.column_stack([-scores, scores])
    sure = metrics._Intervals(
        BINARY.truth(labels), both, clusters, metrics._Resamples(BINARY, labels, both, clusters, 100, 0)
    )
    return [found for found in (sure.auroc([1]), sure.auprc([1])) if found is not None]


def true_auprc(prevalence: float, distance: float) -> float:
    """The area under the precision-recall curve of two normal distributions, by quadrature."""
    threshold = np.linspace(-9, 9 + distance, 20_001)
    true, false = prevalence * norm.sf(threshold - distance), (1 - prevalence) * norm.sf(threshold)
    return float(np.trapezoid(true / np.maximum(true + false, 1e-300) * norm.pdf(threshold - distance), threshold))


@pytest.mark.parametrize("distance", [0.95, 1.47, 2.33], ids=["auroc 0.75", "auroc 0.85", "auroc 0.95"])
@pytest.mark.parametrize(
    ("positives", "negatives", "images"),
    [(8, 60, 1), (20, 20, 1), (16, 24, 3), (8, 32, 3)],
    ids=["8 of 68", "20 of 40", "16 of 40 patients", "8 of 40 patients"],
)
def test_the_intervals_cover_the_truth(positives: int, negatives: int, images: int, distance: float) -> None:
    generator = np.random.default_rng(7)
    area, precision = norm.cdf(distance / np.sqrt(2)), true_auprc(positives / (positives + negatives), distance)
    clusters = np.arange((positives + negatives) * images) // images
    covered = np.zeros(2)
    for _ in range(TRIALS):
        sample = binormal if images == 1 else of_patients
        labels, scores = sample(generator, positives, negatives, distance)
        found = intervals_of(labels, scores, clusters)
        covered += [low <= truth <= high for (low, high), truth in zip(found, (area, precision), strict=True)]
    assert (covered / TRIALS >= 0.93).all(), covered / TRIALS


def test_those_are_the_intervals_that_evaluate_gives() -> None:
    labels, scores = of_patients(np.random.default_rng(3), 8, 32, 1.47)
    found = measured(labels, scores, images=3, bootstrap=100)
    expected = intervals_of(labels, scores, np.arange(len(labels)) // 3)
    assert found.auroc_interval == pytest.approx(expected[0])
    assert found.auprc_interval is not None
    # Patients are named, and so numbered, in another order there, which draws other resamples.
    assert found.auprc_interval == pytest.approx(expected[1], abs=0.1)


def test_with_many_patients_the_interval_is_the_normal_one() -> None:
    labels, scores = binormal(np.random.default_rng(0), 2000, 2000, 1.2)
    found = measured(labels, scores, bootstrap=300)
    assert found.auroc is not None
    assert found.auroc_interval is not None
    # Hanley and McNeil 1982, whose formula for the standard error is close for normal scores.
    a, n = found.auroc, 2000
    first, second = a / (2 - a), 2 * a * a / (1 + a)
    error = np.sqrt((a * (1 - a) + (n - 1) * (first - a * a) + (n - 1) * (second - a * a)) / n**2)
    assert np.diff(found.auroc_interval)[0] == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert np.mean(found.auroc_interval) == pytest.approx(a, abs=0.001)


@pytest.mark.parametrize("positives", [2, 8, 15, 93])
def test_a_perfect_score_is_not_certain(positives: int) -> None:
    labels = np.repeat([1, 0], [positives, 200])
    found = measured(labels, labels.astype(np.float64))
    assert (found.auroc, found.auprc) == (1, 1)
    assert found.auroc_interval is not None
    assert found.auprc_interval is not None
    assert found.auroc_interval[1] == found.auprc_interval[1] == 1
    # No error among n: the exact limit of the share that the sample misses, ranked by chance.
    missed = binomtest(0, positives).proportion_ci(0.95, method="exact").high
    chance = positives / (positives + 200)
    assert found.auroc_interval[0] == pytest.approx(1 - missed / 2)
    assert found.auprc_interval[0] == pytest.approx(1 - missed * (1 - chance))


def test_the_share_that_a_sample_misses_is_the_exact_binomial_limit() -> None:
    for patients in (1, 8, 100):
        assert unseen(patients) == pytest.approx(binomtest(0, patients).proportion_ci(0.95, method="exact").high)


def test_an_interval_stays_within_0_and_1() -> None:
    for value in (0.001, 0.02, 0.5, 0.98, 0.999):
        low, high = estimate(value, 0.2, chance=0.5, patients=3).interval
        assert 0 <= low <= value <= high <= 1
    assert estimate(0.0, 0.0, chance=0.5, patients=8).interval == pytest.approx((0, 0.5 * unseen(8)))
    assert estimate(0.5, 0.0, chance=0.5, patients=8).interval == (0.5, 0.5), "scores all alike rank nothing, surely"


def test_a_mean_over_classes_is_as_sure_as_the_classes_that_make_its_error() -> None:
    rare, common = ScoreEstimate(0.8, 0.1, 4, 0.1), ScoreEstimate(0.9, 0.01, 400, 0.0)
    both = mean([rare, common], 0.05)
    assert both.value == pytest.approx(0.85)
    assert both.freedom == pytest.approx((0.01 + 0.0001) ** 2 / (0.01**2 / 4 + 0.0001**2 / 400))
    assert both.doubt == pytest.approx(0.05)
    assert mean([rare], 0.1) == rare


def test_one_patient_with_a_class_gives_no_interval() -> None:
    found = measured(np.array([1, 1, 0, 0, 0, 0]), np.arange(6.0), images=2)
    assert found.auroc_interval is None
    assert found.auprc_interval is None
    assert found.auroc == 0.0


def test_few_patients_of_a_class_are_told() -> None:
    labels, scores = of_patients(np.random.default_rng(1), 4, 20, 1.0)
    few = measured(labels, scores, images=3)
    assert few.per_class[1].images == 12
    assert few.per_class[1].patients == 4
    assert few.caution == (
        "too few to rely on any metric: 12 images of 4 patients are 'yes'; at least 10 patients of each class"
    )
    labels, scores = binormal(np.random.default_rng(1), 10, 10, 1.0)
    assert measured(labels, scores).caution is None
    alone = evaluate([0] * 12 + [1] * 9, np.full((21, 2), 0.5), BINARY, bootstrap=0)
    assert alone.caution is not None
    assert "9 images are 'yes'; at least 10 images" in alone.caution


@pytest.mark.parametrize(
    ("patients", "recalls", "alike"), [(30, (0.9, 0.7), 0.0), (30, (0.9, 0.7), 0.7), (12, (0.95, 0.8), 0.0)]
)
def test_the_interval_of_a_balanced_accuracy_covers_the_truth(
    patients: int, recalls: tuple[float, ...], alike: float
) -> None:
    """Two images of each patient, of which both go the same way so often."""
    generator, held = np.random.default_rng(0), 0
    for _ in range(600):
        hits, owners = [], []
        for k, recall in enumerate(recalls):
            of_patient, own = generator.random(patients) < recall, generator.random(2 * patients) < recall
            hits.append(np.where(generator.random(2 * patients) < alike, np.repeat(of_patient, 2), own))
            owners.append(np.repeat(np.arange(patients), 2) + k * patients)
        found = of_mean_share(hits, owners)
        assert found is not None
        held += found[0] <= float(np.mean(recalls)) <= found[1]
    assert 0.93 < held / 600 < 0.995


def test_copies_of_a_patients_images_are_no_evidence() -> None:
    generator = np.random.default_rng(1)
    hits = [generator.random(20) < 0.8, generator.random(30) < 0.6]
    owners = [np.arange(20), np.arange(30) + 10]
    twice = of_mean_share([np.repeat(hit, 2) for hit in hits], [np.repeat(owner, 2) for owner in owners])
    assert twice == pytest.approx(of_mean_share(hits, owners))


@pytest.mark.parametrize("patients", [5, 40])
def test_a_recall_without_an_error_reaches_down_to_the_exact_binomial_limit(patients: int) -> None:
    found = of_mean_share([np.ones(patients, dtype=bool)], [np.arange(patients)])
    assert found is not None
    low, high = found
    assert low == pytest.approx(binomtest(patients, patients).proportion_ci(0.95, method="exact").low)
    assert high == 1


def test_a_class_of_one_patient_has_no_interval() -> None:
    assert of_mean_share([np.ones(4, dtype=bool), np.zeros(2, dtype=bool)], [np.arange(4), np.array([7, 7])]) is None
    assert of_mean_share([], []) is None
