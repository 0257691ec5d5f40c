"""The tie rule, the standard error and the forecast of a learning curve, each against a hand-computed case."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ttl_deploy.cut_search.curve import FEWEST, highest
from ttl_deploy.cut_search.score import Score, choose, combine, metric_of, refuted
from ttl_deploy.pages.charts import Point, frontier
from ttl_deploy.tasks import Multiclass

AB = Multiclass(("a", "b"))

SIZES = {"a": (1,), "b": (2,), "c": (3,)}


def test_within_one_standard_error_the_smaller_model_wins() -> None:
    scores = {"a": Score(0.88, 0.01), "b": Score(0.905, 0.02), "c": Score(0.92, 0.02)}
    assert choose(scores, SIZES, "smaller") == "b"
    assert choose(scores, SIZES, "accuracy") == "c"


def test_the_error_that_counts_is_that_of_the_best() -> None:
    scores = {"a": Score(0.88, 0.5), "b": Score(0.905, 0.5), "c": Score(0.92, 0.001)}
    assert choose(scores, SIZES, "smaller") == "c"


def test_of_equal_candidates_the_smaller_wins_either_way() -> None:
    scores = {"b": Score(0.9, 0.0), "a": Score(0.9, 0.0), "c": Score(0.9, 0.0)}
    assert choose(scores, SIZES, "accuracy") == choose(scores, SIZES, "smaller") == "a"


def test_the_error_of_repeats_adds_what_patients_and_what_seeds_contribute() -> None:
    first, second = [0.1, 0.3, 0.5], [0.3, 0.5, 0.7]
    score = combine([0.4, 0.6], [first, second])
    assert score.value == pytest.approx(0.5)
    # Bootstrap means 0.2, 0.4, 0.6: variance 0.04. Between the repeats: variance 0.02, halved.
    assert score.error == pytest.approx(np.sqrt(0.04 + 0.01))
    assert combine([0.4], [first]).error == pytest.approx(np.std(first, ddof=1))
    assert combine([0.4], [[]]).error == 0


def test_the_metric_is_scikit_learns_and_whole_patients_are_resampled() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=60)
    positive = np.clip(0.3 * labels + 0.6 * generator.random(60), 0, 1)
    probabilities = np.stack([1 - positive, positive], axis=1)
    alone = [str(i) for i in range(60)]
    value, resamples = metric_of(labels, probabilities, alone, AB, "auprc")
    assert value == pytest.approx(average_precision_score(labels, positive))
    assert metric_of(labels, probabilities, alone, AB, "auroc")[0] == pytest.approx(roc_auc_score(labels, positive))
    # Two copies of every image under its patient's name add no evidence.
    twice = metric_of(np.tile(labels, 2), np.tile(probabilities, (2, 1)), alone * 2, AB, "auprc")[1]
    assert np.std(twice) == pytest.approx(np.std(resamples), rel=0.15)
    by_image = [str(i) for i in range(120)]
    naive = metric_of(np.tile(labels, 2), np.tile(probabilities, (2, 1)), by_image, AB, "auprc")[1]
    assert np.std(naive) < 0.85 * np.std(resamples)


def test_an_exact_power_law_is_forecast_to_where_it_goes() -> None:
    epochs = np.arange(1, 11)
    bound = highest((0.9 - 0.3 / epochs).tolist(), 40)
    assert bound == pytest.approx(0.9 - 0.3 / 40, abs=0.01)
    assert bound >= 0.9 - 0.3 / 40 - 1e-3


def test_a_forecast_is_an_upper_bound_of_noisy_curves() -> None:
    """Of 100 curves as noisy as those of small validation sides, at most 4 end above the forecast of their third."""
    above = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        law = generator.uniform(0.75, 0.95) - 0.3 * np.arange(1, 31) ** -generator.uniform(0.3, 1.2)
        curve = np.clip(law + generator.normal(0, 0.015, 30), 0, 1)
        above += curve.max() > highest(curve[:10].tolist(), 30)
    assert above <= 4


def test_nothing_is_forecast_from_few_epochs_and_never_less_than_what_was_reached() -> None:
    assert highest([0.5] * (FEWEST - 1), 30) == 1
    assert highest([0.9, 0.5, 0.5, 0.5, 0.5, 0.5], 30) >= 0.9


def test_the_frontier_is_what_no_other_point_beats() -> None:
    def point(name: str, cost: float, value: float) -> Point:
        return Point(name, cost, value, 0.0, True, False)

    points = [point("d", 4, 0.9), point("a", 1, 0.7), point("b", 2, 0.9), point("c", 2, 0.8), point("e", 5, 0.95)]
    assert [p.name for p in frontier(points)] == ["a", "b", "e"]


def test_a_difference_on_the_same_patients_is_surer_than_either_value() -> None:
    shared = np.random.default_rng(0).normal(0, 0.1, 200)
    best, other = combine([0.9], [0.9 + shared]), combine([0.88], [0.88 + shared + 0.001 * np.arange(200) / 200])
    assert other.value > best.value - best.error
    assert refuted(other, best, 2.0)
    far = combine([0.88], [0.88 - shared])
    assert not refuted(far, best, 2.0)
    assert not refuted(best, best, 1.0)
