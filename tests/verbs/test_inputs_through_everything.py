"""Images that are not square, and arrays of channels that are no colours: from data to the answer of a server."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from ttl_deploy.artifact import open_artifact
from ttl_deploy.cli.main import run as call
from ttl_deploy.errors import BadInputError
from ttl_deploy.prediction.predict import predict
from ttl_deploy.serve.model import ServedModel
from ttl_deploy.serve.server import Server
from ttl_deploy.serve.triton import config
from ttl_deploy.spec import Placement
from ttl_deploy.training.run import finished_run
from ttl_deploy.verbs import locate

KIT = Path(__file__).parents[2] / "export" / "python-onnxruntime" / "predict.py"
SHAPES = {"arrays": (2, 24, 40), "pictures": (3, 40, 24)}
BRIEF = ("--epochs", "3", "--batch-size", "16", "--lr", "1e-3", "--device", "cpu", "--precision", "fp32")


def drawn(generator: np.random.Generator, ill: bool, channels: int) -> NDArray[np.uint8]:
    """Noise of (50, 70) with a bright bar where it is ill; of two channels, only in the second."""
    pixels = generator.normal(100, 25, (50, 70, channels))
    if ill:
        pixels[18:32, 20:50, -1:] = 230
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(0)
    labels = np.arange(80) % 2
    np.savez(
        folder / "two.npz",
        train_images=np.stack([drawn(generator, bool(label), 2) for label in labels]),
        train_labels=labels,
    )
    lines = ["path,label"]
    for number, label in enumerate(labels):
        Image.fromarray(drawn(generator, bool(label), 3)).save(folder / f"{number}.png")
        np.save(folder / f"{number}.npy", drawn(generator, bool(label), 2))
        lines.append(f"{number}.png,{label}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return {"arrays": folder / "two.npz", "pictures": folder / "labels.csv"}


@pytest.fixture(scope="module")
def runs(data: dict[str, Path], pixel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each with its artifacts; that of arrays begins from the weights of that of pictures."""
    found: dict[str, Path] = {}
    where = ("--cache", str(pixel_cache))
    for kind in ("pictures", "arrays"):
        channels, height, width = SHAPES[kind]
        out = tmp_path_factory.mktemp("runs") / kind
        shape = ("--image-size", f"{height}x{width}", "--channels", str(channels))
        network = ("--backbone", "resnet18", "--cut", "layer2.1", "--weights", str(found.get("pictures", "random")))
        assert call(["train", str(data[kind]), *network, *shape, *BRIEF, "--out", str(out), *where]) == 0
        found[kind] = out
        for format in ("onnx", "openvino", "pt2"):
            assert call(["export", str(out), "--format", format, *where]) == 0
    return found


@pytest.fixture(scope="module")
def scans(data: dict[str, Path]) -> dict[str, list[str]]:
    folder = data["arrays"].parent
    return {
        kind: [str(folder / f"{i}{end}") for i in range(12)] for kind, end in (("arrays", ".npy"), ("pictures", ".png"))
    }


@pytest.mark.parametrize("kind", SHAPES)
def test_the_shape_is_written_once_and_the_graph_has_it(kind: str, runs: dict[str, Path]) -> None:
    manifest = json.loads((runs[kind] / "onnx-fp32" / "manifest.json").read_text())
    channels, height, width = SHAPES[kind]
    assert manifest["schema_version"] == 4
    assert manifest["model"]["input"] == {"kind": "image", "channels": channels, "size": [height, width]}
    assert set(manifest["preprocess"]) == {"crop", "high_bit_depth", "mean", "std"}
    (given,) = onnx.load(runs[kind] / "onnx-fp32" / "model.onnx").graph.input
    assert [d.dim_value for d in given.type.tensor_type.shape.dim][1:] == list(SHAPES[kind])
    assert finished_run(runs[kind]).config.model.input == open_artifact(runs[kind] / "onnx-fp32").manifest.model.input


@pytest.mark.parametrize("kind", SHAPES)
def test_it_learns(kind: str, runs: dict[str, Path]) -> None:
    """The illness is in one channel of two, in the part that the crop leaves: lose either and nothing is learnt."""
    assert finished_run(runs[kind]).metrics()["test"]["auroc"] > 0.9


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("format", ["onnx", "openvino", "pt2"])
def test_an_artifact_passes(kind: str, format: str, runs: dict[str, Path], pixel_cache: Path, tmp_path: Path) -> None:
    how = ("--cache", str(pixel_cache), "--allow-inconclusive", "--report", str(tmp_path / "parity.html"))
    assert call(["verify", str(runs[kind] / f"{format}-fp32"), *how]) == 0


@pytest.mark.parametrize("kind", SHAPES)
def test_pixels_in_the_graph_and_other_precisions(
    kind: str, runs: dict[str, Path], scans: dict[str, list[str]], pixel_cache: Path, tmp_path: Path
) -> None:
    where = ("--cache", str(pixel_cache), "--out")
    wanted = [p.label for p in predict(runs[kind] / "onnx-fp32", scans[kind])]
    embedded = ("export", str(runs[kind]), "--embed-preprocessing", *where, str(tmp_path / "pixels"))
    assert call([*embedded]) == 0
    assert open_artifact(tmp_path / "pixels").manifest.input_shape == (*SHAPES[kind][1:], SHAPES[kind][0])
    assert [p.label for p in predict(tmp_path / "pixels", scans[kind])] == wanted
    assert call(["export", str(runs[kind]), "--precision", "int8", *where, str(tmp_path / "int8")]) in (0, 1)
    found = locate.locate(runs[kind] / "onnx-fp32", against=runs[kind], cache=pixel_cache)
    assert found.kind == "nowhere"


