"""`ttl-deploy report`: it says what runs and artifacts say, and nothing of damaged ones."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from outlined import train_masks, write_pairs
from written_run import two_classes, write_run

from ttl_deploy.artifact import Artifact
from ttl_deploy.cli.main import run
from ttl_deploy.latency.measure import Measurement
from ttl_deploy.spec import TaskSpec
from ttl_deploy.verbs import report as verb
from ttl_deploy.verbs.report import report

CLASSES = ("healthy", "ill")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return write_run(tmp_path / "made", CLASSES, *two_classes(), rule="youden")


def page_of(*paths: Path, out: Path) -> str:
    report(paths, out=out, overwrite=True)
    return out.read_text()


def tables_of(page: str, name: str) -> list[list[str]]:
    """The rows of a figure's numbers, as its link has them."""
    (link,) = re.findall(rf'download="{name}\.csv" href="data:text/csv;charset=utf-8;base64,([^"]*)"', page)
    return list(csv.reader(io.StringIO(base64.b64decode(link).decode())))


def bench_file(path: Path, label: str, parameters: int, macs: int) -> Path:
    samples = tuple(float(k % 7 + 1) for k in range(100))
    measured = Measurement(
        label=label,
        runtime="onnxruntime",
        device="cpu",
        precision="fp32",
        batch=1,
        threads=2,
        warmup_runs=1,
        warm=True,
        samples_ms=samples,
        rounds=(100,),
        mean_ms=4.0,
        std_ms=2.0,
        p50_ms=3.5,
        p90_ms=7.0,
        p95_ms=None,
        p99_ms=None,
        throughput=250.0,
        peak_rss_mib=1.0,
        cold_start_s=1.0,
        hardware={"cpu": "a fast one"},
        libraries={"numpy": "2"},
        started="then",
    )
    row = {"model": label, "role": "own", "parameters": parameters, "macs": macs, "ratio": 2.5}
    path.write_text(json.dumps({"rows": [{**row, "measurement": measured.model_dump(mode="json")}], "program": "0"}))
    return path


def test_the_answer_comes_first_and_is_what_the_run_recorded(made: Path, tmp_path: Path) -> None:
    page = page_of(made, out=tmp_path / "r.html")
    test = json.loads((made / "metrics.json").read_text())["test"]
    low, high = test["auroc_interval"]
    said = f"AUROC of {test['auroc']:.3f} (95 % interval {low:.3f} to {high:.3f}) on 40 test images of 20 patients"
    assert said in page
    assert page.index(said) < page.index("<table")
    assert "resnet18 TTL layer1.0" in page
    assert "1.23 million parameters" in page
    assert "It is not exported yet." in page


def test_every_figure_has_its_numbers_and_the_same_in_words(made: Path, tmp_path: Path) -> None:
    page = page_of(made, out=tmp_path / "r.html")
    figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert len(figures) == 4
    assert all("<svg" in figure and "<span>" in figure and "aria-labelledby" in figure for figure in figures)
    roc = np.array([row[1:] for row in tables_of(page, "m1-roc")[1:]], dtype=float)
    recorded = json.loads((made / "metrics.json").read_text())["test"]["auroc"]
    assert np.trapezoid(roc[:, 1], roc[:, 0]) == pytest.approx(recorded, abs=1e-5)
    bins = tables_of(page, "m1-calibration")
    assert sum(int(row[-1]) for row in bins[1:]) == 40


def test_the_decisions_are_those_of_the_operating_point(made: Path, tmp_path: Path) -> None:
    page = page_of(made, out=tmp_path / "r.html")
    point = json.loads((made / "metrics.json").read_text())["operating_point"]
    reached = point["test"]["sensitivity"]
    assert f"ill is said from a probability of {point['point']['threshold']:.4f} on (youden" in page
    assert re.search(rf"sensitivity</th>\s*<td[^>]*>{reached['value']:.3f}</td>", page)
    assert f"{reached['hits']} of {reached['images']}" in page


def test_the_page_needs_nothing_and_the_same_files_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    one, two = page_of(made, out=tmp_path / "a.html"), page_of(made, out=tmp_path / "b.html")
    assert one == two
    assert not re.findall(r'(?:src|href)="(?!#|data:)', one)
    assert not re.findall(r"url\((?!#)", one)
    assert "default-src 'none'" in one
    names = re.findall(r' id="([^"]*)"', one)
    assert len(names) == len(set(names))
    assert len(one.encode()) < 5_000_000


def test_markdown_says_the_same_without_pictures(made: Path, tmp_path: Path) -> None:
    text = page_of(made, out=tmp_path / "r.md")
    assert text.count("# made: resnet18 TTL layer1.0") == 1
    assert "| AUROC |" in text
    assert "```csv\ncurve,1 - specificity,sensitivity,threshold\n" in text
    assert "<svg" not in text


