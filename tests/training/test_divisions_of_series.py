"""Repeats that divide anew, and folds that hold validation and test together."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from small import MODEL, PROTOCOL, but

from ttl_deploy.cli.main import run as cli
from ttl_deploy.data.manifest import read_dataset
from ttl_deploy.data.splits import divide
from ttl_deploy.data.synthetic import write_synthetic
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Data, SplitSpec
from ttl_deploy.training.series import members, train_series

FIFTHS = {"train": 0.8, "val": 0.05, "test": 0.15, "folds": 5, "fold_holds": "val+test"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("set") / "data", images=400, size=32, seed=1)


def test_five_folds_of_80_5_15_hold_out_every_image_once(images: Path) -> None:
    """RadImageNet's division (section 4.2): patients apart, classes on every side."""
    dataset = read_dataset(images / "labels.csv")
    digests = [str(index) for index in range(len(dataset.items))]
    patients = np.array([item.patient for item in dataset.items])
    labels = np.array([item.label for item in dataset.items])
    held = np.zeros(len(patients), dtype=int)
    for fold in range(5):
        sides = np.array(divide(dataset, SplitSpec(**FIFTHS, fold=fold), digests).sides)  # type: ignore[arg-type]
        held += sides != "train"
        shares = [(sides == side).mean() for side in ("train", "val", "test")]
        np.testing.assert_allclose(shares, [0.8, 0.05, 0.15], atol=0.04)
        owners = {side: set(patients[sides == side]) for side in ("train", "val", "test")}
        assert not owners["train"] & owners["val"] | owners["train"] & owners["test"] | owners["val"] & owners["test"]
        assert all(len(set(labels[sides == side])) == 2 for side in owners)
    assert (held == 1).all()


def test_a_fold_is_the_test_side_where_nothing_else_is_said(images: Path) -> None:
    dataset = read_dataset(images / "labels.csv")
    digests = [str(index) for index in range(len(dataset.items))]
    sides = np.array(divide(dataset, SplitSpec(folds=5, fold=0), digests).sides)
    assert (sides == "test").mean() == pytest.approx(0.2, abs=0.02)
    assert "fold_holds" not in SplitSpec(folds=5, fold=0).model_dump()


def test_folds_of_several_labels_hold_both_too(tmp_path: Path) -> None:
    from ttl_deploy.data.divide_several import Several, divide_several

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (400, 3)).astype(np.int8)
    problem = Several(tmp_path, ("a", "b", "c"), truth, np.arange(400), "image")
    held = np.zeros(400, dtype=int)
    for fold in range(5):
        spec = SplitSpec(**FIFTHS, fold=fold)  # type: ignore[arg-type]
        sides = divide_several(problem, spec, None)[0]
        held += sides != "train"
        assert [(sides == side).sum() for side in ("train", "val", "test")] == pytest.approx([320, 20, 60], abs=2)
    assert (held == 1).all()


def test_new_splits_count_the_seed_of_the_division_up() -> None:
    plain = members(MODEL, PROTOCOL, SplitSpec(seed=7), 3, None)
    anew = members(MODEL, PROTOCOL, SplitSpec(seed=7), 3, None, new_splits=True)
    assert [m.split.seed for m in plain] == [7, 7, 7]
    assert [m.split.seed for m in anew] == [7, 8, 9]
    assert [m.protocol.seed for m in anew] == [0, 1, 2]


def test_repeats_with_new_splits_test_other_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_synthetic(tmp_path / "set", images=60, size=32, seed=1)
    model = ["--backbone", "resnet18", "--cut", "stem", "--weights", "random", "--image-size", "32"]
    how = ["--epochs", "1", "--batch-size", "16", "--device", "cpu", "--precision", "fp32"]
    series = ["--repeats", "2", "--new-splits", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "s")]
    assert cli(["train", str(images / "labels.csv"), *model, *how, *series]) == 0
    capsys.readouterr()
    tested = []
    for repeat in (0, 1):
        with (tmp_path / "s" / f"repeat-{repeat}" / "split.csv").open() as handle:
            tested.append({row["id"] for row in csv.DictReader(handle) if row["split"] == "test"})
    assert tested[0] != tested[1]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (["--new-splits"], "--new-splits is of repeats, and there is one"),
        (["--fold-holds", "val+test"], "--fold-holds is of folds, and there are none"),
        (["--folds", "5", "--fold-holds", "both"], "'both' is nothing that a fold holds"),
    ],
)
def test_series_that_cannot_be_are_one_line(how: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["train", "no.csv", "--backbone", "resnet18", "--cut", "stem", *how, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_data_that_divide_themselves_are_not_divided_anew(tmp_path: Path) -> None:
    images = write_synthetic(tmp_path / "set", images=60, size=32, seed=1)
    rows = (images / "labels.csv").read_text().splitlines()
    sides = ["split", *(("train", "val", "test")[index % 3] for index in range(len(rows) - 1))]
    (images / "labels.csv").write_text("\n".join(f"{row},{side}" for row, side in zip(rows, sides, strict=True)) + "\n")
    data = Data(path=images / "labels.csv", cache=tmp_path / "cache")
    with pytest.raises(BadInputError, match="divides the images itself, and --new-splits would not"):
        train_series(data, MODEL, but(PROTOCOL, epochs=1), tmp_path / "out", repeats=2, new_splits=True)
    assert not (tmp_path / "out").exists()
