"""The quickstart as a newcomer runs it, whole."""

import re
from pathlib import Path

import pytest
from PIL import Image

from ttl_deploy.cli.main import run
from ttl_deploy.errors import BadInputError
from ttl_deploy.workflows.quickstart import quickstart


@pytest.mark.slow
def test_it_learns_exports_verifies_benchmarks_and_reports(tmp_path: Path) -> None:
    outcome = quickstart(report=tmp_path / "report.html", keep=tmp_path / "kept", images=240)
    small, whole = outcome.small, outcome.whole
    assert small["test"]["auroc_interval"][0] > 0.5
    assert small["parameters"] < 0.2 * whole["parameters"]
    parity = outcome.manifest.parity
    assert parity is not None
    assert parity.verdict == "pass"
    page = outcome.report.read_text()
    assert f"{small['test']['auroc']:.3f}" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page), "the page must be readable offline"
    assert "<script" not in page
    assert Image.open(outcome.report.with_suffix(".png")).width > 400
    assert (tmp_path / "kept" / "runs" / "ttl" / "onnx-fp32" / "manifest.json").exists()


def test_a_folder_that_holds_something_is_never_used(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("x")
    with pytest.raises(BadInputError, match="exists already"):
        quickstart(report=tmp_path / "report.html", keep=tmp_path / "kept")
    assert (tmp_path / "kept" / "mine.txt").read_text() == "x"
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_the_command_shows_its_table_after_the_runs_are_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.html"
    assert run(["quickstart", "--images", "240", "--report", str(report)]) == 0
    shown = capsys.readouterr().out
    assert "TTL" in shown
    assert f"report: {report}" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["report.html", "report.png"]
