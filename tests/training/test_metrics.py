from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import average_precision_score, balanced_accuracy_score, brier_score_loss, roc_auc_score

from ttl_deploy.tasks import Multiclass
from ttl_deploy.training import intervals, metrics, resampling
from ttl_deploy.training.metrics import Metrics, auprc, auroc, evaluate
from ttl_deploy.training.resampling import Times, numbered

AB, ABC = Multiclass(("a", "b")), Multiclass(("a", "b", "c"))

Floats = NDArray[np.float64]


def sample(images: int, classes: int, seed: int = 0, digits: int = 9) -> tuple[NDArray[np.int64], Floats]:
    """Labels and probabilities that know a little of them; few digits give ties."""
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), generator.integers(0, classes, images - classes)])
    scores = generator.dirichlet(np.ones(classes), images) + 0.7 * np.eye(classes)[labels]
    scores = np.round(scores / scores.sum(axis=1, keepdims=True), digits)
    return labels, scores / scores.sum(axis=1, keepdims=True)


def binary(positive: list[float]) -> Floats:
    return np.stack([1 - np.array(positive), np.array(positive)], axis=1)


def test_a_case_by_hand() -> None:
    # Ranked from the top: ill .9, healthy .8, ill .7, healthy .3, healthy .1.
    result = evaluate([1, 0, 1, 0, 0], binary([0.9, 0.8, 0.7, 0.3, 0.1]), Multiclass(("healthy", "ill")), bootstrap=0)
    assert result.auroc == pytest.approx(5 / 6)
    assert result.auprc == pytest.approx((1 + 2 / 3) / 2)
    assert result.accuracy == pytest.approx(4 / 5)
    assert result.balanced_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert result.brier == pytest.approx((0.01 + 0.64 + 0.09 + 0.09 + 0.01) / 5)
    # Without a healthy image let through, only the first ill one is found.
    assert result.sensitivity_at_90_specificity == pytest.approx(0.5)
    assert result.auroc_interval is None
    assert result.bootstrap == 0


def test_ece_by_hand() -> None:
    # Confidences 0.9 and 0.9 (one wrong), 0.6 (right): bins 14 (0.867, 0.933] and 9 (0.533, 0.6].
    probabilities = binary([0.9, 0.9, 0.4])
    result = evaluate([1, 0, 0], probabilities, AB, bootstrap=0)
    assert result.ece == pytest.approx((2 * abs(0.5 - 0.9) + 1 * abs(1 - 0.6)) / 3)


def test_ece_of_a_certain_and_right_model_is_zero() -> None:
    assert evaluate([0, 1], np.eye(2), AB, bootstrap=0).ece == 0


def test_brier_of_three_classes_sums_over_them() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    result = evaluate([0, 1], probabilities, ABC, bootstrap=0)
    assert result.brier == pytest.approx(((0.25 + 0.09 + 0.04) + (1 + 1)) / 2)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("digits", [9, 1])
def test_against_other_sources(classes: int, digits: int) -> None:
    labels, probabilities = sample(200, classes, digits=digits)
    result = evaluate(labels, probabilities, Multiclass(tuple(map(str, range(classes)))), bootstrap=0)
    for k, single in enumerate(result.per_class):
        inside, outside = probabilities[labels == k, k], probabilities[labels != k, k]
        assert single.auroc == pytest.approx(mannwhitneyu(inside, outside).statistic / len(inside) / len(outside))
        assert single.auprc == pytest.approx(average_precision_score(labels == k, probabilities[:, k]))
        assert single.images == (labels == k).sum()
    assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, probabilities.argmax(axis=1)))
    if classes == 2:
        assert result.auroc == result.per_class[1].auroc
        assert result.auprc == result.per_class[1].auprc
        assert result.brier == pytest.approx(brier_score_loss(labels, probabilities[:, 1]))
    else:
        assert result.auroc == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))
        assert result.auprc == pytest.approx(np.mean([single.auprc for single in result.per_class]))
        assert result.brier == pytest.approx(brier_score_loss(labels, probabilities, scale_by_half=False))