@pytest.mark.parametrize("kind", SHAPES)
def test_the_kit_answers_as_predict_does(
    kind: str, runs: dict[str, Path], scans: dict[str, list[str]], capsys: Any
) -> None:
    found = importlib.util.spec_from_file_location("kit", KIT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    capsys.readouterr()
    assert module.main([str(runs[kind] / "onnx-fp32"), *scans[kind]]) == 0
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()[1:]]
    answers = list(predict(runs[kind] / "onnx-fp32", scans[kind]))
    assert [row[1] for row in rows] == [p.label for p in answers]
    said = np.array([row[2:] for row in rows], dtype=float)
    np.testing.assert_allclose(said, [list(p.probabilities.values()) for p in answers], atol=1e-5)


@pytest.fixture(scope="module", params=list(SHAPES))
def server(request: pytest.FixtureRequest, runs: dict[str, Path]) -> Iterator[tuple[str, Server]]:
    with (
        ServedModel(runs[request.param] / "onnx-fp32", name="m", placement=Placement(threads=1)) as model,
        Server(model, port=0) as running,
    ):
        yield request.param, running


def test_serve_answers_as_predict_does(
    server: tuple[str, Server], runs: dict[str, Path], scans: dict[str, list[str]]
) -> None:
    kind, running = server
    expected = list(predict(runs[kind] / "onnx-fp32", scans[kind][:4]))
    with httpx.Client(base_url=running.url, timeout=120, trust_env=False) as client:
        answers = [client.post("/predict", content=Path(scan).read_bytes()).json() for scan in scans[kind][:4]]
        told = client.get("/v2/models/m").json()["inputs"]
    for answer, row in zip(answers, expected, strict=True):
        assert answer["probabilities"] == pytest.approx(row.probabilities, abs=1e-5)
    assert told[0]["shape"] == [-1, *SHAPES[kind]]
    assert f"dims: [ {', '.join(map(str, SHAPES[kind]))} ]" in config(open_artifact(runs[kind] / "onnx-fp32"), "m")


def test_a_run_is_repeated_by_its_configuration(runs: dict[str, Path], pixel_cache: Path, tmp_path: Path) -> None:
    config = runs["arrays"] / "config.yaml"
    how = ("--config", str(config), "--out", str(tmp_path / "again"), "--cache", str(pixel_cache))
    assert call(["train", *how]) == 0
    for name in ("config.yaml", "best.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (runs["arrays"] / name).read_bytes()


def test_a_picture_is_no_input_of_two_channels(runs: dict[str, Path], scans: dict[str, list[str]]) -> None:
    with pytest.raises(BadInputError, match=r"0\.png.*takes 2 channels"):
        list(predict(runs["arrays"] / "onnx-fp32", scans["pictures"][:1]))


@pytest.mark.parametrize(
    ("kind", "channels", "said"),
    [
        ("pictures", "2", "takes 2 channels"),
        ("arrays", "3", "a model of 2 channels takes it"),
        ("arrays", "5", "the 5 channels"),
    ],
)
def test_channels_that_the_data_have_not_are_told_before_anything_is_read(
    kind: str, channels: str, said: str, data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"))
    how = ("--backbone", "resnet18", "--cut", "stem", "--weights", "random", "--channels", channels)
    assert call(["train", str(data[kind]), *how, *BRIEF, *where]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert said in line
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("measured_here")
def test_bench_measures_it(runs: dict[str, Path]) -> None:
    how = ("--runtime", "onnxruntime", "--rounds", "1", "--min-samples", "5", "--min-seconds", "0", "--no-roofline")
    assert call(["bench", str(runs["arrays"] / "onnx-fp32"), *how, "--allow-inconclusive"]) == 0


@pytest.mark.slow
def test_search_finds_a_cut(data: dict[str, Path], pixel_cache: Path, tmp_path: Path) -> None:
    how = ("--backbone", "resnet18", "--weights", "random", "--image-size", "24x40", "--channels", "2", *BRIEF)
    few = ("--max-params", "800k", "--no-latency", "--divisions", "2", "--epochs", "1")
    where = ("--cache", str(pixel_cache), "--out", str(tmp_path / "found"))
    assert call(["search", str(data["arrays"]), *how, *few, *where]) == 0
    assert finished_run(tmp_path / "found" / "winner").config.model.input.shape == (2, 24, 40)


@pytest.mark.parametrize("size", ["24x40", "40x24", "64"])
def test_cuts_shows_the_features_of_the_size(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["cuts", "resnet18", "--image-size", size, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    height, width = (int(side) for side in (size if "x" in size else f"{size}x{size}").split("x"))
    assert found[0]["feature_size"] == [-(-height // 4), -(-width // 4)]


@pytest.mark.parametrize("size", ["0", "4x400", "24x", "x", "5000", "24x40x3", "-32", "foo"])
def test_a_size_that_is_none_is_told_in_one_line(size: str, data: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    out = ("--out", str(tmp_path / "run"))
    assert call(["train", str(data["pictures"]), "--image-size", size, "--weights", "random", *out]) == 2
    assert call(["cuts", "resnet18", "--image-size", size]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "size" in lines[0]
    assert "size" in lines[1]
