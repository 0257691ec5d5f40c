"""Sets of studies: folders of classes, tables that name folders, MedMNIST's volumes; cached, and changes are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.studies import hounsfield, write_series
from ttl_deploy.data.items import SeriesSource
from ttl_deploy.data.manifest import read_dataset
from ttl_deploy.data.prepared import prepare, prepare_like, write_split
from ttl_deploy.errors import BadInputError
from ttl_deploy.parity.images import read_items
from ttl_deploy.prediction.sources import ImageSources
from ttl_deploy.spec import InputSpec, PreprocessSpec, SplitSpec

RULE = PreprocessSpec.of(InputSpec(kind="volume", channels=1, size=(8, 8, 8)))
COUNT = 6


def values(number: int) -> NDArray[np.int16]:
    return hounsfield(4, 8, 8, seed=number)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, of series below a folder per patient, and of one array."""
    for number in range(COUNT):
        write_series(tmp_path / "set" / "ab"[number % 2] / f"patient{number}" / "thin", values(number))
    np.save(tmp_path / "set" / "a" / "more.npy", values(99))
    (tmp_path / "set" / "a" / "notes.txt").write_text("x")
    return tmp_path / "set"


def test_a_folder_of_slices_is_one_study(folder: Path) -> None:
    dataset = read_dataset(folder, kind="volume")
    assert [item.id for item in dataset.items] == [
        "a/more.npy",
        *(f"{'ab'[n % 2]}/patient{n}/thin" for n in (0, 2, 4, 1, 3, 5)),
    ]
    assert dataset.counts == {"a": 4, "b": 3}
    assert dataset.reading.passed_over == {".txt": 1}
    assert len(read_dataset(folder).items) == 4 * COUNT, "as images, each slice is one"


def test_a_table_names_folders_and_files(folder: Path) -> None:
    rows = [f"{'ab'[n % 2]}/patient{n}/thin,{'ab'[n % 2]},p{n}" for n in range(COUNT)]
    table = folder / "labels.csv"
    table.write_text("\n".join(["path,label,patient_id", *rows, "a/more.npy,a,p9"]) + "\n")
    dataset = read_dataset(table, kind="volume")
    assert [type(item.source).__name__ for item in dataset.items] == ["SeriesSource"] * COUNT + ["FileSource"]
    with pytest.raises(BadInputError, match="6 of 7 images listed are missing"):
        read_dataset(table)


def test_studies_are_decoded_once_and_a_changed_slice_is_told(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    dataset = read_dataset(folder, kind="volume")
    prepared = prepare(dataset, RULE, SplitSpec(train=0.5, val=0.25, test=0.25), cache_folder=cache)
    found = prepared.pixels(prepared.positions(["b/patient1/thin"]))
    np.testing.assert_array_equal(found[0], dataset.items[4].source.pixels(RULE))
    write_split(tmp_path / "split.csv", prepared)
    again = prepare_like(dataset, RULE, tmp_path / "split.csv", cache_folder=cache)
    assert again.digests == prepared.digests
    slices = sorted((folder / "b" / "patient1" / "thin").iterdir())
    slices[0].write_bytes(slices[0].read_bytes()[:-2] + b"\x01\x02")
    with pytest.raises(BadInputError, match=r"1 of 7 images changed.*b/patient1/thin|b/patient1/thin"):
        prepare_like(dataset, RULE, tmp_path / "split.csv", cache_folder=cache)


def test_names_of_slices_do_not_matter_and_their_content_does(tmp_path: Path) -> None:
    files = write_series(tmp_path / "s", values(0))
    before = SeriesSource(tmp_path / "s").digest()
    files[0].rename(tmp_path / "s" / "zz")
    assert SeriesSource(tmp_path / "s").digest() == before
    (tmp_path / "s" / "zz").unlink()
    assert SeriesSource(tmp_path / "s").digest() != before


@pytest.mark.parametrize("channels", [(), (1,)])
def test_medmnists_volumes(channels: tuple[int, ...], tmp_path: Path) -> None:
    """`organmnist3d.npz` and its kin: (N, 28, 28, 28) uint8."""
    drawn = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 8, *channels), np.uint8)
    arrays = {f"{side}_images": drawn[i * 4 : i * 4 + 4] for i, side in enumerate(("train", "val", "test"))}
    arrays |= {f"{side}_labels": np.arange(4)[:, None] % 2 for side in ("train", "val", "test")}
    np.savez(tmp_path / "x.npz", **arrays)
    dataset = read_dataset(tmp_path / "x.npz", kind="volume")
    np.testing.assert_array_equal(dataset.items[5].source.pixels(RULE), drawn[5].reshape(8, 8, 8, 1))
    if channels:  # (N, D, H, W, 1); without, the last axis might be channels
        with pytest.raises(BadInputError, match="volumes with a backbone of volumes"):
            read_dataset(tmp_path / "x.npz")


def test_images_are_no_studies_and_the_error_says_what_is(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadInputError, match=r"has no studies: passed over, 2 \.png; give NIfTI"):
        read_dataset(tmp_path, kind="volume")
    np.savez(tmp_path / "x.npz", train_images=np.zeros((4, 8, 8), np.uint8), train_labels=np.arange(4))
    with pytest.raises(BadInputError, match="images with a backbone of images"):
        read_dataset(tmp_path / "x.npz", kind="volume")


def test_predict_walks_to_studies(folder: Path) -> None:
    sources = ImageSources([str(folder)], kind="volume")
    found = [image.path for image in sources]
    assert found == [str(folder / "a" / "more.npy")] + [
        str(folder / "ab"[n % 2] / f"patient{n}" / "thin") for n in (0, 2, 4, 1, 3, 5)
    ]
    assert sources.passed_over == {".txt": 1}
    alone = folder / "a" / "patient0" / "thin"
    assert [image.path for image in ImageSources([str(alone)], kind="volume")] == [str(alone)]
    wild = ImageSources([str(folder / "b" / "*" / "*")], kind="volume")
    assert [image.path for image in wild] == [str(folder / "b" / f"patient{n}" / "thin") for n in (1, 3, 5)]


def test_studies_without_labels_are_compared_too(folder: Path, tmp_path: Path) -> None:
    task = read_dataset(folder, kind="volume").task
    loose = tmp_path / "loose"
    loose.mkdir()
    for number in range(2):
        (folder / "a" / f"patient{2 * number}" / "thin").rename(loose / f"study{number}")
    np.save(loose / "x.npy", values(3))
    found = read_items(loose, task, kind="volume")
    assert [item.id for item in found.items] == ["study0", "study1", "x.npy"]
