"""CCA against scikit-learn and against cases whose answer is known in closed form; the cut that overlap tells."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp, ortho_group
from sklearn.cross_decomposition import CCA

from ttl_deploy.analysis.reuse import overlap
from ttl_deploy.analysis.svcca import cca, components, svcca


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def related(generator: np.random.Generator, n: int = 400) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    hidden = generator.normal(size=(n, 3))
    x = hidden @ generator.normal(size=(3, 5)) + 0.7 * generator.normal(size=(n, 5))
    y = hidden @ generator.normal(size=(3, 4)) + 0.7 * generator.normal(size=(n, 4))
    return x, y


def test_the_coefficients_are_those_of_scikit_learn(generator: np.random.Generator) -> None:
    x, y = related(generator)
    left, right = CCA(n_components=4, tol=1e-12, max_iter=10_000).fit_transform(x, y)
    reference = [np.corrcoef(left[:, i], right[:, i])[0, 1] for i in range(4)]
    np.testing.assert_allclose(cca(x, y), sorted(reference, reverse=True), atol=1e-4)


def test_one_against_one_channel_is_pearsons_correlation(generator: np.random.Generator) -> None:
    x, y = related(generator)
    expected = abs(np.corrcoef(x[:, 0], y[:, 0])[0, 1])
    np.testing.assert_allclose(cca(x[:, :1], y[:, :1]), [expected], rtol=1e-12)


def test_features_agree_fully_with_themselves(generator: np.random.Generator) -> None:
    x = generator.normal(size=(500, 20)) * np.logspace(0, -6, 20)
    np.testing.assert_allclose(cca(x, x), np.ones(20), rtol=1e-9)
    assert svcca(x, x).mean() == pytest.approx(1)


def test_rotation_leaves_svcca_at_one(generator: np.random.Generator) -> None:
    x = generator.normal(size=(600, 16)) * np.logspace(0, -1, 16) + 3
    rotation = ortho_group.rvs(16, random_state=1)
    np.testing.assert_allclose(svcca(x, x @ rotation - 5), 1, rtol=1e-9)


def test_any_invertible_map_leaves_cca_at_one(generator: np.random.Generator) -> None:
    x = generator.normal(size=(600, 16))
    np.testing.assert_allclose(cca(x, x @ generator.normal(size=(16, 16))), 1, rtol=1e-9)


def test_independent_noise_reaches_the_largest_coefficient_that_theory_gives(generator: np.random.Generator) -> None:
    """Wachter 1980: the largest of p against q channels tends to sqrt(a(1-b)) + sqrt(b(1-a)), a = p/n, b = q/n."""
    n, p, q = 4000, 200, 400
    a, b = p / n, q / n
    measured = cca(generator.normal(size=(n, p)), generator.normal(size=(n, q)))
    assert measured.max() == pytest.approx(np.sqrt(a * (1 - b)) + np.sqrt(b * (1 - a)), abs=0.01)
    # The mean square has the exact expectation q / (n - 1).
    assert np.mean(measured**2) == pytest.approx(q / (n - 1), rel=0.02)


def test_svd_keeps_the_components_that_hold_the_variance() -> None:
    """Ten channels of equal variance and ten with next to none: svcca compares ten directions, cca twenty."""
    generator = np.random.default_rng(2)
    x = np.hstack([generator.normal(size=(3000, 10)), 1e-3 * generator.normal(size=(3000, 10))])
    y = x + 0.0
    y[:, 10:] = 1e-3 * generator.normal(size=(3000, 10))
    assert len(cca(x, y)) == 20
    assert len(svcca(x, y)) == components(x) == 10
    assert svcca(x, y).min() > 0.999
    assert cca(x, y).min() < 0.1


def test_a_dead_channel_and_a_repeated_one_do_no_harm(generator: np.random.Generator) -> None:
    x = generator.normal(size=(300, 4))
    widened = np.hstack([x, np.zeros((300, 1)), x[:, :1]])
    np.testing.assert_allclose(cca(widened, x), np.ones(4), rtol=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((5, 2)), np.ones((4, 2)), "same samples"),
        (np.ones(5), np.ones(5), "two matrices"),
        (np.ones((5, 2)), np.ones((5, 2)), "do not vary"),
    ],
)
def test_what_cannot_be_correlated_is_refused(x: NDArray[np.float64], y: NDArray[np.float64], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cca(x, y)


def test_overlap_is_one_minus_the_one_sided_kolmogorov_smirnov_distance(generator: np.random.Generator) -> None:
    random, features = generator.beta(2, 5, size=80), generator.beta(3, 3, size=50)
    # scipy's "less": the first sample's distribution function lies below the second's, its values above.
    assert overlap(features, random) == pytest.approx(1 - ks_2samp(features, random, alternative="less").statistic)
    assert overlap(random, random) == 1
    assert overlap(random + 2, random) == 0
    assert overlap(random - 2, random) == 1
