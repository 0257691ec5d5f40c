"""Areas and kappas from counts per patient, each resample beside scikit-learn's with those counts as weights."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, cohen_kappa_score, roc_auc_score, roc_curve

from ttl_deploy.training.metrics import Agreement
from ttl_deploy.training.ranked import Ranked
from ttl_deploy.training.resampling import Sides, Times, blocks, numbered, once, totals

Floats = NDArray[np.float64]


def drawn(clusters: NDArray[np.int64], resamples: int, generator: np.random.Generator) -> Times:
    patients = int(clusters.max()) + 1
    return generator.multinomial(patients, np.full(patients, 1 / patients), size=resamples).T.astype(np.int32)


@pytest.mark.parametrize("digits", [9, 1, 0], ids=["no ties", "ties", "two scores"])
@pytest.mark.parametrize("prevalence", [0.03, 0.5, 0.95])
@pytest.mark.parametrize("patients", [None, 40, 7])
def test_areas_are_scikit_learns_with_the_counts_as_weights(
    digits: int, prevalence: float, patients: int | None
) -> None:
    generator = np.random.default_rng(4)
    # Patients of very different sizes: the square of a uniform number is mostly small.
    names = None if patients is None else [f"p{int(patients * u**2)}" for u in generator.random(150)]
    clusters = numbered(names, 150)
    positive = generator.random(150) < prevalence
    scores = np.round(generator.random(150) * 0.8 + 0.2 * positive, digits)
    known = generator.random(150) < 0.9
    positive[:4], known[:4] = [True, False, True, False], True
    times = drawn(clusters, 30, generator)
    sides = Sides(np.where(known, positive, -1)[:, None].astype(np.int8), clusters)
    kept = sides.complete(times)
    assert kept.shape[1] > 0
    weights = kept[clusters][known].T
    assert (weights == 0).any()
    counted = Ranked(positive, scores, clusters, known).counted(kept)
    for measure, values in zip((roc_auc_score, average_precision_score), counted.areas(), strict=True):
        expected = [measure(positive[known], scores[known], sample_weight=w) for w in weights]
        assert values == pytest.approx(expected, abs=1e-12)
    for specificity in (0.5, 0.9, 0.95):
        curves = [roc_curve(positive[known], scores[known], sample_weight=w, drop_intermediate=False) for w in weights]
        expected = [true[false <= 1 - specificity + 1e-9].max() for false, true, _ in curves]
        assert counted.sensitivities(specificity) == pytest.approx(expected, abs=1e-12)


def test_a_case_by_hand() -> None:
    # From the top: yes, no and yes tied, no; the tied no is drawn twice, the first yes not at all.
    positive, scores = np.array([True, False, True, False]), np.array([0.9, 0.5, 0.5, 0.1])
    times = np.array([[1, 0], [1, 2], [1, 1], [1, 1]], dtype=np.int32)
    areas, precisions = Ranked(positive, scores, np.arange(4)).areas(times)
    assert areas == pytest.approx([(2 + 1.5) / 4, (2 * 0.5 + 1) / 3])
    assert precisions == pytest.approx([(1 + 2 / 3) / 2, 1 / 3])


def test_resamples_without_a_side_are_left_out() -> None:
    truth = np.array([[1, 0], [0, 1], [0, -1], [0, 0]], dtype=np.int8)
    times = np.array([[1, 1, 0, 1], [1, 0, 2, 1], [1, 2, 1, 0], [1, 1, 1, 2]], dtype=np.int32)
    kept = Sides(truth, np.arange(4)).complete(times)
    # The second lacks the only yes of column 1, the third that of column 0.
    assert kept.T.tolist() == [times[:, 0].tolist(), times[:, 3].tolist()]
    assert Sides(np.ones((4, 1), dtype=np.int8), np.arange(4)).complete(times) is times, "nothing to rank"


def test_kappas_are_scikit_learns_with_the_counts_as_weights() -> None:
    generator = np.random.default_rng(2)
    labels, clusters = generator.integers(5, size=80), generator.integers(20, size=80)
    probabilities = generator.dirichlet(np.ones(5), 80) + 0.4 * np.eye(5)[labels]
    clusters[:20] = np.arange(20)
    times = drawn(clusters, 25, generator)
    expected = [
        cohen_kappa_score(labels, probabilities.argmax(axis=1), weights="quadratic", sample_weight=row)
        for row in times[clusters].T
    ]
    assert Agreement(labels, probabilities, clusters).kappas(times) == pytest.approx(expected, abs=1e-12)


def test_where_one_grade_is_all_there_is_no_agreement_beyond_chance() -> None:
    images = np.arange(3)
    assert Agreement(np.zeros(3, dtype=np.int64), np.eye(2)[[0, 0, 0]], images).kappas(once(images)).tolist() == [0.0]


def test_patients_are_numbered_in_the_order_of_their_names() -> None:
    assert numbered(["b", "a", "b", "c"], 4).tolist() == [1, 0, 1, 2]
    assert numbered(None, 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="1 groups for 2 images"):
        numbered(["a"], 2)


def test_totals_are_of_whole_patients() -> None:
    values = np.array([[1.0, 0.5], [2.0, 0.5], [4.0, 0.25]])
    assert totals(values, np.array([1, 0, 1])).tolist() == [[2.0, 0.5], [5.0, 0.75]]


def test_blocks_hold_every_resample_in_order() -> None:
    times = np.arange(12).reshape(4, 3)
    few = list(blocks(times, 800_000))
    assert [block.shape for block in few] == [(3, 2), (3, 2)]
    assert (times == np.concatenate(few, axis=1).T).all()
