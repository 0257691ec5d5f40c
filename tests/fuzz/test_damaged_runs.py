"""Whatever is wrong with a file that the user hands over: one line that names it, or a right result.

The damages are drawn from a fixed seed; `generators` makes thousands of others from other seeds.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import generators
import numpy as np
import onnx
import pytest
import torch

from ttl_deploy import files
from ttl_deploy.artifact import Artifact, open_artifact, update_manifest
from ttl_deploy.data.cache import PixelCache
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import FileRecord, ModelSpec
from ttl_deploy.transfer import build
from ttl_deploy.transfer.initialise import initialise

CASES = 22
"""Two of every file where the training goes on, which reads them all; else one."""


@pytest.fixture(scope="module")
def image(synthetic: Path) -> Path:
    return next(synthetic.rglob("*.png"))


@pytest.mark.parametrize("name", ["resume", "export", "verify", "predict", "bench", "bench artifact"])
def test_a_damaged_run_is_named_in_one_line(
    name: str, trained: Path, image: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    faults = []
    for damage in generators.cases(trained, CASES if name == "resume" else CASES // 2, seed=len(name)):
        folder = generators.copied(trained, tmp_path / "run")
        damage.apply(folder)
        outcome = generators.command(*generators.commands_on(folder, image, pixel_cache)[name])
        # Where the division names other images than the table, either may be the wrong one.
        also = ("labels.csv",) if damage.file == "split.csv" else ()
        fault = outcome.fault(damage.file, Path(damage.file).name, str((folder / damage.file).parent), *also)
        faults += [] if fault is None else [f"{damage.file}, {damage.name}: {fault}"]
    assert not faults, "\n".join(faults)


def test_an_undamaged_run_is_taken_by_every_command(
    trained: Path, image: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    """Without this the test above could pass because everything is refused."""
    folder = generators.copied(trained, tmp_path / "run")
    for name, arguments in generators.commands_on(folder, image, pixel_cache).items():
        outcome = generators.command(*arguments)
        assert outcome.code == 0 or generators.SOUND in outcome.err, f"{name}: {outcome.err}"


def test_files_of_weights_that_are_none(tmp_path: Path) -> None:
    model = build(ModelSpec(backbone="resnet18", method="ttl", cut="layer1.0", classes=("a", "b"), image_size=32))
    for name, content in generators.weights_cases(36, seed=0):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(BadInputError) as error:
            initialise(model, str(file))
        assert file.name in str(error.value), name


def test_a_training_from_weights_that_are_none(synthetic: Path, pixel_cache: Path, tmp_path: Path) -> None:
    options = ("--backbone", "resnet18", "--cut", "layer1.0", "--image-size", "32", "--device", "cpu")
    file = tmp_path / "sparse.pth"
    torch.save({"conv1.weight": torch.eye(3).to_sparse()}, file)
    arguments = ("train", synthetic, *options, "--weights", file, "--cache", pixel_cache, "--out", tmp_path / "out")
    outcome = generators.command(*arguments)
    assert outcome.code == 2
    assert outcome.fault("sparse.pth") is None
    assert not (tmp_path / "out").exists()


def test_tables_that_are_none(synthetic: Path, pixel_cache: Path, tmp_path: Path) -> None:
    options = ("--backbone", "resnet18", "--cut", "layer1.0", "--image-size", "32", "--device", "cpu")
    data = Path(shutil.copytree(synthetic, tmp_path / "data"))
    for name, content in generators.table_cases(synthetic, 13, seed=0):
        (data / "labels.csv").write_bytes(content)
        arguments = ("train", data / "labels.csv", *options, "--weights", "none", "--cache", pixel_cache)
        outcome = generators.command(*arguments, "--out", tmp_path / "out")
        fault = outcome.fault("labels.csv", "none")
        assert fault is None, f"{name}: {fault}"
        assert outcome.code == 2, name


def test_a_graph_that_asks_for_terabytes(artifact: Artifact, image: Path, tmp_path: Path) -> None:
    for name, content in generators.graph_cases(generators.GRAPH_KINDS, seed=0):
        files.write_bytes(artifact.model_path, content)
        record = FileRecord(sha256=files.sha256(artifact.model_path), size=len(content))
        update_manifest(artifact, files={artifact.manifest.model_file: record})
        for runtime in ("onnxruntime", "openvino"):
            outcome = generators.command("predict", artifact.folder, image, "--runtime", runtime)
            assert outcome.fault("model.onnx") is None, f"{name} in {runtime}: {outcome.fault('model.onnx')}"
            assert outcome.code == 2, f"{name} in {runtime}"
            assert name == "an unknown operator" or "GiB" in outcome.err or "only running it" in outcome.err, name


def test_the_networks_of_the_exporters_are_looked_into_and_pass(trained: Path) -> None:
    from ttl_deploy.runtime import graph_size

    model = open_artifact(trained / generators.ARTIFACT).model_path
    graph_size.refuse_oversized(model)
    assert graph_size._operators(model) == {node.op_type for node in onnx.load(model).graph.node}


def test_a_home_that_cannot_be(synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/nope")
    for name in ("TTL_DEPLOY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    options = ("--backbone", "resnet18", "--cut", "layer1.0", "--image-size", "32", "--weights", "random")
    outcome = generators.command("train", synthetic, *options, "--device", "cpu", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert outcome.fault("/proc/nope") is None
    assert "--cache" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_cache_that_is_removed_while_it_is_filled(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = PixelCache._append

    def removed(self: PixelCache, row: int, images: object) -> None:
        shutil.rmtree(self.folder)
        append(self, row, np.zeros((1, 4), np.uint8))

    monkeypatch.setattr(PixelCache, "_append", removed)
    options = ("--backbone", "resnet18", "--cut", "layer1.0", "--image-size", "32", "--weights", "random")
    cache, out = tmp_path / "cache", tmp_path / "out"
    outcome = generators.command("train", synthetic, *options, "--device", "cpu", "--cache", cache, "--out", out)
    assert outcome.code == 2
    assert outcome.fault(str(cache)) is None
    assert "was removed while it was filled; run again" in outcome.err
