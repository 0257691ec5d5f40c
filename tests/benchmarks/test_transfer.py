"""What `benchmarks/transfer.py` keeps of trainings that are gone, and what it tells of them together with new ones."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from transfer import SEEDS, WHOLE, Kept, Result, Row, difference, name_of, report, table_of, trainings, wanted

TTL = ("random", "ttl", "blocks.2.1")
LABELS = [0, 1] * 20


def result(seed: int) -> Result:
    scores = np.random.default_rng(seed).normal(size=len(LABELS)) + np.array(LABELS)
    auroc = float(roc_auc_score(LABELS, scores))
    return Result(auroc, (0.5, 1.0), 0.9, (0.8, 1.0), 60.0, 1_000_000, 2_000_000, tuple(scores.tolist()))


def kept(seeds: int, earlier: int) -> Kept:
    """FTL from the weights with all seeds, and one cut with some of today and some of before."""
    found = Kept(sides={"train": 9, "val": 9, "test": 40}, labels=LABELS, patients=[k // 2 for k in range(40)])
    for one in trainings():
        if one.key == WHOLE or (one.key == TTL and one.seed < seeds):
            found.trainings[one.name] = result(one.seed + (10 if one.key == TTL else 0))
    if earlier:
        row = Row(earlier, (0.9, 0.8, 1.0), (0.9, 0.8, 1.0), (-0.1, -0.2, 0.0), 1_000_000, 2_000_000, 1.0, earlier=True)
        found.earlier[name_of(TTL)] = row
    return Kept.model_validate_json(found.model_dump_json())


def test_a_difference_is_that_of_the_mean_areas() -> None:
    some, whole = [result(10), result(11)], [result(0), result(1), result(2)]
    expected = np.mean([one.auroc for one in some]) - np.mean([one.auroc for one in whole])
    apart, low, high = difference(kept(0, 0), some, whole)
    assert apart == pytest.approx(expected, abs=1e-12)
    assert low < apart < high
    assert difference(kept(0, 0), whole, whole) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("seeds", "earlier", "shown"), [(1, 2, True), (2, 2, True), (3, 2, False), (1, 0, False)])
def test_the_row_of_more_seeds_is_shown(seeds: int, earlier: int, shown: bool) -> None:
    row = table_of(kept(seeds, earlier))[TTL]
    assert (row.earlier, row.seeds) == (shown, earlier if shown else seeds)
    if not shown:
        assert row.auroc[0] == pytest.approx(np.mean([result(10 + seed).auroc for seed in range(seeds)]))


def test_what_is_kept_is_not_trained_again() -> None:
    left = [one.key for one in wanted(kept(1, 2))]
    assert left.count(WHOLE) == 0
    assert left.count(TTL) == len(SEEDS) - 1
    done = kept(0, len(SEEDS))
    assert TTL not in [one.key for one in wanted(done)]
    # FTL from the weights is wanted image by image, though a row of before is whole.
    done.trainings.clear()
    done.earlier[name_of(WHOLE)] = replace(done.earlier[name_of(TTL)], apart=None)
    assert [one.key for one in wanted(done)].count(WHOLE) == len(SEEDS)


def test_the_page_says_which_rows_are_of_today() -> None:
    found = kept(3, 0)
    found.earlier[name_of(WHOLE)] = Row(3, (0.9, 0.8, 1.0), (0.9, 0.8, 1.0), None, 10**6, 10**6, 1.0, earlier=True)
    text = report(found, Namespace(size=224, epochs=8))
    assert f"6 of {len(trainings())} trainings are there" in text
    assert "| TTL | blocks.2.1 | random | 3 * |" in text
    assert "| FTL |  | weights | 3 | 0.900 (0.800 to 1.000) |" in text
    assert "Rows with a star" in text
