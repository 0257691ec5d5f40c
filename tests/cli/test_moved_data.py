"""Data that moved: every command that reads a run's images takes the place where they are now, and no other images."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ttl_deploy.cli.main import run
from ttl_deploy.training.run import finished_run, open_run, run_data

TINY = ["--backbone", "resnet18", "--cut", "layer1.0", "--image-size", "32", "--weights", "random", "--device", "cpu"]

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def do(*arguments: str | Path) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return do


@pytest.fixture(scope="module")
def workshop(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from a table, whose images lie elsewhere now."""
    root = tmp_path_factory.mktemp("moved")
    shutil.copytree(synthetic, root / "before")
    options = [*TINY, "--epochs", "1", "--batch-size", "16", "--precision", "fp32"]
    place = ["--cache", str(root / "cache"), "--out", str(root / "run")]
    assert run(["train", str(root / "before" / "labels.csv"), *options, *place]) == 0
    assert run(["export", str(root / "run"), "--cache", str(root / "cache")]) == 0
    (root / "before").rename(root / "after")
    return root


def one_line(error: str) -> str:
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in error
    return lines[0]


@pytest.mark.parametrize("command", ["export", "verify", "train"])
def test_images_that_are_gone_are_told_with_the_option_that_helps(workshop: Path, call: Call, command: str) -> None:
    subject = {"export": ["run", "--overwrite"], "verify": ["run/onnx-fp32"], "train": ["--resume", "run"]}[command]
    arguments = [str(workshop / word) if word.startswith("run") else word for word in subject]
    code, _, error = call(command, *arguments, "--cache", workshop / "cache")
    line = one_line(error)
    assert code == 2
    assert str(workshop / "before" / "labels.csv") in line
    assert "--data" in line


@pytest.mark.parametrize("where", ["after", "after/labels.csv"])
def test_export_takes_the_images_where_they_are_now(workshop: Path, call: Call, where: str) -> None:
    out = workshop / f"export-{Path(where).suffix}"
    code, _, error = call("export", workshop / "run", "--data", workshop / where, "--out", out, "--overwrite")
    assert code == 0, error
    files = [
        json.loads((folder / "manifest.json").read_text())["files"] for folder in (out, workshop / "run/onnx-fp32")
    ]
    assert files[0]["model.onnx"]["sha256"] == files[1]["model.onnx"]["sha256"]


def test_verify_of_moved_images_is_the_check_on_the_test_split(workshop: Path, call: Call) -> None:
    arguments = ["verify", workshop / "run" / "onnx-fp32", "--data", workshop / "after", "--json"]
    code, out, error = call(*arguments, "--cache", workshop / "cache")
    assert code in (0, 1), error
    found = json.loads(out)
    assert found["images"] == "test"
    assert found["comparison"]["images"] == open_run(workshop / "run").metrics()["images"]["test"]


def test_resuming_takes_the_images_where_they_are_now_and_remembers(workshop: Path, call: Call, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(workshop / "run", tmp_path / "run"))
    code, _, error = call("train", "--resume", copy, "--data", workshop / "after", "--epochs", "2")
    assert code == 0, error
    assert finished_run(copy).metrics()["epochs"] == 2
    assert open_run(copy).config.data == str(workshop / "after" / "labels.csv")
    assert len(run_data(open_run(copy)).ids) == 60


def other_content(folder: Path) -> None:
    Image.new("L", (32, 32), 77).save(next(folder.glob("lesion/*.png")))


def other_label(folder: Path) -> None:
    table = folder / "labels.csv"
    lines = table.read_text().splitlines()
    lines[1] = (
        lines[1].replace(",lesion,", ",healthy,")
        if ",lesion," in lines[1]
        else lines[1].replace(",healthy,", ",lesion,")
    )
    table.write_text("\n".join(lines))


def fewer(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-3]))


@pytest.mark.parametrize(
    ("change", "how"),
    [(other_content, "1 changed"), (other_label, "1 labelled otherwise"), (fewer, "3 missing")],
)
def test_other_images_are_refused_in_one_line(
    workshop: Path, call: Call, tmp_path: Path, change: Callable[[Path], None], how: str
) -> None:
    other = Path(shutil.copytree(workshop / "after", tmp_path / "other"))
    change(other)
    before = (workshop / "run" / "config.yaml").read_bytes()
    for arguments in (["export", workshop / "run", "--overwrite"], ["train", "--resume", workshop / "run"]):
        code, _, error = call(*arguments, "--data", other, "--cache", tmp_path / "cache")
        line = one_line(error)
        assert code == 2
        assert f"not the images of this run: {how} since" in line
        assert "--data" not in line.split(";")[-1]
    assert (workshop / "run" / "config.yaml").read_bytes() == before


@pytest.mark.usefixtures("measured_here")
def test_bench_takes_the_option_and_reads_no_image(workshop: Path, call: Call) -> None:
    timing = [
        "--min-samples",
        "5",
        "--min-seconds",
        "0.05",
        "--rounds",
        "1",
        "--no-roofline",
        "--no-whole",
        "--allow-inconclusive",
    ]
    arguments = [workshop / "run" / "onnx-fp32", "--runtime", "onnxruntime", "--torch", "eager", *timing]
    assert call("bench", *arguments, "--data", workshop / "after", "--cache", workshop / "cache")[0] == 0
    code, _, error = call("bench", *arguments, "--data", workshop / "nowhere")
    assert code == 2
    assert "nowhere" in one_line(error)
