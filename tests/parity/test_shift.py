"""How far probabilities lie apart, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ttl_deploy.parity.shift import Shift, shift


def log_odds(*probabilities: float) -> np.ndarray:
    """(N, 2) logits of the second class's probabilities."""
    p = np.array(probabilities)
    return np.stack([np.zeros(len(p)), np.log(p / (1 - p))], axis=1)


def test_the_numbers_of_four_images_are_those_worked_out_by_hand() -> None:
    found = shift(log_odds(0.5, 0.8, 0.2, 0.9), log_odds(0.6, 0.7, 0.2, 0.9))
    assert found.largest == pytest.approx(0.1)
    # NumPy's percentile lies 0.97 of the way from the third to the fourth of 0, 0, 0.1, 0.1.
    assert found.p99 == pytest.approx(0.1)
    assert found.mean == pytest.approx((0.0, 0.0))
    assert shift(log_odds(0.5, 0.5), log_odds(0.6, 0.8)).mean == pytest.approx((-0.2, 0.2))


@pytest.mark.parametrize("factor", [0.1, 0.9, 1.0, 5.0, 10.0])
def test_the_factor_of_the_logits_is_found_even_where_no_probability_moves(factor: float) -> None:
    generator = np.random.default_rng(0)
    logits = 60 * np.sign(generator.normal(size=(40, 1))) * [[-1.0, 1.0]] + generator.normal(size=(40, 2))
    assert shift(logits, factor * logits).scale == pytest.approx(factor)


def test_one_image_with_logits_of_hundreds_does_not_decide_the_scale() -> None:
    logits = np.random.default_rng(0).normal(size=(200, 3))
    logits[0] = [-400.0, 200.0, 200.0]
    other = logits.copy()
    other[0] *= 0.9
    assert shift(logits, other).scale == pytest.approx(1)
    assert shift(logits, other).offset == pytest.approx(0)


def test_a_constant_added_to_all_logits_of_an_image_changes_nothing_under_softmax() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(50, 3))
    found = shift(logits, logits + generator.normal(size=(50, 1)))
    assert (found.largest, found.scale, found.offset) == pytest.approx((0, 1, 0), abs=1e-12)


def test_under_a_sigmoid_the_same_constant_counts() -> None:
    logits = np.zeros((5, 2))
    found = shift(logits, logits + np.log(3), sigmoid=True)
    assert found.largest == pytest.approx(0.25)
    assert found.mean == pytest.approx((0.25, 0.25))


def test_a_constant_on_a_class_that_is_never_probable_is_an_offset() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(100, 3)) + np.array([8.0, 8.0, 0.0])
    found = shift(logits, logits + np.array([0.0, 0.0, -3.0]))
    assert found.largest is not None
    assert found.offset is not None
    assert found.largest < 0.02
    assert found.offset > 1


def test_logits_that_hardly_vary_have_no_scale_of_their_own() -> None:
    """Their variation is rounding, which a ratio would make a large number of."""
    generator = np.random.default_rng(0)
    logits = 1e-6 * generator.normal(size=(30, 2))
    assert shift(logits, logits + 1e-6 * generator.normal(size=(30, 2))).scale == pytest.approx(1, abs=1e-6)


def test_without_images_there_are_no_numbers() -> None:
    assert shift(np.zeros((0, 2)), np.zeros((0, 2))) == Shift()
