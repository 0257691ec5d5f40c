"""The pixel cache: decoded once, consistent after a kill, and never wrong about what a file holds now."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ttl_deploy.data.cache import PixelCache
from ttl_deploy.data.items import FileSource, Item
from ttl_deploy.data.manifest import read_dataset
from ttl_deploy.data.prepared import prepare
from ttl_deploy.data.torch_data import ImageBatches, training_loader
from ttl_deploy.errors import UnreadableImageError
from ttl_deploy.inputs.reading import load_input
from ttl_deploy.spec import AugmentSpec, PreprocessSpec, SplitSpec

SPEC = PreprocessSpec(image_size=16)


@dataclass
class Decoder:
    """Counts what is decoded."""

    decoded: list[str] = field(default_factory=list)

    def __call__(self, source: Path, spec: PreprocessSpec) -> np.ndarray:
        self.decoded.append(source.name)
        return load_input(source, spec)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Decoder:
    counting = Decoder()
    monkeypatch.setattr("ttl_deploy.data.items.load_input", counting)
    return counting


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    generator = np.random.default_rng(0)
    found = []
    for i in range(12):
        path = tmp_path / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 20), dtype=np.uint8)).save(path)
        found.append(Item(path.name, i % 2, None, None, FileSource(path)))
    return found


def expected(items: list[Item]) -> np.ndarray:
    return np.stack([item.source.pixels(SPEC) for item in items])


def read_all(cache: PixelCache, items: list[Item]) -> np.ndarray:
    return cache.ensure(items, skip_unreadable=False).read(np.arange(len(items)))


def test_each_image_is_decoded_once(tmp_path: Path, items: list[Item], decoder: Decoder) -> None:
    first = read_all(PixelCache(tmp_path / "cache", SPEC), items)
    assert sorted(decoder.decoded) == sorted(item.id for item in items)
    again = read_all(PixelCache(tmp_path / "cache", SPEC), items)
    assert len(decoder.decoded) == len(items)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, expected(items))


def test_a_second_epoch_never_decodes(synthetic: Path, tmp_path: Path, decoder: Decoder) -> None:
    data = read_dataset(synthetic / "labels.csv")
    prepared = prepare(data, SPEC, SplitSpec(), cache_folder=tmp_path / "cache")
    decoded = len(decoder.decoded)
    assert decoded == len(data.items)
    batches = ImageBatches(prepared, prepared.indices("train"), SPEC, AugmentSpec(), seed=1)
    for epoch in (1, 2):
        for images, _labels in training_loader(batches, 16, epoch=epoch, seed=0, workers=0):
            assert images.shape[1:] == (3, 16, 16)
    assert len(decoder.decoded) == decoded


def test_the_key_is_the_content_not_the_name(tmp_path: Path, items: list[Item], decoder: Decoder) -> None:
    cache = PixelCache(tmp_path / "cache", SPEC)
    read_all(cache, items)
    first = items[0].source
    assert isinstance(first, FileSource)
    moved = first.path.rename(first.path.with_name("moved.png"))
    renamed = [Item("moved", 0, None, None, FileSource(moved)), *items[1:]]
    read_all(cache, renamed)
    assert len(decoder.decoded) == len(items)


def test_a_changed_file_is_decoded_again(tmp_path: Path, items: list[Item]) -> None:
    cache = PixelCache(tmp_path / "cache", SPEC)
    read_all(cache, items)
    source = items[3].source
    assert isinstance(source, FileSource)
    Image.new("L", (20, 20), 77).save(source.path)
    pixels = read_all(cache, items)
    assert set(np.unique(pixels[3])) == {77}
    np.testing.assert_array_equal(pixels, expected(items))


def test_another_preprocessing_has_its_own_pixels(tmp_path: Path, items: list[Item]) -> None:
    read_all(PixelCache(tmp_path / "cache", SPEC), items)
    larger = PreprocessSpec(image_size=20)
    pixels = PixelCache(tmp_path / "cache", larger).ensure(items, skip_unreadable=False).read(np.arange(2))
    assert pixels.shape == (2, 20, 20, 3)


def test_mean_and_std_share_the_pixels(tmp_path: Path, items: list[Item], decoder: Decoder) -> None:
    read_all(PixelCache(tmp_path / "cache", SPEC), items)
    read_all(PixelCache(tmp_path / "cache", SPEC.model_copy(update={"mean": (0.5, 0.5, 0.5)})), items)
    assert len(decoder.decoded) == len(items)


@pytest.mark.parametrize("damage", ["truncated pixels", "no pixels", "index of rubbish", "no index"])
def test_damage_is_repaired(tmp_path: Path, items: list[Item], damage: str) -> None:
    cache = PixelCache(tmp_path / "cache", SPEC)
    read_all(cache, items)
    pixels, index = cache.folder / "pixels.u8", cache.folder / "index.sqlite"
    if damage == "truncated pixels":
        os.truncate(pixels, 1000)
    elif damage == "no pixels":
        pixels.unlink()
    elif damage == "no index":
        index.unlink()
    else:
        index.write_bytes(b"rubbish" * 1000)
    np.testing.assert_array_equal(read_all(PixelCache(tmp_path / "cache", SPEC), items), expected(items))


def test_killed_while_filling_the_cache_is_consistent(tmp_path: Path, synthetic: Path) -> None:
    code = (
        "import sys, time, ttl_deploy.data.items as items\n"
        "from pathlib import Path\n"
        "from ttl_deploy.data.cache import PixelCache\n"
        "from ttl_deploy.data.manifest import read_dataset\n"
        "from ttl_deploy.spec import PreprocessSpec\n"
        "import ttl_deploy.data.cache as cache\n"
        "cache._BATCH = 4\n"
        "data = read_dataset(Path(sys.argv[1]))\n"
        "while True:\n"
        "    PixelCache(Path(sys.argv[2]), PreprocessSpec(image_size=16)).ensure(data.items, skip_unreadable=False)\n"
        "    print('round', flush=True)\n"
    )
    table = synthetic / "labels.csv"
    process = subprocess.Popen([sys.executable, "-c", code, str(table), str(tmp_path / "cache")], stdout=-1)
    pixels = PixelCache(tmp_path / "cache", SPEC).folder / "pixels.u8"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (pixels.exists() and pixels.stat().st_size > 4 * 16 * 16 * 3):
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    found = list(read_dataset(table).items)
    np.testing.assert_array_equal(read_all(PixelCache(tmp_path / "cache", SPEC), found), expected(found))


def test_unreadable_images_are_all_named_or_left_out(tmp_path: Path, items: list[Item]) -> None:
    for bad in (items[2], items[7]):
        assert isinstance(bad.source, FileSource)
        bad.source.path.write_bytes(b"")
    cache = PixelCache(tmp_path / "cache", SPEC)
    with pytest.raises(UnreadableImageError, match="2 of 12 images") as caught:
        cache.ensure(items, skip_unreadable=False)
    assert "2.png" in str(caught.value)
    assert "7.png" in str(caught.value)
    cached = cache.ensure(items, skip_unreadable=True)
    assert cached.kept.tolist() == [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]
    assert len(cached.unreadable) == 2
    left = [items[i] for i in cached.kept]
    np.testing.assert_array_equal(cached.read(np.arange(10)), expected(left))
