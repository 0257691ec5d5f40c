"""Grades: how they are ranked and decided, and the kappa that a neighbour costs less than the other end."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from ttl_deploy.data.class_names import task_of_names
from ttl_deploy.errors import BadInputError
from ttl_deploy.parity import Bounds, compare, verdict
from ttl_deploy.spec import OperatingPoint, TaskSpec
from ttl_deploy.tasks import Ordinal
from ttl_deploy.training.metrics import evaluate, quadratic_kappa, resampled

GRADES = ("0", "1", "2", "3", "4")
PLAIN = Ordinal(GRADES)
REFERABLE = Ordinal(GRADES, "2")


def sample(images: int = 200, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Grades, and probabilities that tell something of them."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 5, images)
    logits = -np.abs(np.arange(5) - labels[:, None] - generator.normal(size=(images, 1)))
    return labels, PLAIN.probabilities(2 * logits + 0.3 * generator.normal(size=logits.shape))


def test_kappa_is_scikit_learns() -> None:
    labels, probabilities = sample()
    expected = cohen_kappa_score(labels, probabilities.argmax(axis=1), weights="quadratic")
    assert quadratic_kappa(labels, probabilities, PLAIN) == pytest.approx(expected)
    assert evaluate(labels, probabilities, PLAIN, bootstrap=0).quadratic_kappa == pytest.approx(expected)


def test_a_resampled_kappa_is_scikit_learns_of_that_resample() -> None:
    labels, probabilities = sample(60)
    drawn = resampled(labels, probabilities, PLAIN, "quadratic_kappa", bootstrap=200)
    whole = quadratic_kappa(labels, probabilities, PLAIN)
    assert len(drawn) == 200
    assert drawn.mean() == pytest.approx(whole, abs=0.05)
    interval = evaluate(labels, probabilities, PLAIN, bootstrap=200).quadratic_kappa_interval
    assert interval is not None
    assert interval[0] < whole < interval[1]


def test_a_perfect_kappa_has_an_interval_of_a_width() -> None:
    labels = np.repeat(np.arange(5), 4)
    found = evaluate(labels, np.eye(5)[labels], PLAIN, bootstrap=100)
    assert found.quadratic_kappa == 1
    assert found.quadratic_kappa_interval is not None
    assert found.quadratic_kappa_interval[0] < 0.9


def test_the_other_end_costs_more_than_a_neighbour() -> None:
    labels = np.repeat(np.arange(5), 10)
    near, far = labels.copy(), labels.copy()
    near[:5], far[:5] = 1, 4
    kappas = [quadratic_kappa(labels, np.eye(5)[said], PLAIN) for said in (near, far)]
    assert kappas[0] > kappas[1]


def test_the_headline_is_of_the_positive_grades_where_they_are_said() -> None:
    labels, probabilities = sample()
    found = evaluate(labels, probabilities, REFERABLE, bootstrap=0)
    assert found.auroc == pytest.approx(roc_auc_score(labels >= 2, probabilities[:, 2:].sum(axis=1)))
    assert [single.name for single in found.per_class] == ["1 or above", "2 or above", "3 or above", "4"]
    every = [roc_auc_score(labels >= k, probabilities[:, k:].sum(axis=1)) for k in (1, 2, 3, 4)]
    assert evaluate(labels, probabilities, PLAIN, bootstrap=0).auroc == pytest.approx(np.mean(every))


def test_the_grade_said_is_of_the_side_that_the_operating_point_says() -> None:
    probabilities = np.array([[0.4, 0.2, 0.1, 0.1, 0.2], [0.4, 0.3, 0.1, 0.1, 0.1]])
    assert REFERABLE.said(probabilities) == ("0", "0")
    pointed = Ordinal(GRADES, "2", OperatingPoint(rule="0.35", threshold=0.35))
    assert pointed.said(probabilities) == ("4", "0")
    with pytest.raises(ValueError, match="--positive-from"):
        Ordinal(GRADES, None, pointed.point)


@pytest.mark.parametrize("name", ["0", "9"])
def test_positive_grades_that_divide_nothing_are_refused(name: str) -> None:
    with pytest.raises(BadInputError, match=f"begin with one of 1, 2, 3, 4, not with '{name}'"):
        task_of_names(TaskSpec(kind="ordinal", positive_from=name), GRADES)
    with pytest.raises(BadInputError, match="--positive-from"):
        task_of_names(TaskSpec(kind="multiclass", positive_from="1"), GRADES)


def test_parity_holds_the_kappa_against_its_bound() -> None:
    labels, probabilities = sample(600)
    logits = np.log(probabilities)
    worse = np.where((np.arange(600) % 6 == 0)[:, None], logits[:, ::-1], logits)
    found = compare(labels, logits, worse, REFERABLE, bootstrap=200)
    assert found.changes.quadratic_kappa is not None
    assert found.changes.quadratic_kappa.difference is not None
    assert found.changes.quadratic_kappa.difference < -0.05
    loose = Bounds(max_auroc_drop=1, max_auprc_drop=1, min_label_agreement=0)
    judged = verdict(found, loose)
    assert (judged.result, judged.measure) == ("fail", "quadratic kappa drop")
    assert verdict(compare(labels, logits, logits, REFERABLE, bootstrap=200), loose).result == "pass"
