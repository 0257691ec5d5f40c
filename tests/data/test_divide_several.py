"""Divisions of images with several labels: shares of each label, patients kept together, rare labels told."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttl_deploy.data.items import ArraySource, Dataset, Item
from ttl_deploy.data.splits import Division, divide
from ttl_deploy.data.stratify import stratify
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import SplitSpec
from ttl_deploy.tasks import UNKNOWN, Multilabel

PIXEL = np.zeros((1, 1, 1), dtype=np.uint8)
SIDES = ("train", "val", "test")
SHARES = {"train": 0.64, "val": 0.16, "test": 0.2}


def dataset(
    labels: list[tuple[int, ...]], patients: list[str | None] | None = None, splits: list[str] | None = None
) -> Dataset:
    owners = patients or [f"p{i}" for i in range(len(labels))]
    sides: list[str | None] = [*splits] if splits else [None] * len(labels)
    items = tuple(
        Item(f"{i}", label, owner, side, ArraySource(PIXEL, 0, f"{i}"))
        for i, (label, owner, side) in enumerate(zip(labels, owners, sides, strict=True))
    )
    return Dataset(Path("set.csv"), Multilabel(tuple("ABCDEFGHIJKLMN"[: len(labels[0])])), items)


def divided(data: Dataset, spec: SplitSpec = SplitSpec()) -> Division:  # noqa: B008 - a frozen record
    return divide(data, spec, [f"content {item.id}" for item in data.items])


def generated(seed: int, patients: int = 300, labels: int = 14) -> Dataset:
    """A label of half of the images, the next of fewer, the last of one in fifty; one to three images a patient."""
    generator = np.random.default_rng(seed)
    owners = [f"p{i}" for i in range(patients) for _ in range(int(generator.integers(1, 4)))]
    table = generator.random((len(owners), labels)) < np.geomspace(0.5, 0.02, labels)
    table[generator.random(table.shape) < 0.05] = False
    unknown = generator.random(table.shape) < 0.05
    marks = np.where(unknown, UNKNOWN, table.astype(int))
    marks[(marks == UNKNOWN).all(axis=1), 0] = 0
    return dataset([tuple(row) for row in marks.tolist()], list(owners))


def off(data: Dataset, value: int) -> np.ndarray:
    """(K, 3) how many images each label's yes or no is off its share on each side."""
    sides = np.array(divided(data).sides)
    having = data.labels == value
    return np.stack([having[sides == s].sum(axis=0) - SHARES[s] * having.sum(axis=0) for s in SIDES], axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_each_label_has_its_share_on_every_side_within_one_patient(seed: int) -> None:
    data = generated(seed, labels=4)
    most = max(Counter(item.patient for item in data.items).values())
    assert np.abs(off(data, 1)).max() <= most


@pytest.mark.parametrize("seed", range(5))
def test_of_fourteen_labels_only_the_most_frequent_are_off_their_share_and_by_a_twentieth_at_most(seed: int) -> None:
    data = generated(seed)
    most = max(Counter(item.patient for item in data.items).values())
    assert np.abs(off(data, 1))[3:].max() <= most
    for value in (1, 0):
        assert (np.abs(off(data, value)).max(axis=1) <= 0.05 * (data.labels == value).sum(axis=0)).all()


@pytest.mark.parametrize("seed", range(5))
def test_patients_stay_together_and_every_side_has_a_yes_and_a_no_of_every_label(seed: int) -> None:
    data = generated(seed, patients=200)
    division = divided(data, SplitSpec(seed=seed))
    sides = np.array(division.sides)
    where: dict[str | None, set[str]] = {}
    for item, side in zip(data.items, division.sides, strict=True):
        where.setdefault(item.patient, set()).add(side)
    assert all(len(found) == 1 for found in where.values())
    for side in SIDES:
        of_side = data.labels[sides == side]
        assert (of_side == 1).any(axis=0).all()
        assert (of_side == 0).any(axis=0).all()
    assert division.warnings == ()


def test_a_division_that_can_be_checked_by_hand() -> None:
    labels = [(1, 0)] * 25 + [(0, 1)] * 25 + [(1, 1)] * 25 + [(0, 0)] * 25
    sides = np.array(divided(dataset(labels), SplitSpec(train=0.6, val=0.2, test=0.2)).sides)
    assert Counter(sides.tolist()) == {"train": 60, "val": 20, "test": 20}
    for k in (0, 1):
        yes = np.array([label[k] for label in labels]) == 1
        assert Counter(sides[yes].tolist()) == {"train": 30, "val": 10, "test": 10}


def test_a_label_of_three_patients_is_on_every_side() -> None:
    data = dataset([(int(i < 3), i % 2) for i in range(60)])
    for seed in range(20):
        sides = divided(data, SplitSpec(seed=seed)).sides
        assert sorted(sides[:3]) == ["test", "train", "val"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(seed: int, random: object) -> None:
    data = generated(seed % 7, patients=40, labels=4)
    order = list(range(len(data.items)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = replace(data, items=tuple(data.items[i] for i in order))
    before, after = divided(data, SplitSpec(seed=seed)).sides, divided(shuffled, SplitSpec(seed=seed)).sides
    assert [before[i] for i in order] == list(after)


def test_another_seed_is_another_division() -> None:
    data = generated(0)
    assert divided(data).sides == divided(data).sides
    assert divided(data).sides != divided(data, SplitSpec(seed=1)).sides


def test_folds_test_each_patient_exactly_once_with_every_label() -> None:
    data = generated(1)
    tested: Counter[str] = Counter()
    for fold in range(5):
        division = divided(data, SplitSpec(folds=5, fold=fold))
        sides = np.array(division.sides)
        tested.update(item.id for item, side in zip(data.items, division.sides, strict=True) if side == "test")
        assert division.notes[0] == f"fold {fold} of 5 is the test side"
        for side in SIDES:
            assert (data.labels[sides == side] == 1).any(axis=0).all()
        owners = {s: {i.patient for i, of in zip(data.items, sides, strict=True) if of == s} for s in SIDES}
        assert not owners["train"] & owners["test"]
        assert not owners["train"] & owners["val"]
    assert tested == dict.fromkeys((item.id for item in data.items), 1)


@pytest.mark.parametrize(("count", "said"), [(1, "1 patient of all"), (2, "2 patients of all")])
def test_a_label_too_rare_for_every_side_is_told_and_the_rest_is_divided(count: int, said: str) -> None:
    division = divided(dataset([(i % 2, int(i < count)) for i in range(50)]))
    sides = division.sides[:count]
    missing = " and ".join(side for side in SIDES if side not in sides)
    assert division.warnings == (f"no image of the {missing} side has 'B' ({said}): it has no metric there",)
    assert Counter(division.sides) == {"train": 32, "val": 8, "test": 10}


def test_a_label_that_nearly_every_image_has_is_told_likewise() -> None:
    (warning,) = divided(dataset([(i % 2, int(i > 0)) for i in range(50)])).warnings
    assert "side is without 'B' (1 patient of all): it has no metric there" in warning


def test_only_some_of_many_rare_labels_are_named() -> None:
    labels = [(i % 2, *(int(i == k) for k in range(9))) for i in range(60)]
    warnings = divided(dataset(labels)).warnings
    assert len(warnings) == 6
    assert warnings[-1] == "4 more labels have no metric on a side likewise"


def test_a_side_on_which_no_label_can_be_told_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"no label has images with it and without it on the (val|test) side"):
        divided(dataset([(int(i < 2),) for i in range(50)]))
    with pytest.raises(BadInputError, match="there are 2 patients; add images"):
        divided(dataset([(0, 1), (1, 0)]))


def test_a_given_division_is_kept_and_validation_is_taken_from_training() -> None:
    labels = [(i % 2, int(i % 10 == 0)) for i in range(100)]
    data = dataset(labels, splits=["test" if i >= 80 else "train" for i in range(100)])
    division = divided(data)
    assert [i for i, side in enumerate(division.sides) if side == "test"] == list(range(80, 100))
    assert Counter(division.sides)["val"] == 16
    assert division.notes[:2] == (
        "the division that comes with the data is used",
        "it has no validation side: one was taken from training, by patient",
    )
    whole = dataset(labels, splits=["train"] * 60 + ["val"] * 20 + ["test"] * 20)
    assert divided(whole).sides == tuple(item.split for item in whole.items)


def test_a_given_division_that_lacks_a_label_on_a_side_is_told() -> None:
    labels = [(i % 2, int(i < 60 and i % 3 == 0)) for i in range(100)]
    data = dataset(labels, splits=["train"] * 60 + ["val"] * 20 + ["test"] * 20)
    assert divided(data).warnings == (
        "no image of the val and test side has 'B' (20 patients of all): it has no metric there",
    )
    blind = dataset([(int(i < 60 and i % 3 == 0),) for i in range(100)], splits=[i.split or "" for i in data.items])
    with pytest.raises(BadInputError, match=r"on the val side; .*move some there, or remove the division"):
        divided(blind)


def test_a_given_division_with_a_patient_on_two_sides_is_refused() -> None:
    data = dataset(
        [(i % 2,) for i in range(40)], [f"p{i // 4}" for i in range(40)], ["train", "train", "test", "test"] * 10
    )
    with pytest.raises(BadInputError, match="patient p0 is on the sides train and test"):
        divided(data)


def test_copies_of_an_image_stay_together_without_a_patient() -> None:
    data = dataset([(i % 2, int(i % 5 == 0)) for i in range(80)], [None] * 80)
    twins = [f"content {i // 4 * 2 + i % 2}" for i in range(80)]
    sides = divide(data, SplitSpec(), twins).sides
    assert all(sides[i] == sides[i + 2] for i in range(80) if i % 4 < 2)


def test_strata_are_divided_by_the_shares_and_a_group_without_one_goes_where_there_is_room() -> None:
    counts = np.array([[1, 0]] * 6 + [[0, 1]] * 6 + [[0, 0]] * 6)
    sides = stratify(counts, np.ones(18, dtype=np.int64), (2 / 3, 1 / 3), seed=0)
    for start in (0, 6, 12):
        assert np.bincount(sides[start : start + 6]).tolist() == [4, 2]
