"""An operating point from training to the answer of a server: chosen on validation, kept, decided by, checked."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from PIL import Image
from scipy.special import softmax
from small import MODEL, PROTOCOL, but

from ttl_deploy.artifact import MANIFEST, open_artifact, update_manifest
from ttl_deploy.cli.main import run as call
from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.files import sha256
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.parity.verify import verify
from ttl_deploy.prediction.predict import predict
from ttl_deploy.serve.model import ServedModel
from ttl_deploy.serve.server import Server
from ttl_deploy.serve.triton import config
from ttl_deploy.spec import Data, FileRecord, Placement
from ttl_deploy.training.run import finished_run, read_predictions
from ttl_deploy.training.train import train

RULE = "sensitivity=0.95"


@pytest.fixture(scope="module")
def pointed(synthetic: Path, pixel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an operating point, and its artifacts in ONNX and OpenVINO."""
    folder = tmp_path_factory.mktemp("runs") / "pointed"
    protocol = but(PROTOCOL, epochs=2, operating_point=RULE)
    train(Data(path=synthetic / "labels.csv", cache=pixel_cache), but(MODEL, cut="layer1.1"), protocol, folder)
    for format in ("onnx", "openvino"):
        export_run(folder, format=format, cache=pixel_cache)
    return folder


@pytest.fixture(scope="module")
def threshold(pointed: Path) -> float:
    point = finished_run(pointed).operating_point
    assert point is not None
    return point.threshold


@pytest.fixture(scope="module")
def scans(synthetic: Path) -> list[str]:
    return [str(path) for path in sorted(synthetic.glob("*/*.png"))]


def edited(folder: Path, file: str, change: Any) -> None:
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))