@pytest.mark.parametrize(
    ("classes", "task", "words"),
    [
        (("a", "b", "c"), TaskSpec(), ("said: c", "Each class against the rest")),
        (("none", "mild", "severe"), TaskSpec(kind="ordinal", positive_from="mild"), ("Quadratic kappa", "said: mild")),
        (("edema", "mass"), TaskSpec(kind="multilabel"), ("has it, missed", "Each class against the rest")),
    ],
)
def test_every_task_that_ranks_has_its_tables(
    tmp_path: Path, classes: tuple[str, ...], task: TaskSpec, words: tuple[str, ...]
) -> None:
    generator = np.random.default_rng(1)
    several = task.kind == "multilabel"
    labels = generator.integers(0, 2 if several else len(classes), (90, len(classes)) if several else 90)
    logits = generator.normal(size=(90, len(classes))).astype(np.float32)
    page = page_of(write_run(tmp_path / "run", classes, labels, logits, task=task), out=tmp_path / "r.html")
    assert all(word in page for word in words)
    assert page.count("<svg") == 4


def test_masks_are_told_without_what_ranks_images(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    page = page_of(train_masks(write_pairs(tmp_path / "pairs"), tmp_path / "masks"), out=tmp_path / "r.html")
    assert "reaches a Dice of" in page
    values = [float(row[0]) for row in tables_of(page, "m1-dice")[1:]]
    recorded = json.loads((tmp_path / "masks" / "metrics.json").read_text())["test"]
    assert np.mean(values) == pytest.approx(recorded["dice"], abs=1e-5)
    assert values[0] == pytest.approx(recorded["least_dice"], abs=1e-5)
    assert "m1-roc" not in page


def test_an_artifact_in_its_run_is_told_with_it(trained: Path, tmp_path: Path) -> None:
    page = page_of(trained / "onnx-fp32", out=tmp_path / "r.html")
    manifest = json.loads((trained / "onnx-fp32" / "manifest.json").read_text())
    assert "the validated model? Yes." in page
    assert manifest["files"]["model.onnx"]["sha256"] in page
    assert f"{manifest['parity']['max_logit_difference']:.1e}" in page
    assert "m1-roc" in page
    assert page_of(trained, trained / "onnx-fp32", out=tmp_path / "r.html") == page_of(
        trained, trained / "onnx-fp32", out=tmp_path / "s.html"
    )


def test_the_weights_that_it_began_with_are_told_by_their_hash(run_copy: Path, tmp_path: Path) -> None:
    before = page_of(run_copy, out=tmp_path / "r.html")
    record = json.loads((run_copy / "metrics.json").read_text())
    (run_copy / "metrics.json").write_text(json.dumps({**record, "start_sha256": "5e" * 32}))
    page = page_of(run_copy, out=tmp_path / "s.html")
    assert "5e" * 32 not in before
    assert "their SHA-256" not in before
    assert f"{'5e' * 32} (of the file)" in page


def test_an_artifact_alone_says_what_its_manifest_says(
    make_artifact: Callable[..., Artifact], trained: Path, tmp_path: Path
) -> None:
    alone = shutil.copytree(trained / "onnx-fp32", tmp_path / "alone")
    page = page_of(alone, out=tmp_path / "r.html")
    (reference, artifact) = json.loads((alone / "manifest.json").read_text())["parity"]["auroc"]
    assert f"comes without its run. By the record of its check the exported file reaches AUROC {artifact:.3f}" in page
    assert f"{reference:.4f}</td>" in page
    assert "the validated model? Yes." in page
    assert "<figure" not in page
    never = make_artifact("never")
    assert "the validated model? Not checked." in page_of(never.folder, out=tmp_path / "r.html")


def test_an_artifact_of_another_run_is_not_called_validated(made: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "onnx-fp32", made / "onnx-fp32")
    page = page_of(made, out=tmp_path / "r.html")
    assert "the validated model? No." in page
    assert "is not of the run that it lies in: it was exported from other weights" in page


def test_latencies_are_told_of_the_model_that_they_are_of(made: Path, tmp_path: Path) -> None:
    measured = bench_file(tmp_path / "bench.json", "resnet18 TTL layer1.0", 1234567, 2_000_000)
    page = page_of(made, measured, out=tmp_path / "r.html")
    assert "An answer takes 3.50 ms, median (onnxruntime fp32, 2 threads, a fast one)" in page
    assert len(tables_of(page, "m1-latency")) == 101
    other = bench_file(tmp_path / "other.json", "resnet18 TTL layer2.0", 1, 2)
    assert run(["report", str(made), str(other), "--out", str(tmp_path / "no.html")]) == 2
    assert not (tmp_path / "no.html").exists()


def test_several_are_set_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    for seed in range(3):
        write_run(folder / f"seed{seed}", CLASSES, *two_classes(seed=seed), parameters=10 ** (seed + 5))
    (folder / "begun").mkdir()
    shutil.copy(folder / "seed0" / "config.yaml", folder / "begun" / "config.yaml")
    assert run(["report", str(folder), "--out", str(tmp_path / "r.html"), "--json"]) == 0
    shown = capsys.readouterr()
    assert "begun is not finished" in shown.err
    models = json.loads(shown.out)["models"]
    assert [model["name"] for model in models] == ["seed0", "seed1", "seed2"]
    page = (tmp_path / "r.html").read_text()
    rows = tables_of(page, "pareto-parameters")[1:]
    assert [float(row[2]) for row in rows] == [0.1, 1, 10]
    assert [float(row[3]) for row in rows] == pytest.approx([model["test"]["auroc"] for model in models], abs=1e-5)
    best = max(models, key=lambda model: model["test"]["auroc"])
    assert f"Of 3 models {best['name']} " in page
    assert 'class="many sortable"' in page
    assert all(f"m{k}-roc" in page for k in (1, 2, 3))
    aurocs = np.array([model["test"]["auroc"] for model in models])
    assert f"{aurocs.mean():.3f} ± {aurocs.std(ddof=1):.3f}" in page
    assert "1. seed0, 2. seed1, 3. seed2" in page


@pytest.mark.parametrize("bound", [("MOST_TOLD", 1), ("LARGEST", 70_000)])
def test_of_very_many_the_best_are_told_and_the_page_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: tuple[str, int]
) -> None:
    monkeypatch.setattr(verb, *bound)
    made = [write_run(tmp_path / f"seed{seed}", CLASSES, *two_classes(seed=seed)) for seed in range(2)]
    page = page_of(*made, out=tmp_path / "r.html")
    assert "The most accurate is told below" in page
    assert len(re.findall(r'id="m\d-roc-title"', page)) == 1


