"""Linear CKA against the formula of Song 2012 written out, and what it must not see."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray

from ttl_deploy.analysis.analyses.cka import gram
from ttl_deploy.analysis.cka import Alignment, u_centred

Floats = NDArray[np.float64]


def hsic(k: Floats, l: Floats) -> float:  # noqa: E741 the names of the formula
    """Song 2012, equation 4, for Gram matrices with their diagonal."""
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    n, ones = len(k), np.ones(len(k))
    cross = (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
    return float((np.trace(k @ l) + cross - 2 / (n - 2) * ones @ k @ l @ ones) / (n * (n - 3)))


def features(seed: int, images: int = 20, channels: int = 12) -> Floats:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(images, channels)) + generator.normal(size=channels) * 3


def aligned(*pairs: tuple[Floats, Floats]) -> Alignment:
    alignment = Alignment()
    for x, y in pairs:
        alignment.add([x @ x.T], [y @ y.T])
    return alignment


def test_both_averages_are_those_of_the_formula_written_out() -> None:
    batches = [(features(2 * b), features(2 * b) @ features(9, 12, 12) + features(2 * b + 1)) for b in range(4)]
    parts = []
    for x, y in batches:
        k, m = x @ x.T, y @ y.T
        parts.append((hsic(k, m), hsic(k, k), hsic(m, m)))
    ratios = [cross / np.sqrt(first * second) for cross, first, second in parts]
    cross, first, second = np.mean(parts, axis=0)
    found = aligned(*batches)
    assert found.mean_of_ratios.item() == pytest.approx(np.mean(ratios), abs=1e-9)
    assert found.ratio_of_means.item() == pytest.approx(cross / np.sqrt(first * second), abs=1e-9)
    assert abs(found.mean_of_ratios.item() - found.ratio_of_means.item()) > 1e-4
    assert found.batches == 4


def test_it_is_one_with_itself_and_with_what_is_turned_scaled_or_moved() -> None:
    x = features(0)
    turned = 7.0 * x @ scipy.stats.ortho_group.rvs(12, random_state=1) + 5.0
    for other in (x, turned):
        found = aligned((x, other))
        assert found.mean_of_ratios.item() == pytest.approx(1, abs=1e-9)
        assert found.ratio_of_means.item() == pytest.approx(1, abs=1e-9)


def test_it_sees_a_stretched_direction_as_cca_does_not() -> None:
    x = features(0)
    assert aligned((x, x * np.array([30.0] + [1.0] * 11))).ratio_of_means.item() < 0.9


def test_unrelated_features_average_to_nothing() -> None:
    """The biased estimate of so few images in so many directions would be near one."""
    found = aligned(*((features(s, 16, 200), features(s + 1000, 16, 200)) for s in range(60)))
    assert abs(found.ratio_of_means.item()) < 0.05


def test_every_pair_of_layers_is_in_its_place() -> None:
    one, other = [features(1), features(2)], [features(3), features(1), features(4)]
    alignment = Alignment()
    alignment.add([x @ x.T for x in one], [x @ x.T for x in other])
    assert alignment.ratio_of_means.shape == (2, 3)
    assert alignment.ratio_of_means[0, 1] == pytest.approx(1)
    assert alignment.ratio_of_means[1, 2] == pytest.approx(aligned((one[1], other[2])).ratio_of_means.item())


def test_a_layer_that_does_not_vary_has_no_cka_and_three_images_have_none() -> None:
    assert np.isnan(aligned((features(0), np.ones((20, 3)))).ratio_of_means.item())
    with pytest.raises(ValueError, match="3 images are too few"):
        u_centred(np.eye(3))


def test_grams_in_float32_of_features_with_a_large_mean_are_exact_enough() -> None:
    x, y = features(1, 64, 500) + 100, features(2, 64, 500) + 100
    tensors = [torch.from_numpy(part).float().reshape(64, 5, 10, 10) for part in (x, y)]
    alignment = Alignment()
    alignment.add([gram("", tensors[0])], [gram("", tensors[1])])
    assert alignment.ratio_of_means.item() == pytest.approx(aligned((x, y)).ratio_of_means.item(), abs=1e-6)
