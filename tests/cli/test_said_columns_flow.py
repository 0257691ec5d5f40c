"""A table as published, from training to verification and prediction, by the same options; and a run repeats itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from ttl_deploy.cli.main import run
from ttl_deploy.errors import BadInputError
from ttl_deploy.training.run import open_run, run_data

TINY = ["--backbone", "resnet18", "--cut", "layer1.0", "--image-size", "32", "--weights", "random", "--device", "cpu"]
SHORT = ["--epochs", "1", "--batch-size", "16", "--precision", "fp32", "--lr", "1e-3"]

Call = Callable[..., str]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def do(*arguments: str | Path, code: int = 0) -> str:
        assert run([str(argument) for argument in arguments]) == code, capsys.readouterr().err
        said = capsys.readouterr()
        return said.out if code == 0 else said.err

    return do


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One-hot labels of images in two folders, test images in a table of their own, a run on them and its artifact."""
    root = tmp_path_factory.mktemp("columns")
    for side, count in (("train", 40), ("test", 12)):
        rows = []
        for i in range(count):
            name = f"ISIC_{side}_{i:04d}"
            place = root / "set" / f"part_{i % 2}" / f"{name}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (32, 32), 40 + i + 100 * (i // 2 % 2)).save(place)
            rows.append(f"{name},{1 - i // 2 % 2}.0,{i // 2 % 2}.0,{side} clinic/p{i // 2}\n")
        (root / "set" / f"{side}.csv").write_text("image,MEL,NV,owner\n" + "".join(rows))
    said = ["--path-column", "image", "--path-template", "part_*/{}.png", "--label-columns", "MEL,NV"]
    said += ["--test-data", str(root / "set" / "test.csv"), "--patient-column", "owner", "--patient-pattern", "(.*)"]
    place = ["--cache", str(root / "cache"), "--out", str(root / "run")]
    assert run(["train", str(root / "set" / "train.csv"), *said, *TINY, *SHORT, *place]) == 0
    assert run(["export", str(root / "run"), "--cache", str(root / "cache")]) == 0
    return root


def test_the_run_says_how_it_was_read(root: Path) -> None:
    config = yaml.safe_load((root / "run" / "config.yaml").read_text())
    assert config["reading"]["label_columns"] == ["MEL", "NV"]
    assert config["reading"]["path_template"] == "part_*/{}.png"
    assert config["reading"]["test_data"] == str((root / "set" / "test.csv").resolve())
    assert "val_data" not in config["reading"]
    record = json.loads((root / "run" / "data.json").read_text())
    assert record["notes"] == [
        "labels from the columns MEL, NV",
        "images at part_*/{}.png",
        "test side from test.csv: 12 images",
    ]


def test_its_configuration_repeats_it(root: Path, call: Call) -> None:
    call("train", "--config", root / "run" / "config.yaml", "--cache", root / "cache", "--out", root / "again")
    for name in ("config.yaml", "split.csv", "predictions.csv", "best.safetensors"):
        assert (root / "again" / name).read_bytes() == (root / "run" / name).read_bytes()


def test_its_images_are_found_where_they_moved(root: Path) -> None:
    moved = root / "elsewhere"
    shutil.copytree(root / "set", moved)
    before = run_data(open_run(root / "run"), cache=root / "cache")
    after = run_data(open_run(root / "run"), data=moved, cache=root / "cache")
    assert after.ids == before.ids
    assert (moved / "test.csv").exists()
    (moved / "test.csv").unlink()
    with pytest.raises(BadInputError, match=r"elsewhere/test.csv: no such file"):
        run_data(open_run(root / "run"), data=moved, cache=root / "cache")


def test_other_images_of_the_layout_verify_by_the_same_options(root: Path, call: Call) -> None:
    artifact, others = root / "run" / "onnx-fp32", root / "set" / "test.csv"
    said = ["--path-column", "image", "--path-template", "part_*/{}.png"]
    rest = ["--allow-inconclusive", "--cache", root / "cache", "--json"]
    told = json.loads(call("verify", artifact, "--data", others, *said, "--label-columns", "MEL,NV", *rest))
    assert told["comparison"]["images"] == 12
    assert told["comparison"]["labelled"] is True
    told = json.loads(call("verify", artifact, "--data", others, *said, *rest))
    assert (told["comparison"]["images"], told["comparison"]["labelled"]) == (12, False)
    line = call("verify", artifact, *said, code=2)
    assert "--path-column, --path-template: says how --data is read, which is not given" in line
    line = call("verify", artifact, "--data", others, *said, "--label-columns", "MEL,NVV", code=2)
    assert "has no column 'NVV'" in line


def test_a_table_is_predicted_by_the_same_options(root: Path, call: Call) -> None:
    artifact, table = root / "run" / "onnx-fp32", root / "set" / "test.csv"
    said = ["--path-column", "image", "--path-template", "part_*/{}.png", "--format", "jsonl"]
    rows = [json.loads(line) for line in call("predict", artifact, table, *said, "--id-column", "image").splitlines()]
    assert [row["id"] for row in rows] == [f"ISIC_test_{i:04d}" for i in range(12)]
    assert rows[3]["image"] == str(root / "set" / "part_1" / "ISIC_test_0003.png")
    assert "id" not in json.loads(call("predict", artifact, table, *said).splitlines()[0])
    line = call("predict", artifact, root / "set" / "part_0", *said, code=2)
    assert "--path-column, --path-template: says how a table is read, and there is none; pass a .csv" in line
    assert "no column imagee; found: image" in call("predict", artifact, table, "--path-column", "imagee", code=2)


def test_a_search_takes_them(root: Path, call: Call) -> None:
    said = ["--path-column", "image", "--path-template", "part_*/{}.png", "--label-columns", "MEL,NV"]
    budget = ["--strategy", "exhaustive", "--max-params", "0.05M", "--no-latency", "--threads", "1"]
    network = ["--backbone", "resnet18", "--image-size", "32", "--weights", "random", "--device", "cpu", *SHORT]
    place = ["--test-data", root / "set" / "test.csv", "--cache", root / "cache", "--out", root / "found"]
    call("search", root / "set" / "train.csv", *said, *network, *budget, *place)
    config = yaml.safe_load((root / "found" / "winner" / "config.yaml").read_text())
    assert config["reading"]["label_columns"] == ["MEL", "NV"]