def test_the_run_records_what_the_rule_does_on_both_sides(pointed: Path, threshold: float) -> None:
    """Counted again from the rows of `predictions.csv`."""
    with (pointed / "predictions.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    logits = np.array([[float(row["logit_healthy"]), float(row["logit_lesion"])] for row in rows])
    scores = softmax(logits, axis=1)[:, 1]
    recorded = json.loads((pointed / "metrics.json").read_text())["operating_point"]
    for side in ("val", "test"):
        here = np.array([row["split"] == side for row in rows])
        ill = here & np.array([row["label"] == "lesion" for row in rows])
        found, kept = recorded[side]["sensitivity"], recorded[side]["specificity"]
        assert (found["hits"], found["images"]) == (int((scores[ill] >= threshold).sum()), int(ill.sum()))
        healthy = here & ~ill
        assert (kept["hits"], kept["images"]) == (int((scores[healthy] < threshold).sum()), int(healthy.sum()))
    val = recorded["val"]["sensitivity"]
    assert val["hits"] / val["images"] >= 0.95


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_predict_decides_by_it(pointed: Path, threshold: float, scans: list[str], format: str) -> None:
    found = list(predict(pointed / f"{format}-fp32", scans))
    assert [p.label for p in found] == [
        "lesion" if p.probabilities["lesion"] >= threshold else "healthy" for p in found
    ]
    likelier = [max(p.probabilities, key=p.probabilities.__getitem__) for p in found]
    assert [p.label for p in found] != likelier, "this network cannot tell the two ways to decide apart"


def test_verify_passes_and_says_where_the_decision_lies(
    pointed: Path, pixel_cache: Path, threshold: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["verify", str(pointed / "onnx-fp32"), "--cache", str(pixel_cache)]) == 0
    assert f"same label (lesion from {threshold:.4f})" in capsys.readouterr().out


def test_an_artifact_that_decides_otherwise_fails(pointed: Path, pixel_cache: Path, tmp_path: Path) -> None:
    other = export_run(pointed, out=tmp_path / "other", operating_point="0.97", cache=pixel_cache)
    assert verify(other.folder, against=pointed, cache=pixel_cache).verdict.result == "pass"
    found = verify(other.folder, against=pointed / "openvino-fp32", cache=pixel_cache)
    assert (found.verdict.result, found.verdict.measure) == ("fail", "operating point")
    assert "lesion is said from 0.9700 on (0.97) in the artifact" in found.record.reason
    assert not found.acceptable


@pytest.mark.parametrize("format", ["onnx", "openvino", "pt2", "torchscript"])
def test_a_threshold_that_the_model_file_does_not_know_is_refused(
    pointed: Path, pixel_cache: Path, scans: list[str], tmp_path: Path, format: str
) -> None:
    made = export_run(pointed, format=format, out=tmp_path / format, cache=pixel_cache).folder
    for change in (lambda m: m["operating_point"].update(threshold=0.9), lambda m: m.pop("operating_point")):
        before = (made / MANIFEST).read_bytes()
        edited(made, MANIFEST, change)
        with pytest.raises(IntegrityError, match="operating_point"):
            list(predict(made, scans[:1]))
        (made / MANIFEST).write_bytes(before)


def test_a_threshold_that_the_rule_does_not_give_is_refused(pointed: Path, pixel_cache: Path, tmp_path: Path) -> None:
    """A graph whose own metadata were forged too: only the run's predictions tell."""
    made = open_artifact(Path(shutil.copytree(pointed / "onnx-fp32", tmp_path / "forged")))
    point = made.manifest.operating_point
    assert point is not None
    graph = onnx.load(made.model_path)
    for entry in graph.metadata_props:
        if entry.key.endswith("operating_point"):
            entry.value = json.dumps({"rule": RULE, "threshold": 0.75})
    onnx.save(graph, made.model_path)
    record = FileRecord(sha256=sha256(made.model_path), size=made.model_path.stat().st_size)
    files = {**made.manifest.files, made.manifest.model_file: record}
    forged = update_manifest(made, files=files, operating_point=point.model_copy(update={"threshold": 0.75}))
    with pytest.raises(IntegrityError, match=r"operating point 0\.75.*sensitivity=0\.95 gives"):
        verify(forged.folder, against=pointed, cache=pixel_cache)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["operating_point"]["point"].update(threshold=0.123),
        lambda m: m["operating_point"]["test"]["sensitivity"].update(hits=1),
        lambda m: m["operating_point"]["val"]["specificity"].update(images=999),
    ],
)
def test_a_run_whose_recorded_point_was_changed_is_refused(pointed: Path, tmp_path: Path, change: Any) -> None:
    copy = Path(shutil.copytree(pointed, tmp_path / "run"))
    edited(copy, "metrics.json", change)
    with pytest.raises(IntegrityError, match=r"metrics\.json says"):
        finished_run(copy)


