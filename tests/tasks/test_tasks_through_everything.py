"""Several labels, and grades: from a table to the answer of a server, through every command."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from ttl_deploy.artifact import open_artifact
from ttl_deploy.cli.main import run as call
from ttl_deploy.prediction.predict import predict
from ttl_deploy.serve.model import ServedModel
from ttl_deploy.serve.server import Server
from ttl_deploy.serve.triton import config
from ttl_deploy.spec import Placement
from ttl_deploy.training.run import finished_run, read_predictions

FINDINGS = ("Cardiomegaly", "Edema", "Support Devices")
GRADES = ("0", "1", "2", "3")
KINDS = ("multilabel", "ordinal", "one")
NETWORK = ("--backbone", "resnet18", "--weights", "random", "--image-size", "32")
BRIEF = ("--epochs", "3", "--batch-size", "16", "--lr", "1e-3", "--device", "cpu", "--precision", "fp32")
ASKED = {
    "multilabel": ("--task", "multilabel", "--classes", ",".join(FINDINGS), "--pos-weight", "balanced"),
    "ordinal": ("--task", "ordinal", "--positive-from", "2", "--operating-point", "sensitivity=0.9"),
    "one": ("--task", "multilabel", "--classes", "Edema", "--operating-point", "youden"),
}


def picture(generator: np.random.Generator, marks: tuple[int, ...]) -> Image.Image:
    """Noise, with a bright corner, a bright bar or a dark one for each mark."""
    pixels = generator.normal(110, 25, (32, 32))
    for place, value, mark in zip(
        (np.s_[2:10, 2:10], np.s_[14:18], np.s_[:, 24:28]), (230, 220, 20), marks, strict=True
    ):
        if mark > 0:
            pixels[place] = value
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table as CheXpert's: a column for each finding, of 1.0, 0.0, -1.0 and blank; two images of every patient."""
    folder = tmp_path_factory.mktemp("chest")
    generator = np.random.default_rng(0)
    lines = [",".join(("Path", "Sex", "patient_id", *FINDINGS))]
    for number in range(96):
        marks = tuple((generator.random(3) < (0.5, 0.4, 0.5)).astype(int).tolist())
        picture(generator, marks).save(folder / f"{number}.png")
        cells = [generator.choice([f"{mark}.0", "-1.0", ""], p=[0.86, 0.07, 0.07]) for mark in marks]
        lines.append(",".join((f"{number}.png", "Male", f"p{number // 2}", *cells)))
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder / "train.csv"


@pytest.fixture(scope="module")
def grades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grade is how many of the marks an image has."""
    folder = tmp_path_factory.mktemp("grades")
    generator = np.random.default_rng(1)
    lines = ["path,label"]
    for number in range(96):
        grade = number % 4
        picture(generator, tuple(int(grade > k) for k in range(3))).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{grade}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def data(chest: Path, grades: Path) -> dict[str, Path]:
    return {"multilabel": chest, "ordinal": grades, "one": chest}


@pytest.fixture(scope="module")
def runs(data: dict[str, Path], pixel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each task, with its artifacts in ONNX and OpenVINO."""
    found = {}
    for kind in KINDS:
        found[kind] = tmp_path_factory.mktemp("runs") / kind
        where = ("--cache", str(pixel_cache))
        how = (*NETWORK, "--cut", "layer2.1", *BRIEF, *ASKED[kind], "--out", str(found[kind]))
        assert call(["train", str(data[kind]), *how, *where]) == 0
        for format in ("onnx", "openvino"):
            assert call(["export", str(found[kind]), "--format", format, *where]) == 0
    return found


@pytest.fixture(scope="module")
def scans(data: dict[str, Path]) -> dict[str, list[str]]:
    return {kind: [str(path) for path in sorted(table.parent.glob("*.png"))[:24]] for kind, table in data.items()}


def test_a_run_of_labels_has_the_metrics_of_its_own_predictions(runs: dict[str, Path]) -> None:
    """By scikit-learn, from the rows of `predictions.csv`, in which an unknown label has a question mark."""
    with (runs["multilabel"] / "predictions.csv").open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == "test"]
    areas = []
    for name in FINDINGS:
        known = [row for row in rows if f"?{name}" not in row["label"].split("|")]
        assert len(known) < len(rows) or name != "Edema"
        areas.append(
            roc_auc_score([name in r["label"].split("|") for r in known], [float(r[f"logit_{name}"]) for r in known])
        )
    metrics = json.loads((runs["multilabel"] / "metrics.json").read_text())
    assert metrics["test"]["auroc"] == pytest.approx(np.mean(areas))
    assert metrics["test"]["auroc"] > 0.6
    assert [single["name"] for single in metrics["test"]["per_class"]] == list(FINDINGS)


