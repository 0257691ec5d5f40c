"""What every run begins with: counts as counted by hand, and what looks wrong, by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from listening import Listener
from PIL import Image, PngImagePlugin

from ttl_deploy.cli.main import run
from ttl_deploy.data.manifest import read_dataset
from ttl_deploy.data.prepared import Prepared, prepare
from ttl_deploy.spec import PreprocessSpec, SplitSpec

SPEC = PreprocessSpec(image_size=16)


def noise(path: Path, seed: int, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **more)


def prepared(table: Path, tmp_path: Path, listener: Listener) -> Prepared:
    return prepare(read_dataset(table), SPEC, SplitSpec(), cache_folder=tmp_path / "cache", reporter=listener)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Forty images of two classes and twenty patients; the last six copies of the first six with the other label."""
    rows = ["path,label,PatientID,age"]
    for i in range(40):
        noise(tmp_path / "img" / f"{i}.png", i)
        rows.append(f"img/{i}.png,{'ab'[i % 2]},P{i // 2},{i}")
    for i in range(6):
        noise(tmp_path / "img" / f"copy{i}.png", i)
        rows.append(f"img/copy{i}.png,{'ba'[i % 2]},P{i // 2},{i}")
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "img" / "grey.png")
    rows.append("img/grey.png,a,,1")
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(rows))
    return path


def test_classes_sides_patients_and_columns_are_counted(table: Path, tmp_path: Path) -> None:
    listener = Listener()
    found = prepared(table, tmp_path, listener)
    assert found.understood is not None
    record = found.understood.record()
    assert {name: row["images"]["all"] for name, row in record["classes"].items()} == {"a": 24, "b": 23}
    assert record["images"] == {"all": 47, **{s: len(found.indices(s)) for s in ("train", "val", "test")}}
    assert record["patients"]["all"] == 20
    assert sum(record["patients"][side] for side in ("train", "val", "test")) == 20
    assert record["without_patient"] == 1
    assert record["columns"] == {"path": "path", "label": "label", "patient": "PatientID"}
    assert record["columns_not_used"] == ["age"]
    first = listener.said[0]
    assert "47 images, 2 classes" in first
    assert "patient from PatientID; not used: age" in first
    assert [line.split()[:3] for line in first.splitlines()[2:5]] == [
        ["a", "24", "20"],
        ["b", "23", "20"],
        ["all", "47", "20"],
    ]


def test_constant_identical_and_contradicting_images_are_named(table: Path, tmp_path: Path) -> None:
    listener = Listener()
    found = prepared(table, tmp_path, listener)
    assert found.understood is not None
    record = found.understood.record()
    assert record["constant"] == {"images": 1, "some": ["img/grey.png"]}
    assert record["identical"]["images"] == 12
    assert record["contradicting"]["images"] == 12
    assert ["img/0.png", "a"] in record["contradicting"]["some"][0]
    assert ["img/copy0.png", "b"] in record["contradicting"]["some"][0]
    loud = " ".join(listener.warned)
    assert "1 of 47 images are one colour all over: img/grey.png" in loud
    assert "12 images are the same as one with another label: img/0.png (a) = img/copy0.png (b)" in loud


def test_an_image_that_was_saved_again_is_still_the_same_and_stays_on_its_side(tmp_path: Path) -> None:
    note = PngImagePlugin.PngInfo()
    note.add_text("device", "another")
    rows = ["path,label"]
    for i in range(20):
        noise(tmp_path / f"{i}.png", i)
        noise(tmp_path / f"{i}-again.png", i, pnginfo=note)
        noise(tmp_path / f"{i}.bmp", i)
        rows += [f"{i}{end},{'ab'[i % 2]}" for end in (".png", "-again.png", ".bmp")]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    found = prepared(tmp_path / "labels.csv", tmp_path, Listener())
    assert found.understood is not None
    assert len(found.understood.identical) == 20
    sides = dict(zip(found.ids, found.sides.tolist(), strict=True))
    assert all(len({sides[f"{i}{end}"] for end in (".png", "-again.png", ".bmp")}) == 1 for i in range(20))


def test_copies_under_two_labels_are_not_on_two_sides(tmp_path: Path) -> None:
    rows = ["path,label"]
    for i in range(40):
        noise(tmp_path / f"{i}.png", i)
        rows.append(f"{i}.png,{'ab'[i % 2]}")
    for i in range(6):
        noise(tmp_path / f"copy{i}.png", i)
        rows.append(f"copy{i}.png,{'ba'[i % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    listener = Listener()
    found = prepared(tmp_path / "labels.csv", tmp_path, listener)
    sides = dict(zip(found.ids, found.sides.tolist(), strict=True))
    assert all(sides[f"{i}.png"] == sides[f"copy{i}.png"] for i in range(6))
    assert any("12 images are the same as one with another label" in warning for warning in listener.warned)


def test_an_ordinary_set_is_told_without_a_warning(tmp_path: Path) -> None:
    rows = ["path,label,patient_id"]
    for i in range(40):
        noise(tmp_path / f"{i}.png", i)
        rows.append(f"{i}.png,{'ab'[i % 2]},P{i}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    listener = Listener()
    prepared(tmp_path / "labels.csv", tmp_path, listener)
    assert listener.warned == []


def test_a_run_begins_with_the_table_and_keeps_it(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = [
        "--backbone",
        "resnet18",
        "--cut",
        "layer1.0",
        "--image-size",
        "32",
        "--weights",
        "random",
        "--epochs",
        "1",
    ]
    assert run(["train", str(table), *options, "--cache", str(tmp_path / "cache"), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert said.index("47 images, 2 classes") < said.index("the same as one with another label")
    assert json.loads((out / "data.json").read_text())["classes"]["a"]["images"]["all"] == 24


def test_images_that_verify_is_given_are_told_too(
    trained: Path, pixel_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(("healthy", "lesion")):
        noise(tmp_path / "other" / name / "0.png", i)
        noise(tmp_path / "other" / name / "1.png", 7)
    (tmp_path / "other" / "healthy" / "notes.txt").write_text("x")
    arguments = ["verify", str(trained / "onnx-fp32"), "--data", str(tmp_path / "other"), "--cache", str(pixel_cache)]
    run([*arguments, "--allow-inconclusive"])
    said = capsys.readouterr().err
    assert "4 images, 2 classes" in said
    assert "1 .txt" in said
    assert "2 images are the same as one with another label" in said
