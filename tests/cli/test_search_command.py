"""`ttl-deploy search`: what it prints, and what it refuses in one line."""

import json
from pathlib import Path

import pytest

from ttl_deploy.cli.main import run
from ttl_deploy.training.run import finished_run

TINY = [
    *["--backbone", "resnet18", "--strategy", "exhaustive", "--max-params", "0.05M", "--no-latency"],
    *["--image-size", "32", "--weights", "random", "--epochs", "1", "--batch-size", "16", "--threads", "1"],
    *["--device", "cpu", "--precision", "fp32"],
]


def test_a_search_ends_with_a_table_a_line_and_a_run_to_export(
    synthetic: Path, pixel_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ("--cache", str(pixel_cache), "--operating-point", "youden")
    arguments = ["search", str(synthetic / "labels.csv"), *TINY, *cache, "--out"]
    out = tmp_path / "found"
    assert run([*arguments, str(out)]) == 0
    table = capsys.readouterr().out
    assert "stem *" in table
    assert "over budget: 0.08 M parameters, more than 0.05 M" in table
    assert f"next: ttl-deploy export {out / 'winner'}" in table
    assert run([*arguments, str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["cut"] == "stem"
    assert result["answer"] in table
    point = finished_run(out / "winner").operating_point
    assert point is not None
    assert point.rule == "youden"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-latency", "fast"], "--max-latency: 'fast' is not a number with one of the units ms, s, us"),
        (["--max-params", "8Q"], "--max-params: '8Q' is not a number"),
        (["--strategy", "guess"], "unknown strategy 'guess'; valid: exhaustive"),
        (["--method", "ftl"], "there is no cut to find"),
        (["--engine", "slurm"], "unknown engine 'slurm'"),
        (
            ["--latency-device", "tpu", "--max-latency", "5ms"],
            "unknown device 'tpu'; pass --device cpu or cuda, or a target",
        ),
    ],
)
def test_wrong_options_are_one_line(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    base = ["search", str(synthetic / "labels.csv"), *TINY, "--out", str(tmp_path / "out"), "--cache", str(tmp_path)]
    assert run([*base, *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said
    assert not (tmp_path / "out" / "trials").exists()
