"""Decisions between classes, with and without an operating point."""

import numpy as np
import pytest
from scipy import special

from ttl_deploy.spec import OperatingPoint
from ttl_deploy.tasks import Multiclass

POINT = OperatingPoint(rule="0.2", threshold=0.2)
LOGITS = np.array([[2.0, -1.0], [0.5, 0.0], [1.0, -0.4], [-3.0, 4.0]], dtype=np.float32)


def test_probabilities_are_scipys_softmax() -> None:
    task = Multiclass(("a", "b", "c"))
    logits = np.random.default_rng(0).normal(0, 30, size=(40, 3)).astype(np.float32)
    np.testing.assert_allclose(task.probabilities(logits), special.softmax(logits.astype(float), axis=1), rtol=1e-12)


def test_the_most_probable_class_is_said_without_a_point() -> None:
    task = Multiclass(("healthy", "ill"))
    assert task.said(task.probabilities(LOGITS)) == ("healthy", "healthy", "healthy", "ill")


def test_the_second_class_is_said_from_the_threshold_on() -> None:
    """Probabilities of the second class, by hand: 0.047, 0.378, 0.198, 0.999."""
    task = Multiclass(("healthy", "ill"), point=POINT)
    assert task.said(task.probabilities(LOGITS)) == ("healthy", "ill", "healthy", "ill")
    assert task.said(np.array([[0.8, 0.2]])) == ("ill",)


def test_a_point_between_three_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="between two classes, not 3"):
        Multiclass(("a", "b", "c"), point=POINT)
