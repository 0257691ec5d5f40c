"""Operating points against brute force over all thresholds, and their intervals against published and drawn ones."""

import numpy as np
import pytest
from scipy.stats import binomtest

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import OperatingPoint, make_record
from ttl_deploy.tasks.operating_point import choose, measure, share

POSITIVE = np.array([True, False, True, True, False, False, True, False, False, False])
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.4, 0.3, 0.2, 0.1])


def rates(threshold: float, positive: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Sensitivity and specificity, counted."""
    said = scores >= threshold
    return said[positive].mean(), (~said[~positive]).mean()


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        # By hand: three of four found with one of six missed, at 0.6; the gap below it ends at 0.55.
        ("youden", 0.575),
        ("sensitivity=0.75", 0.575),
        ("sensitivity=0.76", 0.35),
        ("specificity=0.8", 0.575),
        ("specificity=0.6", 0.525),
        ("specificity=0.9", 0.85),
        ("0.33", 0.33),
        (".5", 0.5),
    ],
)
def test_thresholds_worked_out_by_hand(rule: str, threshold: float) -> None:
    found = choose(rule, POSITIVE, SCORES)
    assert (found.rule, found.threshold) == (rule, pytest.approx(threshold))


@pytest.mark.parametrize("seed", range(20))
def test_no_other_threshold_does_better(seed: int) -> None:
    """Against every threshold there is; scores with ties."""
    generator = np.random.default_rng(seed)
    positive = generator.random(60) < 0.3
    positive[:2] = True, False
    scores = np.round(np.clip(generator.normal(0.4 + 0.2 * positive, 0.15), 0.01, 0.99), 2)
    every = [rates(t, positive, scores) for t in np.linspace(0, 1, 2001)]
    found = {name: rates(choose(name, positive, scores).threshold, positive, scores) for name in RULES}
    assert sum(found["youden"]) == pytest.approx(max(map(sum, every)))
    for bound in (0.5, 0.9, 0.95):
        sensitivity, specificity = found[f"sensitivity={bound}"]
        assert sensitivity >= bound
        assert specificity == pytest.approx(max(s for reached, s in every if reached >= bound))
        sensitivity, specificity = found[f"specificity={bound}"]
        assert specificity >= bound
        assert sensitivity == pytest.approx(max(s for s, reached in every if reached >= bound))


RULES = ("youden", *(f"{name}={bound}" for name in ("sensitivity", "specificity") for bound in (0.5, 0.9, 0.95)))


def test_a_threshold_lies_between_two_scores_so_that_rounding_moves_no_image() -> None:
    generator = np.random.default_rng(3)
    positive = generator.random(200) < 0.4
    scores = generator.random(200)
    for rule in RULES:
        threshold = choose(rule, positive, scores).threshold
        before = measure(threshold, positive, scores)
        assert measure(threshold, positive, scores.astype(np.float32).astype(float)) == before


def test_one_class_has_no_operating_point() -> None:
    with pytest.raises(ValueError, match="both classes"):
        choose("youden", np.ones(4, dtype=bool), np.linspace(0, 1, 4))


def test_what_a_threshold_does_is_counted() -> None:
    """By hand at 0.5: of 4 positive 3 are said, of 6 negative 3 are not; of 6 said 3 are, of 4 not said 3 are not."""
    found = measure(0.5, POSITIVE, SCORES)
    assert (found.sensitivity.hits, found.sensitivity.images) == (3, 4)
    assert (found.specificity.hits, found.specificity.images) == (3, 6)
    assert (found.positive_predictive_value.hits, found.positive_predictive_value.images) == (3, 6)
    assert (found.negative_predictive_value.hits, found.negative_predictive_value.images) == (3, 4)


def test_nothing_said_has_no_predictive_value() -> None:
    found = measure(0.95, POSITIVE, SCORES)
    assert (found.positive_predictive_value.value, found.positive_predictive_value.interval) == (None, None)
    assert found.sensitivity.value == 0


@pytest.mark.parametrize(("hits", "images"), [(0, 10), (3, 10), (10, 10), (95, 100), (1, 1)])
def test_independent_images_have_scipys_exact_interval(hits: int, images: int) -> None:
    given = np.arange(images) < hits
    expected = binomtest(hits, images).proportion_ci(0.95, "exact")
    assert share(given, np.arange(images)).interval == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_copies_of_an_image_add_no_certainty() -> None:
    """Ten patients with five equal images each are ten images, less the degree of freedom of an estimated variance."""
    alone = np.arange(10) < 7
    once = share(alone, np.arange(10)).interval
    copied = share(np.repeat(alone, 5), np.repeat(np.arange(10), 5)).interval
    assert once is not None
    assert copied is not None
    assert copied[0] <= once[0]
    assert copied[1] >= once[1]
    perfect = share(np.ones(50, dtype=bool), np.repeat(np.arange(10), 5)).interval
    assert perfect == share(np.ones(10, dtype=bool), np.arange(10)).interval


def test_the_interval_by_patient_covers_the_truth() -> None:
    """Patients of four images whose chances differ: 95 % asked, and 68 % where images are taken for independent."""
    generator = np.random.default_rng(8)
    truth, tries = 0.8, 600
    covered = {"patient": 0, "image": 0}
    for _ in range(tries):
        chances = generator.beta(4 * truth / 2, 4 * (1 - truth) / 2, size=30)
        hits = (generator.random((30, 4)) < chances[:, None]).ravel()
        for way, patients in (("patient", np.repeat(np.arange(30), 4)), ("image", np.arange(120))):
            interval = share(hits, patients).interval
            assert interval is not None
            covered[way] += interval[0] <= truth <= interval[1]
    assert covered["patient"] / tries >= 0.94
    assert covered["image"] / tries < 0.93


@pytest.mark.parametrize("rule", ["best", "sensitivity", "sensitivity=95", "specificity=1.5", "1", "-0.1", "nan", ""])
def test_a_rule_that_is_none_is_refused_with_those_that_are(rule: str) -> None:
    with pytest.raises(BadInputError, match=r"youden, sensitivity=0\.95|below 1"):
        make_record(OperatingPoint, rule=rule, threshold=0.5)
