"""Divisions: no patient on two sides, every class everywhere, the fractions asked for, whatever the data's order."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttl_deploy.data.items import ArraySource, Dataset, Item
from ttl_deploy.data.splits import divide
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import SplitSpec
from ttl_deploy.tasks import Multiclass

PIXEL = np.zeros((1, 1, 1), dtype=np.uint8)


def dataset(labels: list[int], patients: list[str | None], splits: list[str | None] | None = None) -> Dataset:
    items = tuple(
        Item(f"{i}", label, patient, split, ArraySource(PIXEL, 0, f"{i}"))
        for i, (label, patient, split) in enumerate(zip(labels, patients, splits or [None] * len(labels), strict=True))
    )
    classes = tuple(f"class{label}" for label in range(max(labels) + 1))
    return Dataset(Path("set.csv"), Multiclass(classes), items)


def contents(data: Dataset) -> list[str]:
    """All images differ."""
    return [f"content {item.id}" for item in data.items]


@st.composite
def patient_sets(draw: st.DrawFn) -> Dataset:
    classes = draw(st.integers(2, 4))
    patients = draw(st.integers(12 * classes, 60))
    labels: list[int] = []
    owners: list[str | None] = []
    for patient in range(patients):
        count = draw(st.integers(1, 4))
        labels += [patient % classes] * count
        owners += [f"p{patient}"] * count
    return dataset(labels, owners)


@settings(max_examples=40, deadline=None)
@given(patient_sets(), st.integers(0, 2**31))
def test_no_patient_is_on_two_sides_and_every_class_is_on_all(data: Dataset, seed: int) -> None:
    sides = divide(data, SplitSpec(seed=seed), contents(data)).sides
    where: dict[str | None, set[str]] = {}
    for item, side in zip(data.items, sides, strict=True):
        where.setdefault(item.patient, set()).add(side)
    assert all(len(found) == 1 for found in where.values())
    for side in ("train", "val", "test"):
        assert {item.label for item, s in zip(data.items, sides, strict=True) if s == side} == set(
            range(len(data.classes))
        )


@settings(max_examples=15, deadline=None)
@given(patient_sets(), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(data: Dataset, random: object) -> None:
    order = list(range(len(data.items)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = replace(data, items=tuple(data.items[i] for i in order))
    before = divide(data, SplitSpec(), contents(data)).sides
    after = divide(shuffled, SplitSpec(), contents(shuffled)).sides
    assert [before[i] for i in order] == list(after)


def test_the_papers_fractions_come_out() -> None:
    data = dataset([i % 2 for i in range(1000)], [f"p{i}" for i in range(1000)])
    counts = Counter(divide(data, SplitSpec(), contents(data)).sides)
    assert counts["test"] == 200
    assert counts["val"] == pytest.approx(160, abs=2)
    assert counts["train"] == pytest.approx(640, abs=2)


def test_classes_keep_their_share_on_every_side() -> None:
    data = dataset([int(i % 10 == 0) for i in range(1000)], [f"p{i}" for i in range(1000)])
    sides = divide(data, SplitSpec(), contents(data)).sides
    for side in ("train", "val", "test"):
        labels = [item.label for item, s in zip(data.items, sides, strict=True) if s == side]
        assert np.mean(labels) == pytest.approx(0.1, abs=0.01)


def test_folds_test_each_patient_exactly_once() -> None:
    data = dataset([i % 2 for i in range(120)], [f"p{i // 3}" for i in range(120)])
    tested: Counter[str] = Counter()
    for fold in range(5):
        sides = divide(data, SplitSpec(folds=5, fold=fold), contents(data)).sides
        tested.update(item.id for item, side in zip(data.items, sides, strict=True) if side == "test")
        owners = {s: {i.patient for i, side in zip(data.items, sides, strict=True) if side == s} for s in set(sides)}
        assert not owners["train"] & owners["test"]
        assert not owners["train"] & owners["val"]
    assert set(tested.values()) == {1}
    assert len(tested) == 120


def test_copies_of_an_image_stay_together_without_a_patient() -> None:
    data = dataset([i % 2 for i in range(80)], [None] * 80)
    twins = [f"content {i // 4 * 2 + i % 2}" for i in range(80)]  # two copies of each content, of one class
    sides = divide(data, SplitSpec(), twins).sides
    places: dict[str, set[str]] = {}
    for content, side in zip(twins, sides, strict=True):
        places.setdefault(content, set()).add(side)
    assert all(len(found) == 1 for found in places.values())


def test_a_copy_of_a_patients_image_goes_where_the_patient_goes() -> None:
    data = dataset([i % 2 for i in range(60)], [f"p{i}" if i < 50 else None for i in range(60)])
    copied = [f"content {i if i < 50 else i - 50}" for i in range(60)]
    sides = divide(data, SplitSpec(), copied).sides
    assert [sides[i] for i in range(50, 60)] == [sides[i] for i in range(10)]


def test_a_given_division_is_kept_and_validation_is_taken_from_training() -> None:
    splits: list[str | None] = ["test" if i >= 80 else "train" for i in range(100)]
    data = dataset([i % 2 for i in range(100)], [f"p{i // 2}" for i in range(100)], splits)
    division = divide(data, SplitSpec(), contents(data))
    assert [i for i, side in enumerate(division.sides) if side == "test"] == list(range(80, 100))
    assert Counter(division.sides)["val"] == pytest.approx(16, abs=2)
    assert any("taken from training" in note for note in division.notes)


def test_a_given_division_with_a_patient_on_two_sides_is_refused() -> None:
    splits: list[str | None] = ["train", "train", "test", "test"] * 10
    data = dataset([0, 1] * 20, [f"p{i // 4}" for i in range(40)], splits)
    with pytest.raises(BadInputError, match="patient p0 is on the sides train and test"):
        divide(data, SplitSpec(), contents(data))


def test_a_class_too_small_for_three_sides_is_refused() -> None:
    data = dataset([0] * 30 + [1] * 6, [f"a{i}" for i in range(30)] + ["b0", "b1"] * 3)
    with pytest.raises(BadInputError, match="class 'class1' has 2 patients"):
        divide(data, SplitSpec(), contents(data))


def test_copies_with_different_patients_are_told() -> None:
    data = dataset([i % 2 for i in range(60)], [f"p{i}" for i in range(60)])
    same = ["content 0"] * 20 + contents(data)[20:]
    warnings = divide(data, SplitSpec(), same).warnings
    assert any("20 images are copies" in warning for warning in warnings)


def test_a_patient_with_most_of_the_images_is_told_with_the_number() -> None:
    data = dataset([i % 2 for i in range(120)], [f"p{i // 2}" if i < 40 else "big" for i in range(120)])
    division = divide(data, SplitSpec(), contents(data))
    counts = Counter(division.sides)
    assert "big has 80 of 120 images" in " ".join(division.warnings)
    assert any(f"{counts['train'] / 120:.0%}" in warning for warning in division.warnings)
    assert counts["test"] / 120 < 0.5


def test_a_given_test_side_that_is_one_patient_is_told() -> None:
    splits: list[str | None] = ["train"] * 60 + ["val"] * 20 + ["test"] * 40
    owners: list[str | None] = [f"p{i // 2}" if i < 82 else "big" for i in range(120)]
    warnings = divide(
        data := dataset([i % 2 for i in range(120)], owners, splits), SplitSpec(), contents(data)
    ).warnings
    assert any("big makes 95% of the test side (38 of 40 images)" in warning for warning in warnings)


def test_an_even_division_warns_of_nothing() -> None:
    data = dataset([i % 2 for i in range(100)], [f"p{i // 2}" for i in range(100)])
    assert divide(data, SplitSpec(), contents(data)).warnings == ()


def test_copies_on_two_sides_of_a_given_division_are_not_said_to_be_kept_together() -> None:
    splits: list[str | None] = ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    data = dataset([i % 2 for i in range(40)], [None] * 40, splits)
    same = [f"content {i % 32}" for i in range(40)]
    warnings = divide(data, SplitSpec(), same).warnings
    assert not any("kept together" in warning for warning in warnings)
    assert any("16 images are copies of one another (8 contents)" in warning for warning in warnings)


def test_sides_with_other_classes_are_refused_with_the_names_of_both() -> None:
    data = dataset([0, 1] * 10 + [0, 2] * 5, [None] * 30, ["train"] * 20 + ["test"] * 10)
    with pytest.raises(BadInputError, match=r"only on train: class1; only on test: class2"):
        divide(data, SplitSpec(), contents(data))
