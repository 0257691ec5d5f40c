"""Bit-equal weights are bit-equal files, so that their hash names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors import safe_open

from ttl_deploy import files
from ttl_deploy.spec import ModelSpec
from ttl_deploy.training.checkpoint import best_epoch, in_order, load_best, save_best
from ttl_deploy.transfer import build

TENSORS = {"b.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.count": np.array(3, np.int64)}
METADATA = {name: name.upper() for name in "zyxwvutsrqponmlkjihgfedcba"} | {"é": 'a"b'}


def shuffled(seed: int) -> bytes:
    """The same file with its metadata in another order, as safetensors may write it."""
    content = safetensors.numpy.save(TENSORS, metadata=METADATA)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    keys = list(METADATA)
    np.random.default_rng(seed).shuffle(keys)
    header["__metadata__"] = {key: METADATA[key] for key in keys}
    text = json.dumps(header, ensure_ascii=False).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def test_whatever_the_order_of_the_metadata_the_file_is_the_same() -> None:
    assert shuffled(0) != shuffled(1)
    assert len({in_order(shuffled(seed)) for seed in range(5)}) == 1
    assert len({in_order(safetensors.numpy.save(TENSORS, metadata=METADATA)) for _ in range(5)}) == 1


def test_safetensors_reads_the_same_tensors_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(in_order(shuffled(3)))
    with safe_open(path, framework="np") as handle:
        assert handle.metadata() == METADATA
    found = safetensors.numpy.load_file(path)
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[name], tensor)
    # The numbers begin at a multiple of 8, as the format asks.
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_a_file_without_metadata_is_left_as_it_is() -> None:
    content = safetensors.numpy.save(TENSORS)
    assert safetensors.numpy.load(in_order(content)).keys() == TENSORS.keys()


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return build(ModelSpec(backbone="resnet18", method="ttl", cut="layer1.0", classes=("a", "b"), image_size=32))


def test_a_model_saved_many_times_has_one_hash_and_is_read_back(model: Any, tmp_path: Path) -> None:
    hashes = set()
    for place in range(6):  # of three keys there are six orders
        folder = tmp_path / str(place)
        folder.mkdir()
        save_best(folder, model, 4)
        hashes.add(files.sha256(folder / "best.safetensors"))
    assert len(hashes) == 1
    assert best_epoch(folder) == 4
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    load_best(folder, model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
