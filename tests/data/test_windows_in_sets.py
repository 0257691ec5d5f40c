"""Sets of studies read in windows: what the cache holds of them, which window is whose, and what is said of a set."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch

from ttl_deploy.data.cache import PixelCache
from ttl_deploy.data.columns import Columns
from ttl_deploy.data.items import Dataset
from ttl_deploy.data.manifest import read_dataset
from ttl_deploy.data.prepared import Prepared, prepare
from ttl_deploy.data.read_csv import slices_in
from ttl_deploy.data.torch_data import ImageBatches, evaluation_loader, training_loader
from ttl_deploy.data.understood import understand
from ttl_deploy.errors import BadInputError
from ttl_deploy.inputs.image import normalise
from ttl_deploy.spec import InputSpec, PreprocessSpec, SplitSpec, TaskSpec, VolumeSpec

DEPTHS = (8, 9, 13, 20, 24, 5, 16, 11, 30, 8, 12, 10)


def rule(stride: int) -> PreprocessSpec:
    given = InputSpec(kind="volume", channels=1, size=(8, 8, 8))
    return PreprocessSpec.of(given, volume=VolumeSpec(slice_stride=stride))


def volume(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (DEPTHS[number], 8, 8), np.uint8)


@pytest.fixture
def studies(tmp_path: Path) -> Dataset:
    for number in range(len(DEPTHS)):
        place = tmp_path / "set" / "ab"[number % 2] / f"{number}.npy"
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, volume(number))
    return read_dataset(tmp_path / "set", kind="volume")


def prepared(studies: Dataset, tmp_path: Path, stride: int = 8) -> Prepared:
    return prepare(studies, rule(stride), SplitSpec(train=0.34, val=0.33, test=0.33), cache_folder=tmp_path / "cache")


def padded(number: int) -> np.ndarray:
    """The study as it is, or number 5 with a slice of black before and two after."""
    return volume(number) if DEPTHS[number] >= 8 else np.pad(volume(number), ((1, 2), (0, 0), (0, 0)))


@pytest.mark.parametrize("stride", [8, 3])
def test_every_window_is_one_input_of_its_study(studies: Dataset, tmp_path: Path, stride: int) -> None:
    found = prepared(studies, tmp_path, stride)
    everything = np.arange(len(found.ids))
    inputs = found.inputs(everything)
    assert inputs.tolist() == list(range(len(inputs))), "numbered through"
    pixels, owners, row = found.input_pixels(inputs), found.images_of(inputs), 0
    for position, name in enumerate(found.ids):
        values = padded(int(Path(name).stem))
        starts = [*range(0, len(values) - 8, stride), len(values) - 8]
        assert found.counts(np.array([position])).tolist() == [len(starts)]
        for start in starts:
            np.testing.assert_array_equal(pixels[row][..., 0], values[start : start + 8])
            assert owners[row] == position
            row += 1
    assert row == len(inputs)
    backwards = everything[::-1]
    assert found.images_of(found.inputs(backwards)).tolist() == np.repeat(backwards, found.counts(backwards)).tolist()


def test_what_is_shown_of_a_study_is_its_middle_window(studies: Dataset, tmp_path: Path) -> None:
    found = prepared(studies, tmp_path)
    place = found.positions([name for name in found.ids if name.endswith("4.npy")])
    np.testing.assert_array_equal(found.pixels(place)[0, ..., 0], volume(4)[8:16])


def test_windows_lie_on_the_side_of_their_study_and_an_epoch_visits_each_once(studies: Dataset, tmp_path: Path) -> None:
    found = prepared(studies, tmp_path)
    train = found.inputs(found.indices("train"))
    assert set(found.sides[found.images_of(train)]) == {"train"}
    batches = ImageBatches(found, train, rule(8))
    loader = training_loader(batches, len(train), epoch=1, seed=0, workers=0)
    seen = torch.cat([images for images, _ in loader])
    wanted = normalise(found.input_pixels(train), rule(8))
    order = [values.tobytes() for values in wanted]
    assert sorted(order.index(values.numpy().tobytes()) for values in seen) == list(range(len(train)))
    labels = torch.cat([labels for _, labels in evaluation_loader(batches, 3)])
    assert labels.tolist() == found.labels[found.images_of(train)].tolist()


def test_studies_are_decoded_once_and_a_lost_end_anew(
    studies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prepared(studies, tmp_path).input_pixels(np.arange(5))
    (pixels,) = (tmp_path / "cache").glob("*/pixels.u8")
    assert pixels.stat().st_size == sum(max(depth, 8) for depth in DEPTHS) * 64, "each slice once"
    with monkeypatch.context() as patch:
        patch.delattr("ttl_deploy.data.items.load_input")
        np.testing.assert_array_equal(prepared(studies, tmp_path).input_pixels(np.arange(5)), before)
    with pixels.open("r+b") as handle:
        handle.truncate(pixels.stat().st_size - 64)
    again = prepared(studies, tmp_path)
    np.testing.assert_array_equal(again.input_pixels(np.arange(5)), before)
    for position, name in enumerate(again.ids):
        last = again.inputs(np.array([position]))[-1:]
        np.testing.assert_array_equal(again.input_pixels(last)[0, ..., 0], padded(int(Path(name).stem))[-8:])
    with sqlite3.connect(pixels.with_name("index.sqlite")) as index:
        (rows,) = index.execute("SELECT count(*) FROM pixels").fetchone()
    assert rows == 2 * len(DEPTHS)


def test_studies_that_differ_in_their_last_slice_are_two_and_equal_ones_are_told(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    other, black = values.copy(), np.zeros((12, 8, 8), np.uint8)
    other[-1, 0, 0] ^= 1
    nearly = black.copy()
    nearly[-1, -1, -1] = 1
    given = {"a/1": values, "a/2": values.astype(np.uint8), "b/3": other, "b/4": black, "b/5": nearly}
    for name, one in given.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "set" / f"{name}.npy", np.asfortranarray(one) if name == "a/2" else one)
    dataset = read_dataset(tmp_path / "set", kind="volume")
    cached = PixelCache(tmp_path / "cache", rule(8)).ensure(dataset.items, skip_unreadable=False)
    found = understand(dataset, ["train"] * len(given), cached)
    assert found.identical == (("a/1.npy", "a/2.npy"),)
    assert found.constant == ("b/4.npy",)


def listed(folder: Path, slices: dict[int, str], labels: str = "ab", **task: object) -> Dataset:
    """The studies in a table, those with an odd number positive."""
    rows = [f"{labels[n % 2]}/{n}.npy,{labels[n % 2]},{slices.get(n, '')}" for n in range(len(DEPTHS))]
    (folder / "labels.csv").write_text("\n".join(["path,label,pe slices", *rows]) + "\n")
    columns = Columns(slices="pe slices")
    return read_dataset(folder / "labels.csv", kind="volume", columns=columns, task=TaskSpec(**task))


@pytest.mark.parametrize(
    ("cell", "found"),
    [("1", (0,)), ("12-14;40", (11, 12, 13, 39)), (" 3 - 4 ; 4-5", (2, 3, 4)), ("", None), ("nan", None)],
)
def test_a_cell_names_slices_from_one_on(cell: str, found: tuple[int, ...] | None) -> None:
    assert slices_in(cell, "x") == found


@pytest.mark.parametrize("cell", ["0", "5-3", "a", "1,2", "1;", "-4", "1.5", "999999"])
def test_a_cell_that_names_none_is_refused(cell: str) -> None:
    with pytest.raises(BadInputError, match="names no slices; write numbers and ranges from 1 on, as in 12-31;40"):
        slices_in(cell, "x")


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_a_window_with_fewer_than_four_positive_slices_is_negative(studies: Dataset, tmp_path: Path, kind: str) -> None:
    """Study 3 has windows 1-8, 9-16 and 13-20; 7 has 1-8 and 4-11; 9 has one window of 8 slices; 1 says nothing."""
    dataset = listed(studies.path, {3: "6-12;20", 7: "9-10;5-6", 9: "1-3"})
    if kind == "multilabel":
        table = (studies.path / "labels.csv").read_text().replace(",a,", ",,")
        (studies.path / "labels.csv").write_text(table)
        columns = Columns(slices="pe slices")
        task = TaskSpec(kind="multilabel")
        dataset = read_dataset(
            studies.path / "labels.csv", classes=["b"], kind="volume", columns=columns, task=task, unknown="zeros"
        )
    found = prepared(dataset, tmp_path)
    labels = {
        name: found.input_labels(found.inputs(found.positions([name]))).ravel().tolist()
        for name in ("b/1.npy", "b/3.npy", "b/7.npy", "b/9.npy", "b/11.npy", "a/4.npy")
    }
    assert labels == {
        "b/1.npy": [1, 1],
        "b/3.npy": [0, 1, 0],
        "b/7.npy": [0, 1],
        "b/9.npy": [0],
        "b/11.npy": [1, 1],
        "a/4.npy": [0, 0, 0],
    }
    assert found.labels[found.positions(["b/9.npy"])].ravel().tolist() == [1], "the study is positive all the same"
    batches = ImageBatches(found, found.inputs(found.positions(["b/3.npy"])), rule(8))
    assert batches.__getitems__([0, 1, 2])[1].ravel().tolist() == [0, 1, 0]


def test_slices_that_no_label_makes_positive_are_refused(studies: Dataset, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"labels\.csv:6: names positive slices of a/4\.npy, which is not b"):
        listed(studies.path, {4: "1-9"})
    with pytest.raises(BadInputError, match="positive slices are of one label or the second of two classes, not of a"):
        listed(studies.path, {3: "1-9"}, kind="multilabel")
    with pytest.raises(BadInputError, match="slice 21 is named as positive, and the study has 20; correct the cell"):
        prepared(listed(studies.path, {3: "15-21"}), tmp_path)
