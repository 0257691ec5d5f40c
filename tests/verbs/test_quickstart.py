"""The quickstart as a newcomer runs it, whole."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ttl_deploy.artifact import open_artifact
from ttl_deploy.cli.main import run
from ttl_deploy.errors import BadInputError
from ttl_deploy.training.run import Run
from ttl_deploy.verbs import quickstart as workflow
from ttl_deploy.verbs.bench import BenchRow, bench
from ttl_deploy.verbs.quickstart import SUBJECTS, Subject, quickstart


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch, measured_here: None) -> None:
    """Smaller images, one epoch of the whole network, of which nothing is asked but its size, and few calls."""
    trained = workflow._train

    def train(subject: Subject, data: Path, work: Path, method: str, *more: Any) -> Run:
        fewer = {"batch_size": 16, **({"epochs": 1} if method == "ftl" else {})}
        return trained(replace(subject, protocol={**subject.protocol, **fewer}), data, work, method, *more)

    def measured(*artifacts: Any, **options: Any) -> list[BenchRow]:
        return bench(*artifacts, **{**options, "min_samples": 10, "min_seconds": 0.05, "rounds": 1})

    monkeypatch.setattr(workflow, "_SIZE", 64)
    image = replace(SUBJECTS["image"], model={"backbone": "resnet18", "image_size": 64})
    monkeypatch.setattr(workflow, "SUBJECTS", {**SUBJECTS, "image": image})
    monkeypatch.setattr(workflow, "_train", train)
    monkeypatch.setattr(workflow, "bench", measured)


@pytest.mark.usefixtures("brief")
def test_it_learns_exports_verifies_benchmarks_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A newcomer's own, of the full size, is what CI runs first of all."""
    report, kept = tmp_path / "report.html", tmp_path / "kept"
    assert run(["quickstart", "--images", "240", "--report", str(report), "--keep", str(kept)]) == 0
    small, whole = (json.loads((kept / "runs" / name / "metrics.json").read_text()) for name in ("ttl", "ftl"))
    assert small["test"]["auroc_interval"][0] > 0.5
    assert small["parameters"] < 0.2 * whole["parameters"]
    parity = open_artifact(kept / "runs" / "ttl" / "onnx-fp32").manifest.parity
    assert parity is not None
    assert parity.verdict == "pass"
    shown = capsys.readouterr().out
    page = report.read_text()
    for text in (shown, page):
        assert f"{small['test']['auroc']:.3f}" in text
    assert not re.search(r'(src|href)="(?!data:|#)', page), "the page must be readable offline"
    assert "<script" not in page
    with Image.open(report.with_suffix(".png")) as picture:
        assert picture.width > 400


def test_a_folder_that_holds_something_is_never_used(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("x")
    with pytest.raises(BadInputError, match="exists already"):
        quickstart(report=tmp_path / "report.html", keep=tmp_path / "kept")
    assert (tmp_path / "kept" / "mine.txt").read_text() == "x"
    assert not (tmp_path / "report.html").exists()


def test_what_it_gives_outlives_the_runs_it_removes(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --keep the runs are gone when the command shows their numbers."""
    import shutil

    from ttl_deploy.training.run import open_run

    def trained_before(_subject: Subject, _data: Path, work: Path, method: str, *_: object) -> object:
        return open_run(Path(shutil.copytree(trained, work / "runs" / method)))

    monkeypatch.setattr(workflow, "_train", trained_before)
    monkeypatch.setattr(workflow, "write_synthetic", lambda folder, **_: folder)
    monkeypatch.setattr(workflow, "export_run", lambda folder, **_: open_artifact(folder / "onnx-fp32"))
    monkeypatch.setattr(workflow, "bench", lambda *_, **__: [])
    monkeypatch.setattr(workflow, "_write_report", lambda *_: None)
    monkeypatch.setattr(workflow, "_above_chance", lambda _: True)
    outcome = quickstart(report=tmp_path / "report.html")
    assert outcome.small["test"]["auroc"] == open_run(trained).metrics()["test"]["auroc"]
    assert outcome.manifest.parity is not None


@pytest.mark.slow
def test_studies_of_slices_from_end_to_end(tmp_path: Path, brief: None) -> None:
    outcome = quickstart(report=tmp_path / "report.html", task="ct", images=90)
    assert outcome.small["test"]["auroc_interval"][0] > 0.5
    assert outcome.manifest.model.input.kind == "volume"
    page = (tmp_path / "report.html").read_text()
    assert "vessels full of contrast" in page
    with pytest.raises(BadInputError, match="unknown task 'cta'"):
        quickstart(report=tmp_path / "other.html", task="cta")