def test_rows_of_another_point_are_not_added_to(
    pointed: Path, pixel_cache: Path, scans: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    predict(pointed / "onnx-fp32", scans[:2], out=out)
    other = export_run(pointed, out=tmp_path / "other", operating_point="youden", cache=pixel_cache)
    with pytest.raises(BadInputError, match="operating_point"):
        predict(other.folder, scans, out=out)


@pytest.fixture(scope="module")
def server(pointed: Path) -> Iterator[Server]:
    with (
        ServedModel(pointed / "onnx-fp32", name="chest", placement=Placement(threads=1)) as model,
        Server(model, port=0) as running,
    ):
        yield running


def test_serve_decides_by_it_and_tells_it(server: Server, pointed: Path, threshold: float, scans: list[str]) -> None:
    labels = [p.label for p in predict(pointed / "onnx-fp32", scans[:8])]
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        answers = [client.post("/predict", content=Path(scan).read_bytes()).json() for scan in scans[:8]]
        assert [answer["label"] for answer in answers] == labels
        said = client.get("/v2/models/chest/config").json()["parameters"]["operating_point"]["string_value"]
    assert said == f"{threshold!r} {RULE}"


def test_triton_is_told_the_threshold(pointed: Path, threshold: float) -> None:
    text = config(open_artifact(pointed / "onnx-fp32"), "chest")
    assert f'key: "operating_point" value {{ string_value: "{threshold!r} {RULE}" }}' in text


def test_the_card_has_sensitivity_and_specificity_with_their_intervals(pointed: Path, threshold: float) -> None:
    card = (pointed / "onnx-fp32" / "model_card.md").read_text()
    assert f"lesion is said from a probability of {threshold:.4f} on ({RULE}" in card
    assert "| sensitivity | " in card
    assert "| negative predictive value | " in card


def test_an_artifact_without_a_point_is_as_before(trained: Path) -> None:
    """Programs of version 1, and the kits, read it."""
    manifest = json.loads((trained / "onnx-fp32" / MANIFEST).read_text())
    assert manifest["schema_version"] == 1
    assert "operating_point" not in manifest
    assert "operating_point" not in (trained / "config.yaml").read_text()
    assert "operating_point" not in json.loads((trained / "metrics.json").read_text())


def test_a_reader_of_version_1_refuses_an_artifact_that_decides_by_a_point(pointed: Path) -> None:
    assert json.loads((pointed / "onnx-fp32" / MANIFEST).read_text())["schema_version"] == 2


def test_a_sigmoid_does_not_go_with_a_point(pointed: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="other probabilities"):
        export_run(pointed, out=tmp_path / "x", activation="sigmoid")


def test_a_softmax_in_the_graph_changes_no_decision(
    pointed: Path, pixel_cache: Path, scans: list[str], tmp_path: Path
) -> None:
    made = export_run(pointed, out=tmp_path / "x", activation="softmax", cache=pixel_cache)
    plain = [p.label for p in predict(pointed / "onnx-fp32", scans)]
    assert [p.label for p in predict(made.folder, scans)] == plain


def three_classes(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            pixels = generator.integers(0, 255, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


TINY = ("--backbone", "resnet18", "--weights", "random", "--image-size", "32")


@pytest.mark.parametrize(
    "command", [("train", "--cut", "layer1.0"), ("train", "--cut", "layer1.0", "--repeats", "2"), ("search",)]
)
def test_three_classes_are_refused_before_an_image_is_decoded(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = three_classes(tmp_path / "data")

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("images were decoded")

    monkeypatch.setattr("ttl_deploy.data.prepared.PixelCache", fail)
    name, *more = command
    out = ["--out", str(tmp_path / "out"), "--operating-point", "youden"]
    assert call([name, str(data), *TINY, *more, *out]) == 2
    assert "lies between two classes, not 3 (a, b, c)" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rule", ["best", "sensitivity=95", "1.2"])
@pytest.mark.parametrize("command", ["train", "export"])
def test_a_wrong_rule_is_one_line_with_the_right_ones(
    command: str, rule: str, pointed: Path, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = [str(synthetic), *TINY] if command == "train" else [str(pointed)]
    assert call([command, *what, "--out", str(tmp_path / "out"), "--operating-point", rule]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "sensitivity=0.95" in line or "below 1" in line
    assert not (tmp_path / "out").exists()


def test_train_and_export_print_it(
    synthetic: Path, pixel_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, cache = tmp_path / "run", ("--cache", str(pixel_cache))
    recipe = ("--cut", "layer1.0", "--epochs", "1", "--precision", "fp32", "--operating-point", "youden")
    assert call(["train", str(synthetic / "labels.csv"), *TINY, *recipe, "--out", str(run), *cache]) == 0
    said = read_predictions(finished_run(run)).side("test")
    table = capsys.readouterr().out
    assert "lesion from" in table
    assert f"of {int((said.labels == 1).sum())}" in next(line for line in table.splitlines() if "sensitivity" in line)
    assert call(["export", str(run), "--operating-point", "specificity=0.5", *cache]) == 0
    assert "(specificity=0.5)" in capsys.readouterr().out
    assert "operating_point: youden" in (run / "config.yaml").read_text()
