"""The numbers behind a report's figures, against scikit-learn, the recorded metrics, and cases computed by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score
from written_run import two_classes

from ttl_deploy.pages import curves
from ttl_deploy.spec import TaskSpec
from ttl_deploy.tasks import UNKNOWN, Multiclass, Multilabel, make_task
from ttl_deploy.training.metrics import evaluate


def columns_of(labels: np.ndarray, logits: np.ndarray, task: object) -> list[curves.Column]:
    return curves.columns(task, labels, logits, np.arange(len(labels)))  # type: ignore[arg-type]


def test_of_two_classes_the_positive_ones_curve_has_the_recorded_area() -> None:
    labels, logits = two_classes(200)
    task = Multiclass(("healthy", "ill"))
    (column,) = columns_of(labels, logits, task)
    recorded = evaluate(labels, task.probabilities(logits), task, bootstrap=0)
    curve = curves.roc(column)
    assert column.name == "ill"
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(recorded.auroc, abs=1e-12)
    recall = curves.precision_recall(column)
    steps = np.diff(recall.x) * recall.y[1:]
    assert steps.sum() == pytest.approx(recorded.auprc, abs=1e-12)


@pytest.mark.parametrize("points", [5, 40])
def test_a_thinned_curve_keeps_its_ends_and_its_area(points: int) -> None:
    labels, logits = two_classes(3000)
    (column,) = columns_of(labels, logits, Multiclass(("healthy", "ill")))
    whole = curves.roc(column)
    thin = whole.at_most(points)
    assert len(thin.x) <= points + 2 < len(whole.x)
    assert (thin.x[0], thin.y[0], thin.x[-1], thin.y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(thin.y, thin.x) == pytest.approx(
        roc_auc_score(column.positive, column.scores), abs=0.4 / points
    )


def test_the_reliability_diagram_is_scikit_learns_calibration_curve() -> None:
    labels, logits = two_classes(300)
    (column,) = columns_of(labels, logits, Multiclass(("healthy", "ill")))
    found, said = calibration_curve(column.positive, column.scores, n_bins=curves.BINS)
    bins = curves.reliability(column.scores, column.positive, column.patients)
    assert [b.said for b in bins] == pytest.approx(list(said))
    assert [b.found.value for b in bins] == pytest.approx(list(found))
    assert sum(b.found.images for b in bins) == 300


def test_an_answer_that_is_not_known_counts_in_no_curve_and_no_matrix() -> None:
    labels = np.array([[1, 0], [0, UNKNOWN], [1, 1], [0, UNKNOWN]])
    logits = np.array([[2.0, -1.0], [-2.0, 5.0], [-1.0, 3.0], [1.0, 5.0]], dtype=np.float32)
    task = Multilabel(("a", "b"))
    first, second = columns_of(labels, logits, task)
    assert (len(first.positive), len(second.positive)) == (4, 2)
    matrix = curves.confusion(task, labels, logits)
    assert matrix.tolist() == [[[1, 1], [1, 1]], [[1, 0], [0, 1]]]
    probabilities, right, _patients = curves.answers(task, labels, logits, np.arange(4))
    assert len(probabilities) == 6
    assert right.sum() == 4


def test_the_interval_of_the_accuracy_is_that_of_a_share_of_as_many_patients() -> None:
    labels, logits = two_classes(200)
    task = Multiclass(("healthy", "ill"))
    interval = curves.accuracy(task, labels, logits, np.arange(200))["accuracy_interval"]
    right = int((logits.argmax(axis=1) == labels).sum())
    exact = binomtest(right, 200).proportion_ci(0.95, method="exact")
    assert interval == pytest.approx((exact.low, exact.high))


def test_the_interval_of_the_balanced_accuracy_holds_what_is_recorded() -> None:
    labels, logits = two_classes(200)
    task = Multiclass(("healthy", "ill"))
    interval = curves.accuracy(task, labels, logits, np.arange(200))["balanced_accuracy_interval"]
    assert interval is not None
    assert interval[0] < task.balanced_accuracy(labels, task.probabilities(logits)) < interval[1]
    many = Multilabel(("a", "b"))
    said = np.stack([logits[:, 1], logits[:, 0]], axis=1)
    known = np.stack([labels, np.where(np.arange(200) % 3, 1 - labels, UNKNOWN)], axis=1)
    interval = curves.accuracy(many, known, said, np.arange(200) // 2)["balanced_accuracy_interval"]
    assert interval is not None
    assert interval[0] < many.balanced_accuracy(known, many.probabilities(said)) < interval[1]


def test_the_operating_point_decides_the_matrix() -> None:
    from ttl_deploy.spec import OperatingPoint

    labels = np.array([0, 0, 1, 1])
    logits = np.log([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]).astype(np.float32)
    plain = make_task(TaskSpec(), ("healthy", "ill"))
    careful = make_task(TaskSpec(), ("healthy", "ill"), OperatingPoint(rule="0.25", threshold=0.25))
    assert curves.confusion(plain, labels, logits).tolist() == [[2, 0], [1, 1]]
    assert curves.confusion(careful, labels, logits).tolist() == [[1, 1], [0, 2]]
