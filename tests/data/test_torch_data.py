"""Batches: evaluation as deployed, augmentation that depends on the sample alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ttl_deploy.data.augment import Augmentation
from ttl_deploy.data.manifest import read_dataset
from ttl_deploy.data.prepared import Prepared, prepare, prepare_like, write_split
from ttl_deploy.data.torch_data import ImageBatches, evaluation_loader, training_loader
from ttl_deploy.errors import BadInputError
from ttl_deploy.inputs.image import normalise
from ttl_deploy.spec import AugmentSpec, PreprocessSpec, SplitSpec

SPEC = PreprocessSpec(image_size=24)


@pytest.fixture
def prepared(synthetic: Path, pixel_cache: Path) -> Prepared:
    return prepare(read_dataset(synthetic / "labels.csv"), SPEC, SplitSpec(), cache_folder=pixel_cache)


def test_evaluation_is_the_one_preprocessing_in_order(prepared: Prepared) -> None:
    test = prepared.indices("test")
    images = torch.cat([batch for batch, _ in evaluation_loader(ImageBatches(prepared, test, SPEC), 5)])
    expected = np.stack([normalise(prepared.pixels(np.array([i])), SPEC)[0] for i in test])
    np.testing.assert_array_equal(images.numpy(), expected)


def test_augmentation_depends_on_seed_epoch_and_sample_alone(prepared: Prepared) -> None:
    train = prepared.indices("train")

    def epoch(number: int, workers: int, batch_size: int, seed: int = 1) -> dict[bytes, int]:
        images = ImageBatches(prepared, train, SPEC, AugmentSpec(), seed)
        loader = training_loader(images, batch_size, epoch=number, seed=0, workers=workers)
        return {image.numpy().tobytes(): 0 for batch, _ in loader for image in batch}

    first = epoch(1, 0, 8)
    assert first.keys() == epoch(1, 2, 4).keys()
    assert not first.keys() & epoch(2, 0, 8).keys()
    assert not first.keys() & epoch(1, 0, 8, seed=2).keys()


def test_the_order_changes_with_the_epoch_and_returns_with_the_seed(prepared: Prepared) -> None:
    train = prepared.indices("train")

    def labels(number: int) -> list[int]:
        loader = training_loader(ImageBatches(prepared, train, SPEC), 8, epoch=number, seed=7, workers=0)
        return [int(label) for _, found in loader for label in found]

    assert labels(1) == labels(1)
    assert labels(1) != labels(2)
    assert sorted(labels(1)) == sorted(prepared.labels[train].tolist())


def test_a_last_batch_of_one_is_dropped(prepared: Prepared) -> None:
    train = prepared.indices("train")[:9]
    sizes = [
        len(found) for _, found in training_loader(ImageBatches(prepared, train, SPEC), 4, epoch=1, seed=0, workers=0)
    ]
    assert sizes == [4, 4]


def test_augmentation_off_is_no_augmentation() -> None:
    assert not Augmentation(AugmentSpec(crop_scale=1, rotation=0), (24, 24))


def test_rotation_and_crop_stay_in_their_bounds() -> None:
    """A centred disc keeps its place under rotation, and its area grows at most by the crop."""
    rows, columns = np.mgrid[-1:1:64j, -1:1:64j]
    disc = torch.from_numpy((np.hypot(rows, columns) < 0.5).astype(np.uint8) * 255)[None]
    turned, _ = Augmentation(AugmentSpec(crop_scale=1, rotation=10), (64, 64))(disc[None], [3])
    assert (turned[0].float() - disc.float()).abs().mean() < 3
    cropped, _ = Augmentation(AugmentSpec(crop_scale=0.8, rotation=0), (64, 64))(disc.expand(50, 1, 64, 64), range(50))
    areas = [float((one > 127).sum() / (disc > 127).sum()) for one in cropped]
    assert min(areas) > 0.97
    assert max(areas) < 1 / 0.8 + 0.03


def test_a_division_is_rebuilt_or_the_difference_is_named(
    prepared: Prepared, synthetic: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    write_split(tmp_path / "split.csv", prepared)
    data = read_dataset(synthetic / "labels.csv")
    again = prepare_like(data, SPEC, tmp_path / "split.csv", cache_folder=pixel_cache)
    assert again.ids == prepared.ids
    assert again.sides.tolist() == prepared.sides.tolist()
    assert again.data_digest() == prepared.data_digest()
    text = (tmp_path / "split.csv").read_text()
    digest = prepared.digests[0]
    (tmp_path / "split.csv").write_text(text.replace(digest, "0" * 64))
    with pytest.raises(BadInputError, match=f"1 changed since .{prepared.ids[0]}"):
        prepare_like(data, SPEC, tmp_path / "split.csv", cache_folder=pixel_cache)
