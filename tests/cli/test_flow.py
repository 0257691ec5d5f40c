"""The commands one after the other on a tiny run, and what each prints for people and for machines."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from ttl_deploy.cli.main import run


def test_cuts_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cuts", "resnet50", "--image-size", "64"]) == 0
    table = capsys.readouterr().out
    assert run(["cuts", "resnet50", "--image-size", "64", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 17
    assert all(row["name"] in table for row in rows)


def test_train_export_verify_bench_predict(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pixel_cache: Path
) -> None:
    cache = ["--cache", str(pixel_cache)]
    out = tmp_path / "run"

    def call(*arguments: str | Path) -> str:
        assert run([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    tiny = ["--backbone", "resnet18", "--cut", "block:1", "--image-size", "32", "--weights", "random"]
    protocol = ["--epochs", "2", "--batch-size", "16", "--precision", "fp32", "--device", "cpu"]
    trained = call("train", synthetic, *tiny, *protocol, *cache, "--out", out, "--patient-pattern", r"(p\d+)_")
    assert f"next: ttl-deploy export {out}" in trained
    assert "AUROC" in trained
    assert re.search(r"rarest class +(lesion|healthy): \d+ images of \d+ patients", trained)

    exported = call("export", out, *cache)
    assert "pass" in exported
    artifact = out / "onnx-fp32"
    checked = json.loads(call("verify", artifact, *cache, "--json"))
    assert checked["verdict"]["result"] == "pass"

    timing = ["--min-samples", "5", "--min-seconds", "0.05", "--rounds", "1"]
    measured = json.loads(call("bench", artifact, "--no-roofline", *timing, *cache, "--json", "--allow-inconclusive"))
    engines = {(row["role"], row["measurement"]["runtime"]) for row in measured["rows"]}
    assert engines == {(role, e) for role in ("own", "whole") for e in ("pytorch", "onnxruntime", "openvino")}
    small, whole = (next(row for row in measured["rows"] if row["role"] == role) for role in ("own", "whole"))
    assert small["parameters"] < whole["parameters"]
    assert small["macs"] < whole["macs"]

    images = sorted(synthetic.glob("lesion/*.png"))[:3]
    table = call("predict", artifact, *images)
    assert all(image.name in table for image in images)
    rows = list(csv.DictReader(io.StringIO(call("predict", artifact, *images, "--format", "csv"))))
    records = json.loads(call("predict", artifact, synthetic / "lesion" / "*.png", "--json"))
    assert [record["image"] for record in records[:3]] == [str(image) for image in images]
    for row, record in zip(rows, records, strict=False):
        assert row["label"] == record["label"]
        assert float(row["lesion"]) == pytest.approx(record["probabilities"]["lesion"], abs=1e-6)
        assert sum(record["probabilities"].values()) == pytest.approx(1)

    saved = tmp_path / "answers.csv"
    assert call("predict", artifact, synthetic / "lesion", "--out", saved) == ""
    assert len(saved.read_text().splitlines()) == 31


def test_training_as_json(synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", synthetic / "labels.csv", "--backbone", "resnet18", "--cut", "layer1.0", "--json"]
    settings = ["--image-size", "32", "--weights", "random", "--epochs", "1", "--cache", tmp_path / "cache"]
    assert run([str(a) for a in [*arguments, *settings, "--out", tmp_path / "run"]]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["run"] == str(tmp_path / "run")
    assert 0 <= result["test"]["auroc"] <= 1


def test_a_synthetic_set_is_only_written_where_nothing_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["synthetic", str(tmp_path / "set"), "--images", "20", "--size", "32"]
    assert run(arguments) == 0
    assert len(list((tmp_path / "set").rglob("*.png"))) == 20
    assert run(arguments) == 2
    assert "exists already" in capsys.readouterr().err