def test_two_hundred_classes_fit_into_a_page_that_opens_everywhere(tmp_path: Path) -> None:
    classes, generator = tuple(f"class {k}" for k in range(200)), np.random.default_rng(0)
    labels = np.arange(800) // 4
    logits = generator.normal(size=(800, 200)).astype(np.float32)
    made = write_run(tmp_path / "run", classes, labels, logits)
    page = page_of(made, out=tmp_path / "r.html")
    assert len(page.encode()) < 2_000_000
    assert "Which classes are taken for which most often" in page
    assert len({row[0] for row in tables_of(page, "m1-roc")[1:]}) == 200


def broken_weights(folder: Path) -> None:
    (folder / "best.safetensors").write_bytes(b"other")


def broken_predictions(folder: Path) -> None:
    text = (folder / "predictions.csv").read_text()
    (folder / "predictions.csv").write_text(text.replace("val", "test", 1))


def unfinished(folder: Path) -> None:
    (folder / "metrics.json").unlink()


def broken_record(folder: Path) -> None:
    (folder / "metrics.json").write_text("{")


def no_run(folder: Path) -> None:
    (folder / "config.yaml").unlink()
    (folder / "metrics.json").unlink()


@pytest.mark.parametrize("fault", [broken_weights, broken_predictions, unfinished, broken_record, no_run])
def test_a_faulty_run_is_one_line_and_no_file(
    made: Path, tmp_path: Path, fault: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fault(made)
    assert run(["report", str(made), "--out", str(tmp_path / "r.html")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert str(made) in said
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no such run folder"),
        (["made", "nowhere.json"], "nowhere.json"),
        (["made", "made/metrics.json"], "is no result of `ttl-deploy bench`"),
        (["made", "--out", "r.pdf"], "name a file that ends in .html or .md"),
        (["made", "--out", "taken.html"], "exists already"),
        (["empty"], "holds no finished one"),
    ],
)
def test_bad_input_is_one_line(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.html").write_text("mine")
    (tmp_path / "empty").mkdir()
    assert run(["report", *arguments]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
    assert (tmp_path / "taken.html").read_text() == "mine"


def test_it_needs_no_torch(made: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ttl_deploy.cli.main import run\n"
        f"assert run(['report', {str(made)!r}, '--out', {str(tmp_path / 'r.html')!r}]) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_papers_rows_stand_beside_the_runs(tmp_path: Path) -> None:
    row = {"table": "TTL 1", "row": "TTL-2", "network": "resnet18 ttl", "metric": "auroc", "printed": "0.912 ± 0.01"}
    numbers = {"value": 0.912, "spread": 0.01, "ours": 0.8765, "interval": (0.8, 0.95), "slip": "sums to 101 %"}
    beside = {"recipe": "ttl", "rows": [{**row, **numbers}], "differs": "there: other images"}
    made = write_run(tmp_path / "made", CLASSES, *two_classes(), paper=beside)
    page = page_of(made, out=tmp_path / "r.md")
    assert "| TTL 1: TTL-2 | AUROC | 0.912 ± 0.01* | 0.8765 [0.8000, 0.9500] |" in page
    assert "There: other images." in page
    assert "* TTL 1: TTL-2: sums to 101 %" in page
