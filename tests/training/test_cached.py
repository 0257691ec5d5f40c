"""Layer-wise finetuning on cached features: the same training as without them, and what the option refuses."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import MODEL, PROTOCOL, but

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Data, Protocol
from ttl_deploy.training.cached import view_of
from ttl_deploy.training.run import Run, read_predictions
from ttl_deploy.training.train import resume, train

LWFT = but(MODEL, method="lwft", cut="layer2.0")
PLAIN = {"augment": {"crop_scale": 1.0, "rotation": 0.0}}


def training(**changes: object) -> Protocol:
    return but(PROTOCOL, **changes)


@pytest.fixture
def data(synthetic: Path, pixel_cache: Path) -> Data:
    return Data(path=synthetic / "labels.csv", cache=pixel_cache)


def same_training(first: Run, second: Run) -> None:
    assert first.history() == second.history()
    ours, theirs = load_file(first.weights), load_file(second.weights)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (read_predictions(first).logits == read_predictions(second).logits).all()


def test_without_augmentation_one_view_is_the_uncached_training_to_the_last_bit(data: Data, tmp_path: Path) -> None:
    uncached = train(data, LWFT, training(**PLAIN), tmp_path / "uncached")
    cached = train(data, LWFT, training(**PLAIN, cache_features=1), tmp_path / "cached")
    same_training(uncached, cached)
    assert not list(cached.folder.glob("features*"))


def test_with_a_view_per_epoch_augmented_training_is_the_same_too(data: Data, tmp_path: Path) -> None:
    uncached = train(data, LWFT, PROTOCOL, tmp_path / "uncached")
    same_training(uncached, train(data, LWFT, training(cache_features=3), tmp_path / "cached"))
    fewer = train(data, LWFT, training(cache_features=1), tmp_path / "fewer")
    assert fewer.history()[0] == uncached.history()[0]
    assert fewer.history()[1] != uncached.history()[1]


def test_views_take_turns() -> None:
    assert [view_of(epoch, 3) for epoch in (1, 2, 3, 4, 5)] == [1, 2, 3, 1, 2]
    assert view_of(0, 1) == 1


def test_bf16_features_are_stored_as_bf16(data: Data, tmp_path: Path) -> None:
    protocol = training(**PLAIN, cache_features=1, epochs=1, precision="bf16")
    run = train(data, LWFT, protocol, tmp_path / "run", finish=False)
    values = {side: (run.folder / f"features-{side}.npy").stat().st_size for side in ("train", "val")}
    # layer2.0 of a 32-pixel image: 128 channels of 4 x 4, two bytes each, behind a header of 128 bytes.
    images = sum((size - 128) / (128 * 4 * 4 * 2) for size in values.values())
    sides = [line.split(",")[3] for line in (run.folder / "split.csv").read_text().splitlines()[1:]]
    assert images == sum(side != "test" for side in sides)


def test_an_unfinished_cached_run_goes_on_with_its_features(data: Data, tmp_path: Path) -> None:
    whole = train(data, LWFT, training(cache_features=2), tmp_path / "whole")
    part = train(data, LWFT, training(cache_features=2, epochs=1), tmp_path / "part", finish=False)
    before = (part.folder / "features-train.npy").stat().st_mtime_ns
    assert not part.finished
    longer = resume(part.folder, epochs=2, cache=data.cache, finish=False)
    assert (longer.folder / "features-train.npy").stat().st_mtime_ns == before
    same_training(whole, resume(part.folder, epochs=3, cache=data.cache))


def test_what_cannot_be_cached_is_refused_before_anything_is_written(data: Data, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="ttl freezes nothing"):
        train(data, MODEL, training(cache_features=1), tmp_path / "run")
    with pytest.raises(BadInputError, match="pass --cache-features 6"):
        # 38 training and 10 validation images or so, of 8 KiB each: six views fit into 2 MiB, ten do not.
        train(data, LWFT, training(cache_features=10, cache_limit=2 / 1024), tmp_path / "run")
    assert not (tmp_path / "run").exists()