@pytest.mark.parametrize("digits", [9, 1])
@pytest.mark.parametrize("patients", [None, 25])
def test_every_resample_agrees_with_scikit_learn(
    monkeypatch: pytest.MonkeyPatch, digits: int, patients: int | None
) -> None:
    labels, probabilities = sample(90, 3, digits=digits)
    groups = None if patients is None else [f"p{i % patients}" for i in range(90)]
    weights: list[Times] = []
    original = metrics._resamples

    def recorded(*arguments: Any) -> Any:
        for piece in original(*arguments):
            weights.append(piece)
            yield piece

    monkeypatch.setattr(metrics, "_resamples", recorded)
    found = {
        name: metrics.resampled(labels, probabilities, ABC, name, groups=groups, bootstrap=60, seed=5)
        for name in ("auroc", "auprc")
    }
    clusters = numbered(groups, 90)
    drawn = np.concatenate(weights[: len(weights) // 2], axis=1)[clusters].T
    assert len(drawn) == 60
    repeated = [np.repeat(np.arange(90), row) for row in drawn]
    areas = [[roc_auc_score(labels[r] == k, probabilities[r, k]) for k in range(3)] for r in repeated]
    precisions = [[average_precision_score(labels[r] == k, probabilities[r, k]) for k in range(3)] for r in repeated]
    assert found["auroc"] == pytest.approx(np.mean(areas, axis=1))
    assert found["auprc"] == pytest.approx(np.mean(precisions, axis=1))
    result = evaluate(labels, probabilities, ABC, groups=groups, bootstrap=60, seed=5)
    assert result.bootstrap == 60
    for k, single in enumerate(result.per_class):
        rarer = min(len({i % (patients or 90) for i in np.flatnonzero(side)}) for side in (labels == k, labels != k))
        error = np.std(np.array(precisions)[:, k], ddof=1)
        expected = intervals.estimate(
            single.auprc or 0, error, chance=float((labels == k).mean()), patients=rarer
        ).interval
        assert single.auprc_interval == pytest.approx(expected)


def test_whole_patients_are_drawn() -> None:
    drawn = metrics._draw(5, 200, np.random.default_rng(0))
    assert drawn.shape == (200, 5)
    assert (drawn.sum(axis=1) == 5).all()
    assert drawn.mean(axis=0) == pytest.approx(1, abs=0.25)
    # Patients come as NumPy draws them with replacement, which fixes every interval that a report holds.
    chosen = np.random.default_rng(0).integers(5, size=(200, 5))
    assert (drawn == [[np.sum(row == patient) for patient in range(5)] for row in chosen]).all()


def test_repeating_the_images_of_a_patient_does_not_narrow_the_interval() -> None:
    labels, probabilities = sample(80, 2)
    once = evaluate(labels, probabilities, AB, seed=3)
    again = np.repeat(np.arange(80), 5)
    groups = [str(i).zfill(3) for i in again]
    clustered = evaluate(labels[again], probabilities[again], AB, groups=groups, seed=3)
    naive = evaluate(labels[again], probabilities[again], AB, seed=3)
    assert clustered.auroc_interval == pytest.approx(once.auroc_interval)
    assert clustered.patients == 80
    assert naive.patients is None
    assert naive.auroc_interval is not None
    assert clustered.auroc_interval is not None
    assert np.diff(naive.auroc_interval) < 0.7 * np.diff(clustered.auroc_interval)


def test_a_rare_class_is_in_every_resample() -> None:
    labels = np.array([1] + [0] * 60)
    blocks = metrics._resamples(AB.truth(labels), np.arange(61), 300, np.random.default_rng(0))
    drawn = np.concatenate(list(blocks), axis=1)
    assert drawn.shape == (61, 300)
    assert (drawn[0] > 0).all()


def test_where_resamples_nearly_always_lack_a_class_there_is_no_interval() -> None:
    # Ten classes of one image each are all drawn in about one resample in ten thousand.
    labels = np.arange(10)
    result = evaluate(labels, np.full((10, 10), 0.1), Multiclass(tuple(map(str, labels))), bootstrap=50)
    assert result.auroc == 0.5
    assert result.auroc_interval is None
    assert result.bootstrap == 0


def test_the_same_seed_gives_the_same_intervals() -> None:
    labels, probabilities = sample(60, 3)
    assert evaluate(labels, probabilities, ABC, seed=1) == evaluate(labels, probabilities, ABC, seed=1)
    other = evaluate(labels, probabilities, ABC, seed=2)
    assert other.auprc_interval != evaluate(labels, probabilities, ABC, seed=1).auprc_interval


def test_pieces_give_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, probabilities = sample(60, 3)
    whole = evaluate(labels, probabilities, ABC)
    monkeypatch.setattr(metrics, "_CELLS_AT_ONCE", 60 * 7)
    monkeypatch.setattr(resampling, "_CELLS", 60 * 3)
    assert evaluate(labels, probabilities, ABC) == whole


def test_tied_scores_stand_or_fall_together() -> None:
    # Two healthy and two ill share 0.5: a threshold takes all four or none.
    probabilities = binary([0.5, 0.5, 0.5, 0.5, 0.1, 0.9])
    result = evaluate([0, 0, 1, 1, 0, 1], probabilities, AB, bootstrap=0)
    assert result.sensitivity_at_90_specificity == pytest.approx(1 / 3)
    assert result.auroc == pytest.approx((4 * 0.5 + 2 + 3) / 9)


def test_a_specificity_met_exactly_counts() -> None:
    # Ten healthy: letting one through is a specificity of exactly 0.9, and not 0.95.
    scores = [0.8, *([0.1] * 9), 0.9, 0.7]
    result = evaluate([0] * 10 + [1, 1], binary(scores), AB, bootstrap=0)
    assert result.sensitivity_at_90_specificity == 1
    assert result.sensitivity_at_95_specificity == 0.5


def test_a_sensitivity_without_a_miss_may_have_missed_a_kind_of_patient_that_was_not_seen() -> None:
    result = evaluate([0] * 30 + [1] * 12, binary([0.1] * 30 + [0.9] * 12), AB)
    # Clopper and Pearson's, of 12 of 12.
    assert result.sensitivity_at_95_specificity_interval == pytest.approx((0.025 ** (1 / 12), 1))
    nothing = evaluate([0] * 30 + [1] * 12, binary([0.9] * 30 + [0.1] * 12), AB)
    assert nothing.sensitivity_at_95_specificity_interval == pytest.approx((0, 1 - 0.025 ** (1 / 12)))


@pytest.mark.parametrize(("ill", "apart"), [(20, 1.5), (40, 3.0)])
def test_intervals_of_sensitivities_cover_what_the_scores_distributions_give(ill: int, apart: float) -> None:
    covered, times = {90: 0, 95: 0}, 120
    for seed in range(times):
        labels = np.repeat([0, 1], [2 * ill, ill])
        scores = expit(np.random.default_rng(seed).normal(size=3 * ill) + apart * labels)
        found = evaluate(labels, np.stack([1 - scores, scores], axis=1), AB, bootstrap=200)
        for percent in covered:
            interval = getattr(found, f"sensitivity_at_{percent}_specificity_interval")
            covered[percent] += interval[0] <= norm.cdf(apart - norm.ppf(percent / 100)) <= interval[1]
    assert min(covered.values()) / times > 0.9


def test_an_undefined_number_is_none_and_valid_json() -> None:
    result = evaluate([0, 0, 0], binary([0.1, 0.2, 0.3]), AB)
    assert (result.auroc, result.auprc, result.auroc_interval, result.sensitivity_at_90_specificity) == (None,) * 4
    assert result.sensitivity_at_90_specificity_interval is None
    assert json.loads(result.model_dump_json())["auroc"] is None
    assert "NaN" not in result.model_dump_json()
    assert Metrics.model_validate_json(result.model_dump_json()) == result


def test_a_class_that_does_not_occur_is_left_out_of_the_mean() -> None:
    labels, probabilities = sample(50, 3)
    labels[labels == 2] = 1
    result = evaluate(labels, probabilities, ABC)
    assert result.per_class[2].auroc is None
    expected = [result.per_class[k].auroc for k in (0, 1)]
    assert result.auroc == pytest.approx(np.mean(np.array(expected, dtype=float)))
    assert result.auroc_interval is not None


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
def test_headlines_take_any_float(kind: Any) -> None:
    labels, probabilities = sample(100, 3)
    assert auroc(labels, probabilities.astype(kind), ABC) == pytest.approx(
        roc_auc_score(labels, probabilities, multi_class="ovr"), abs=2e-3
    )
    assert auprc(labels.astype(np.int32), probabilities.astype(kind), ABC) == pytest.approx(
        np.mean([average_precision_score(labels == k, probabilities[:, k]) for k in range(3)]), abs=2e-3
    )


@pytest.mark.parametrize(
    ("labels", "probabilities", "match"),
    [
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]], "1 of 2 images are not numbers"),
        ([0, 1], [[0.5, 0.5], [np.inf, 0.5]], "not numbers"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "integers from 0 to 1"),
        ([0, -1], [[0.5, 0.5], [0.5, 0.5]], "integers from 0 to 1"),
        ([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]], "integers"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], "one integer per image"),
        ([0, 1], [0.5, 0.5], r"probabilities are \(images"),
        ([], np.empty((0, 2)), "one integer per image"),
    ],
)
def test_impossible_input_is_refused(labels: Any, probabilities: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        evaluate(labels, probabilities, AB)
    with pytest.raises(ValueError, match=match.replace("images", ".*")):
        auprc(labels, probabilities, AB)


def test_logits_are_not_taken_for_probabilities() -> None:
    with pytest.raises(ValueError, match="softmax"):
        evaluate([0, 1], [[2.0, -1.0], [0.3, 0.4]], AB)


def test_a_headline_of_one_class_is_an_error_the_trainer_sees() -> None:
    with pytest.raises(ValueError, match="same label"):
        auroc([1, 1], [[0.5, 0.5], [0.4, 0.6]], AB)


def test_groups_must_be_one_per_image() -> None:
    with pytest.raises(ValueError, match="1 groups for 2 images"):
        evaluate([0, 1], np.eye(2), AB, groups=["p"])


def test_one_image_of_one_patient_is_said_in_the_singular() -> None:
    probabilities = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]
    found = evaluate([0, 0, 1], probabilities, Multiclass(("healthy", "ill")), groups=("a", "a", "b"), bootstrap=0)
    assert found.caution is not None
    assert "2 images of 1 patient are 'healthy', 1 image of 1 patient is 'ill'" in found.caution
