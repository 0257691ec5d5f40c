"""Curve and areas are scikit-learn's to the last bit, ties and all."""

import numpy as np
import pytest
from sklearn import metrics

from ttl_deploy.tasks import roc


@pytest.mark.parametrize("digits", [0, 1, 2, 17])
@pytest.mark.parametrize("images", [2, 3, 7, 100, 5000])
def test_the_curve_and_its_areas_are_scikit_learn_s(images: int, digits: int) -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        positive = generator.random(images) < generator.uniform(0.02, 0.98)
        positive[:2] = True, False
        scores = np.round(generator.random(images) * 0.7 + 0.3 * positive, digits)
        for ours, theirs in zip(
            roc.roc_curve(positive, scores),
            metrics.roc_curve(positive, scores, drop_intermediate=False),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)
        assert roc.auroc(positive, scores) == metrics.roc_auc_score(positive, scores)
        assert roc.average_precision(positive, scores) == metrics.average_precision_score(positive, scores)


def test_a_case_by_hand() -> None:
    """Of 0.8 yes, 0.6 no, 0.4 yes, 0.2 no: of the four pairs three are in order, and precision is 1 and then 2/3."""
    positive, scores = np.array([True, False, True, False]), np.array([0.8, 0.6, 0.4, 0.2])
    assert roc.auroc(positive, scores) == 0.75
    assert roc.average_precision(positive, scores) == pytest.approx((1 + 2 / 3) / 2)
