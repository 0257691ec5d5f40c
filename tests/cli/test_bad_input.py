"""Bad input: one line that names the file, the value and the way out, exit code 2, and nothing written is damaged."""

import csv
import errno
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ttl_deploy.artifact import open_artifact
from ttl_deploy.cli.main import run
from ttl_deploy.training.run import open_run

TINY = ["--backbone", "resnet18", "--cut", "layer1.0", "--image-size", "32", "--weights", "random", "--device", "cpu"]
PROTOCOL = ["--precision", "fp32", "--epochs", "1", "--batch-size", "16"]

Train = Callable[..., str]


@pytest.fixture
def images(synthetic: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(synthetic, tmp_path / "images"))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused and gives its one line."""

    def call(*arguments: str | Path) -> str:
        code = run([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        lines = shown.err.splitlines()
        assert code == 2, shown
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], shown.err
        assert "Traceback" not in shown.err
        return lines[-1]

    return call


@pytest.fixture
def train_refused(refused: Callable[..., str], tmp_path: Path) -> Train:
    """Trains where it must be refused before anything is written."""

    def call(data: Path, *options: str | Path) -> str:
        out = tmp_path / "out"
        line = refused("train", data, *TINY, *PROTOCOL, "--cache", tmp_path / "cache", "--out", out, *options)
        assert not out.exists()
        return line

    return call


def rewrite(table: Path, change: Callable[[dict[str, str]], None]) -> None:
    with table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        change(row)
    with table.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def bomb(path: Path) -> None:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_data_that_is_not_there(train_refused: Train, images: Path) -> None:
    line = train_refused(images / "label.csv")
    assert "label.csv" in line
    assert "labels.csv" in line


def test_an_image_that_is_not_there(train_refused: Train, images: Path) -> None:
    gone = next(images.glob("lesion/*.png"))
    gone.unlink()
    line = train_refused(images / "labels.csv")
    assert f"lesion/{gone.name}" in line
    assert "labels.csv" in line


def test_an_empty_class(train_refused: Train, images: Path) -> None:
    (images / "unclear").mkdir()
    assert "'unclear' has no images" in train_refused(images)


def test_a_class_with_one_patient(train_refused: Train, images: Path) -> None:
    def one_patient(row: dict[str, str]) -> None:
        if row["label"] == "lesion":
            row["patient_id"] = "p1"

    rewrite(images / "labels.csv", one_patient)
    line = train_refused(images / "labels.csv")
    assert "'lesion' has 1 patient" in line


def test_a_label_outside_the_list(train_refused: Train, images: Path) -> None:
    line = train_refused(images / "labels.csv", "--classes", "healthy,lesions")
    assert "'lesion'" in line
    assert "labels.csv" in line
    assert "--ignore-other-labels" in line


@pytest.mark.parametrize("break_it", [lambda path: path.write_bytes(b""), bomb], ids=["zero bytes", "bomb"])
def test_unreadable_images(train_refused: Train, images: Path, break_it: Callable[[Path], Any]) -> None:
    bad = sorted(images.glob("healthy/*.png"))[:2]
    for path in bad:
        break_it(path)
    line = train_refused(images / "labels.csv")
    assert all(path.name in line for path in bad)
    assert "--skip-unreadable" in line


def test_unreadable_images_are_left_out_and_counted_on_request(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = next(images.glob("healthy/*.png"))
    bad.write_bytes(b"")
    out = tmp_path / "out"
    arguments = ["train", images / "labels.csv", *TINY, *PROTOCOL, "--cache", tmp_path / "cache", "--out", out]
    assert run([*map(str, arguments), "--skip-unreadable"]) == 0
    assert bad.name in capsys.readouterr().err
    assert sum(open_run(out).metrics()["images"].values()) == 59


def test_predicting_an_unreadable_image(trained: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    bad = tmp_path / "scan.png"
    bomb(bad)
    line = refused("predict", trained / "onnx-fp32", bad)
    assert "scan.png" in line
    assert "89,478,485 pixels" in line


def test_a_cut_that_does_not_exist(train_refused: Train, images: Path) -> None:
    line = train_refused(images / "labels.csv", "--cut", "layer2.7")
    assert "'layer2.7'" in line
    assert "layer2.1" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--backbone", "resnet19"], "resnet18"),
        (["--method", "tll"], "ttl"),
        (["--head", "gab"], "gap"),
        (["--weights", "run/that/is/not"], "run/that/is/not"),
        (["--precision", "fp8"], "fp32"),
        (["--device", "tpu"], "cuda"),
        (["--split", "80/20"], "64/16/20"),
        (["--split", "80/20/20"], "1.2"),
        (["--batch-size", "0"], "--batch-size"),
        (["--lr", "-1"], "--learning-rate"),
        (["--image-size", "4"], "--image-size"),
        (["--channels", "0"], "--channels"),
        (["--patient-pattern", "("], "--patient-pattern"),
        (["--patient-column", "owner"], "patient_id"),
        (["--incremental"], "--target-auprc"),
    ],
)
def test_options_out_of_range(train_refused: Train, images: Path, options: list[str], said: str) -> None:
    assert said in train_refused(images / "labels.csv", *options)


def test_a_loss_that_is_not_a_number(images: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    out = tmp_path / "out"
    common = [images / "labels.csv", *TINY, "--cache", tmp_path / "cache", "--out", out]
    line = refused("train", *common, "--precision", "fp32", "--epochs", "3", "--batch-size", "8", "--lr", "1e20")
    assert "loss" in line
    assert "--learning-rate" in line


def test_a_folder_that_is_a_run_already(trained: Path, images: Path, refused: Callable[..., str]) -> None:
    before = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    line = refused("train", images / "labels.csv", *TINY, *PROTOCOL, "--out", trained)
    assert "--overwrite" in line
    assert {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()} == before


def test_an_artifact_that_is_there_already(trained: Path, refused: Callable[..., str]) -> None:
    assert "--overwrite" in refused("export", trained)


def test_export_of_what_is_no_run(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert str(tmp_path) in refused("export", tmp_path)
    assert "nowhere" in refused("export", tmp_path / "nowhere")


def test_unknown_format_and_precision(trained: Path, refused: Callable[..., str]) -> None:
    assert "onnx" in refused("export", trained, "--format", "onxn", "--out", trained / "new")
    assert "fp32" in refused("export", trained, "--precision", "int3", "--out", trained / "new")


def test_verify_of_a_changed_file(run_copy: Path, refused: Callable[..., str]) -> None:
    model = run_copy / "onnx-fp32" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    line = refused("verify", run_copy / "onnx-fp32")
    assert "model.onnx" in line


def test_bench_and_predict_of_what_is_not_there(trained: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "nowhere" in refused("bench", tmp_path / "nowhere")
    assert "nowhere" in refused("predict", tmp_path / "nowhere", tmp_path)
    assert "no image" in refused("predict", trained / "onnx-fp32", tmp_path)
    image = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(image)
    assert "json" in refused("predict", trained / "onnx-fp32", image, "--format", "jsn")
    assert "openvino" in refused("predict", trained / "onnx-fp32", image, "--runtime", "openvin")


def test_a_disk_that_fills_up_while_exporting(
    run_copy: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, pixel_cache: Path
) -> None:
    artifact = run_copy / "onnx-fp32"
    before = open_artifact(artifact).manifest

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("ttl_deploy.files.os.fsync", full)
        line = refused("export", run_copy, "--overwrite", "--cache", pixel_cache)
    assert "the disk is full" in line
    assert open_artifact(artifact).manifest == before
    assert run(["verify", str(artifact), "--cache", str(pixel_cache)]) == 0
    assert not [path for path in run_copy.iterdir() if path.name.startswith(".")]


def test_a_file_size_limit_while_training(images: Path, tmp_path: Path) -> None:
    """The operating system itself refuses to write more than 300 kB into one file."""
    out = tmp_path / "out"
    arguments = ["train", images / "labels.csv", *TINY, *PROTOCOL, "--cache", tmp_path / "cache", "--out", out]
    command = [sys.executable, "-m", "ttl_deploy", *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "larger than the file system allows" in done.stderr.splitlines()[-1]
    assert run(["train", "--resume", str(out), "--cache", str(tmp_path / "cache")]) == 0
    assert open_run(out).metrics()["epochs"] == 1
