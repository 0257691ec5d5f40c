"""What is printed and written whatever a file, a class or a folder is called, and whatever the output's encoding."""

import csv
import io
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ttl_deploy.cli import main
from ttl_deploy.errors import BadInputError
from ttl_deploy.prediction.file import columns_of

NAMES = (
    b"plain.png",
    "gr\u00f6\u00dfe.png".encode(),
    "\u80ba.png".encode(),
    b"gr\xf6\xdfe.png",
    b"two\nlines.png",
    b"a\rb.png",
)
"""ASCII, UTF-8 of one and three bytes, Latin-1, and line ends."""

SMALL = (
    *("--backbone", "resnet18", "--method", "ttl", "--cut", "block:1", "--weights", "random"),
    *("--image-size", "32", "--epochs", "1", "--lr", "1e-3", "--batch-size", "16"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images with names that some text cannot hold."""
    (tmp_path / "in").mkdir()
    for number, name in enumerate(NAMES):
        picture(tmp_path / "in" / os.fsdecode(name), number)
    return tmp_path / "in"


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (32, 32), dtype=np.uint8)
    with path.open("wb") as handle:
        Image.fromarray(values).save(handle, "PNG")


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    """Runs the program with a stdout of some encoding and gives its bytes."""

    def run(encoding: str, *arguments: str | Path) -> bytes:
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
        monkeypatch.setattr(sys, "argv", ["ttl-deploy", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == 0
        sys.stdout.flush()
        return raw.getvalue()

    return run


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "shift_jis"])
def test_no_encoding_ends_a_stream(encoding: str, folder: Path, trained: Path, printed: Callable[..., bytes]) -> None:
    artifact = trained / "onnx-fp32"
    rows = list(
        csv.reader(
            io.StringIO(printed(encoding, "predict", artifact, folder, "--format", "csv").decode("latin-1"), newline="")
        )
    )
    assert len(rows) == 1 + len(NAMES)
    assert all(len(row) == len(rows[0]) for row in rows)
    lines = printed(encoding, "predict", artifact, folder, "--format", "jsonl").decode("ascii").splitlines()
    assert {os.fsencode(Path(json.loads(line)["image"]).name) for line in lines} == set(NAMES)
    assert len(json.loads(printed(encoding, "predict", artifact, folder, "--json"))) == len(NAMES)
    printed(encoding, "predict", artifact, folder)


def test_names_that_are_not_utf_8_keep_their_bytes_on_the_way_out(
    folder: Path, trained: Path, printed: Callable[..., bytes]
) -> None:
    shown = printed("utf-8", "predict", trained / "onnx-fp32", folder, "--format", "csv")
    assert all(name in shown for name in NAMES)
    out = folder.parent / "out.csv"
    printed("utf-8", "predict", trained / "onnx-fp32", folder, "--out", out)
    assert out.read_bytes() == shown


def test_characters_that_an_encoding_lacks_are_spelled_out(
    folder: Path, trained: Path, printed: Callable[..., bytes]
) -> None:
    shown = printed("ascii", "predict", trained / "onnx-fp32", folder, "--format", "csv")
    assert rb"gr\xf6\xdfe.png" in shown
    assert rb"\u80ba.png" in shown
    assert b"gr\xf6\xdfe.png" in printed("latin-1", "predict", trained / "onnx-fp32", folder, "--format", "csv")


def test_file_names_that_are_not_utf_8_train(tmp_path: Path, printed: Callable[..., bytes]) -> None:
    """In a folder and a run that are so called as well; training, export with calibration, verification, again."""
    data, run = (tmp_path / os.fsdecode(name) for name in (b"d\xe4ta", b"r\xfcn"))
    for label in "ab":
        for number in range(18):
            name = (b"gr\xf6\xdfe_%d.png", b"two\nlines\xff_%d.png", b"a\rb\xff_%d.png")[number % 3] % number
            picture(data / label / os.fsdecode(name), number + 100 * (label == "b"))
    printed("utf-8", "train", data, *SMALL, "--out", run)
    for file in ("split.csv", "predictions.csv"):
        assert b"gr\xf6\xdfe_" in (run / file).read_bytes()
    printed("utf-8", "train", "--resume", run)
    printed("utf-8", "export", run, "--out", tmp_path / "a")
    assert json.loads(printed("utf-8", "verify", tmp_path / "a", "--against", run, "--json"))


def test_a_class_folder_that_is_not_utf_8_is_one_line(tmp_path: Path) -> None:
    from ttl_deploy.data.manifest import read_dataset

    for label in (b"gesund", b"l\xe4sion"):
        picture(tmp_path / os.fsdecode(label) / "0.png", 0)
    with pytest.raises(BadInputError, match="not UTF-8"):
        read_dataset(tmp_path)


def test_no_class_name_doubles_a_column(tmp_path: Path) -> None:
    assert columns_of(("healthy", "ill"), has_ids=False) == ("image", "label", "healthy", "ill")
    assert columns_of(("image", "label", "id"), has_ids=True) == (
        *("id", "image", "label"),
        *("probability_image", "probability_label", "probability_id"),
    )
    tricky = columns_of(("probability_label", "label", "image"), has_ids=True)
    assert len(set(tricky)) == 6


def test_predictions_of_classes_called_image_and_label_are_read_back(
    tmp_path: Path, printed: Callable[..., bytes]
) -> None:
    for number in range(24):
        picture(tmp_path / "img" / f"{number}.png", number)
    rows = "".join(f"img/{number}.png,{('image', 'label')[number % 2]}\n" for number in range(24))
    (tmp_path / "t.csv").write_text("path,label\n" + rows)
    said = printed("utf-8", "train", tmp_path / "t.csv", *SMALL, "--out", tmp_path / "run 1").decode()
    following = shlex.split(said.rsplit("next: ", 1)[1])
    assert following == ["ttl-deploy", "export", str(tmp_path / "run 1")]
    said = printed("utf-8", *following[1:], "--out", tmp_path / "an artifact").decode()
    first, second = (shlex.split(command) for command in said.rsplit("next: ", 1)[1].split(";"))
    assert first == ["ttl-deploy", "verify", str(tmp_path / "an artifact"), "--against", str(tmp_path / "run 1")]
    assert second == ["ttl-deploy", "bench", str(tmp_path / "an artifact")]
    image = tmp_path / "img" / "0.png"
    shown = printed("utf-8", "predict", tmp_path / "an artifact", image, "--format", "csv").decode()
    (row,) = csv.DictReader(io.StringIO(shown))
    assert row["image"] == str(image)
    assert row["label"] in ("image", "label")
    assert float(row["probability_image"]) + float(row["probability_label"]) == pytest.approx(1, abs=1e-5)
    out = tmp_path / "out.csv"
    for _ in range(2):
        printed("utf-8", "predict", tmp_path / "an artifact", image, "--out", out)
    assert out.read_text() == shown


def test_the_way_out_of_a_run_with_a_space_can_be_pasted(tmp_path: Path) -> None:
    from ttl_deploy.artifact import open_artifact

    run = tmp_path / "my run"
    run.mkdir()
    (run / "config.yaml").write_text("")
    with pytest.raises(BadInputError) as caught:
        open_artifact(run)
    command = str(caught.value).split("`")[1]
    assert shlex.split(command)[-1] == str(run)