def test_a_run_of_grades_selects_by_kappa_and_divides_at_the_positive_ones(runs: dict[str, Path]) -> None:
    run = finished_run(runs["ordinal"])
    history, metrics = run.history(), run.metrics()
    best = max(range(len(history)), key=lambda epoch: history[epoch]["val_quadratic_kappa"])
    assert metrics["best_epoch"] == best + 1
    test = read_predictions(run).side("test")
    assert metrics["test"]["quadratic_kappa"] == pytest.approx(
        cohen_kappa_score(test.labels, test.logits.argmax(axis=1), weights="quadratic")
    )
    found = metrics["operating_point"]["val"]["sensitivity"]
    val = read_predictions(run).side("val")
    assert found["images"] == int((val.labels >= 2).sum())
    assert found["hits"] / found["images"] >= 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_an_artifact_passes_and_decides_as_its_run(
    kind: str, format: str, runs: dict[str, Path], scans: dict[str, list[str]], pixel_cache: Path
) -> None:
    folder = runs[kind] / f"{format}-fp32"
    where = ("--cache", str(pixel_cache))
    assert call(["verify", str(folder), *where, "--allow-inconclusive"]) == 0
    manifest = open_artifact(folder).manifest
    assert (manifest.schema_version, manifest.model.task.kind) == (3, "ordinal" if kind == "ordinal" else "multilabel")
    answers = list(predict(folder, scans[kind]))
    if kind == "ordinal":
        assert manifest.operating_point is not None
        said = [p.probabilities["2"] + p.probabilities["3"] >= manifest.operating_point.threshold for p in answers]
        assert said == [p.label in ("2", "3") for p in answers]
    else:
        least = 0.5 if manifest.operating_point is None else manifest.operating_point.threshold
        assert [p.label for p in answers] == [
            "|".join(name for name, value in p.probabilities.items() if value >= least) for p in answers
        ]
    assert len({p.label for p in answers}) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_another_engine_and_other_precisions_are_judged_too(
    kind: str, runs: dict[str, Path], pixel_cache: Path, tmp_path: Path
) -> None:
    where = ("--cache", str(pixel_cache))
    for precision in ("fp16", "int8"):
        out = tmp_path / precision
        code = call(["export", str(runs[kind]), "--precision", precision, "--out", str(out), *where])
        assert code in (0, 1)  # so few images may be a real difference to int8
        assert out.exists() == (code == 0)
    other = ("--against", str(runs[kind] / "openvino-fp32"), "--allow-inconclusive")
    assert call(["verify", str(runs[kind] / "onnx-fp32"), *other, *where]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_may_end_in_the_tasks_activation_and_in_no_other(
    kind: str, runs: dict[str, Path], scans: dict[str, list[str]], pixel_cache: Path, tmp_path: Path
) -> None:
    right, wrong = ("softmax", "sigmoid") if kind == "ordinal" else ("sigmoid", "softmax")
    plain = [p.label for p in predict(runs[kind] / "onnx-fp32", scans[kind])]
    how = ("export", str(runs[kind]), "--cache", str(pixel_cache), "--activation")
    assert call([*how, right, "--out", str(tmp_path / "right")]) == 0
    assert [p.label for p in predict(tmp_path / "right", scans[kind])] == plain
    assert call([*how, wrong, "--out", str(tmp_path / "wrong")]) == 2
    assert not (tmp_path / "wrong").exists()


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, runs: dict[str, Path]) -> Iterator[tuple[str, Server]]:
    artifact = runs[request.param] / "onnx-fp32"
    with ServedModel(artifact, name="chest", placement=Placement(threads=1)) as model, Server(model, port=0) as running:
        yield request.param, running


def test_serve_answers_as_predict_does_and_tells_the_task(
    server: tuple[str, Server], runs: dict[str, Path], scans: dict[str, list[str]]
) -> None:
    kind, running = server
    expected = list(predict(runs[kind] / "onnx-fp32", scans[kind][:6]))
    with httpx.Client(base_url=running.url, timeout=120, trust_env=False) as client:
        answers = [client.post("/predict", content=Path(scan).read_bytes()).json() for scan in scans[kind][:6]]
        told = client.get("/v2/models/chest/config").json()["parameters"]
    assert [answer["label"] for answer in answers] == [p.label for p in expected]
    for answer, row in zip(answers, expected, strict=True):
        assert answer["probabilities"] == pytest.approx(row.probabilities, abs=1e-5)
    manifest = open_artifact(runs[kind] / "onnx-fp32").manifest
    assert {key: value["string_value"] for key, value in told.items() if key != "max_batch"} == manifest.told
    assert 'key: "task"' in config(open_artifact(runs[kind] / "onnx-fp32"), "chest")


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_go_to_a_file_and_on_from_there(
    kind: str, runs: dict[str, Path], scans: dict[str, list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    for images in (scans[kind][:3], scans[kind]):
        assert call(["predict", str(runs[kind] / "onnx-fp32"), *images, "--out", str(out)]) == 0
    with out.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["label"] for row in rows] == [p.label for p in predict(runs[kind] / "onnx-fp32", scans[kind])]


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_and_the_report_name_the_tasks_metrics(
    kind: str, runs: dict[str, Path], pixel_cache: Path, tmp_path: Path
) -> None:
    card = (runs[kind] / "onnx-fp32" / "model_card.md").read_text()
    page = tmp_path / "parity.html"
    how = ("--report", str(page), "--cache", str(pixel_cache), "--allow-inconclusive")
    assert call(["verify", str(runs[kind] / "onnx-fp32"), *how]) == 0
    assert ("quadratic kappa" in card) == ("quadratic kappa" in page.read_text()) == (kind == "ordinal")
    assert ("none of these" in card) == (kind == "ordinal")


@pytest.mark.usefixtures("measured_here")
@pytest.mark.parametrize("kind", KINDS)
def test_bench_measures_it(kind: str, runs: dict[str, Path]) -> None:
    how = ("--runtime", "onnxruntime", "--rounds", "1", "--min-samples", "5", "--min-seconds", "0", "--no-whole")
    assert call(["bench", str(runs[kind] / "onnx-fp32"), *how, "--no-roofline", "--allow-inconclusive"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "metric", "strategy"),
    [
        ("multilabel", "auprc", "auto"),
        ("ordinal", "quadratic_kappa", "exhaustive"),
        ("one", "auroc", "exhaustive"),
    ],
)
def test_search_finds_a_cut(
    kind: str, metric: str, strategy: str, data: dict[str, Path], pixel_cache: Path, tmp_path: Path
) -> None:
    """By probes of every label, and by trainings alone."""
    how = (*NETWORK, *BRIEF, *ASKED[kind], "--epochs", "1", "--metric", metric, "--strategy", strategy)
    out = tmp_path / "found"
    few = ("--max-params", "100k" if strategy == "exhaustive" else "800k", "--no-latency", "--divisions", "2")
    where = ("--cache", str(pixel_cache), "--out", str(out))
    assert call(["search", str(data[kind]), *how, *few, *where]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["metric"] == metric
    assert finished_run(out / "winner").config.model.task.kind == ("ordinal" if kind == "ordinal" else "multilabel")


@pytest.mark.parametrize("kind", KINDS)
def test_new_images_in_the_same_form_are_read_with_their_labels(
    kind: str, runs: dict[str, Path], data: dict[str, Path], pixel_cache: Path, tmp_path: Path
) -> None:
    """A table of some of the images, which is not the run's own; a column for each label where that has one."""
    first, *rows = data[kind].read_text().splitlines()
    table = tmp_path / data[kind].name
    pictures = [f"{data[kind].parent}/{row}" for row in rows[:40]]
    table.write_text("\n".join((first.replace("Path", "path"), *pictures)) + "\n")
    report = tmp_path / "parity.html"
    how = ("--data", str(table), "--report", str(report), "--cache", str(pixel_cache), "--allow-inconclusive")
    assert call(["verify", str(runs[kind] / "onnx-fp32"), *how]) == 0
    assert "The images have no labels" not in report.read_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["model"]["task"].update(kind="segmentation"),
        lambda m: m["model"]["task"].update(positive_from="9"),
        lambda m: m["model"].update(classes=["a", "b", "c", "d"]),
        lambda m: m["model"].pop("task"),
    ],
)
def test_a_manifest_whose_task_was_changed_is_refused(
    change: Any, runs: dict[str, Path], scans: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(runs["ordinal"] / "onnx-fp32", tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert call(["predict", str(copy), scans["ordinal"][0]]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "manifest.json" in line
    assert "unforeseen" not in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--task", "multi"), "unknown task 'multi'"),
        (("--task", "multilabel", "--class-weights", "balanced"), "pass --pos-weight balanced"),
        (("--pos-weight", "balanced"), "pass --class-weights balanced"),
        (("--positive-from", "1"), "--task multiclass has no grades"),
        (("--task", "ordinal", "--classes", "0,1,2,3", "--positive-from", "7"), "not with '7'"),
        (("--task", "ordinal", "--classes", "0,1,2,3", "--operating-point", "youden"), "--positive-from"),
        (("--task", "multilabel", "--classes", "a,b", "--operating-point", "youden"), "one label, not of 2"),
        (("--task", "multilabel", "--classes", "a|b,c"), "'a|b'"),
        (("--unknown", "maybe"), "ignore"),
    ],
)
@pytest.mark.parametrize("command", ["train", "search"])
def test_what_does_not_fit_a_task_is_one_line_before_the_data_is_read(
    command: str,
    options: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("the data was read")

    monkeypatch.setattr("ttl_deploy.data.manifest._list", decoded)
    cut = ("--cut", "layer1.0") if command == "train" else ()
    (tmp_path / "labels.csv").write_text("path,label\n")
    assert call([command, str(tmp_path / "labels.csv"), *NETWORK, *cut, *options, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert said in line


def test_a_metric_of_another_task_is_refused(grades: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["search", str(grades), *NETWORK, "--metric", "quadratic_kappa", "--out", str(tmp_path / "o")]) == 2
    assert "--task multiclass is not measured by quadratic_kappa" in capsys.readouterr().err
