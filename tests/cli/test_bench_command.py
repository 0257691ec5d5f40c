"""`bench` on the command line: what it prints for people and machines, what it refuses, and what other commands do."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from ttl_deploy.cli import bench_tables, main
from ttl_deploy.cli.main import program, run

pytestmark = pytest.mark.usefixtures("measured_here")

BRIEF = ("--min-samples", "3", "--min-seconds", "0.01", "--threads", "1")
COMMANDS: dict[str, Any] = typer.main.get_command(program()).commands  # type: ignore[attr-defined]
OPTIONS = {name: {word for each in command.params for word in each.opts} for name, command in COMMANDS.items()}
ACCEPT = "--allow-inconclusive"
ROWS = (*BRIEF, "--rounds", "1", "--no-roofline", "--no-whole", "--runtime", "onnxruntime", ACCEPT)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: str | Path, code: int = 0) -> str:
        assert run(["bench", *map(str, arguments)]) == code
        shown = capsys.readouterr()
        return shown.out if code == 0 else shown.err

    return call


def test_rows_and_estimates_as_json_and_as_a_table(trained: Path, printed: Callable[..., str]) -> None:
    artifact = trained / "onnx-fp32"
    found = json.loads(printed(artifact, *ROWS, "--batch", "1,2", "--target", "quadro-rtx-6000", "--json"))
    assert [row["measurement"]["batch"] for row in found["rows"]] == [1, 1, 2, 2]
    assert {e["label"] for e in found["estimates"]} == {"estimated, not measured"}
    table = printed(artifact, *ROWS, "--target", "quadro-rtx-6000")
    assert "quadro-rtx-6000: estimated, not measured" in table
    assert "a lower bound" in table


def test_a_disturbed_row_shows_no_number(trained: Path, printed: Callable[..., str], capsys: Any) -> None:
    from dataclasses import replace

    from ttl_deploy.verbs.bench import bench

    fast: dict[str, Any] = {"min_samples": 30, "min_seconds": 0.01, "rounds": 1, "roofline": False}
    (row,) = bench([trained], whole=False, **fast)
    for noise in (None, "others were busy"):
        bench_tables.print_rows([replace(row, measurement=row.measurement.model_copy(update={"noise": noise}))])
        table = capsys.readouterr().out
        assert (f"{row.measurement.p50_ms:.2f}" in table) == (noise is None)
        assert ("inconclusive: resnet18 TTL layer1.1 pytorch: others were busy" in table) == (noise is not None)


def test_what_is_inconclusive_is_exit_code_1_unless_allowed(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ttl_deploy.verbs import bench as room

    plain = room._row
    noises = itertools.cycle(["others were busy", None])

    def disturbed(subject: Any, measured: Any) -> Any:
        return plain(subject, measured.model_copy(update={"noise": next(noises)}))

    monkeypatch.setattr(room, "_row", disturbed)
    asked = ["bench", str(trained / "onnx-fp32"), *(word for word in ROWS if word != ACCEPT), "--json"]
    assert run(asked) == 1
    assert "accept it with --allow-inconclusive" in capsys.readouterr().err
    assert run([*asked, ACCEPT]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("RUN", "--batch", "1,x"), "--batch: '1,x' is not a list of whole numbers"),
        (("RUN", "--threads", "0"), "--threads: '0' is not"),
        (("RUN", "--torch", "egaer"), "unknown PyTorch variant 'egaer'"),
        (("RUN", "--torch", "cuda-graph"), "needs an NVIDIA GPU"),
        (("RUN", "--target", "quadro"), "unknown target device 'quadro'"),
        (("RUN", "--scenario", "server"), "needs a latency bound"),
        (("RUN", "--scenario", "serve"), "unknown scenario 'serve'; valid"),
        (
            ("RUN", "--scenario", "server", "--latency-bound", "5", "--qps", "-1"),
            "--qps: Input should be greater than or equal to 0.001",
        ),
        (("RUN", "--qps", "5"), "--qps: means nothing in scenario single-stream; pass --scenario server too"),
        (
            ("RUN", "--scenario", "offline", "--latency-bound", "5"),
            "--latency-bound: means nothing in scenario offline",
        ),
        (
            ("RUN", "--queries", "5"),
            "--queries: means nothing in scenario single-stream; pass --scenario server or off",
        ),
        (("RUN", "--seed", "0"), "--seed: means nothing in scenario single-stream"),
        (("--json",), "nothing to measure"),
    ],
)
def test_wrong_options_are_one_line(
    trained: Path, printed: Callable[..., str], arguments: tuple[str, ...], words: str
) -> None:
    shown = printed(*(str(trained) if a == "RUN" else a for a in arguments), code=2)
    assert words in shown.splitlines()[-1]
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--compare", "RUN", "RUN"), "bench has no --compare any more; run `ttl-deploy compare A B`"),
        (("--compare", "RUN", "RUN", "--max-uncertainty", "1"), "`ttl-deploy compare A B`"),
        (("RUN", "--max-uncertainty", "1"), "`ttl-deploy compare A B --max-uncertainty`"),
        (("--ceiling",), "bench has no --ceiling any more; run `ttl-deploy ceiling`"),
        (("--ceiling", "--target", "no-such-device", "--scenario", "nonsense"), "`ttl-deploy ceiling`"),
        (("--paper",), "bench has no --paper any more; run `ttl-deploy paper`"),
        (("RUN", "--paper", "--out", "papers"), "`ttl-deploy paper`"),
        (("--paper-times", "--threads", "2"), "`ttl-deploy paper --times`"),
        (("--baseline", "f.json"), "bench has no --baseline any more; run `ttl-deploy gate BASELINE`"),
        (("--baseline=f.json", "--max-regression", "5%"), "`ttl-deploy gate BASELINE`"),
        (("--max-regression", "5%"), "`ttl-deploy gate --max-regression`"),
        (("--update-baseline",), "`ttl-deploy gate --update`"),
        (("--workload", "predict"), "`ttl-deploy gate --workload`"),
    ],
)
def test_a_form_of_before_is_refused_in_one_line_that_names_the_command_of_today(
    printed: Callable[..., str], arguments: tuple[str, ...], said: str
) -> None:
    (line,) = printed(*arguments, code=2).splitlines()
    assert line.startswith("error: bench has no --")
    assert said in line


def test_the_command_that_a_form_of_before_names_has_the_option_beside_it() -> None:
    for words in main._MOVED.values():
        command, *rest = words.split()
        assert {word for word in rest if word.startswith("--")} <= OPTIONS[command]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ceiling", "--scenario", "server"), "--scenario"),
        (("ceiling", "--target", "quadro-rtx-6000"), "--target"),
        (("ceiling", "--rounds", "3"), "--rounds"),
        (("ceiling", "RUN"), "RUN"),
        (("compare", "RUN", "RUN", "--torch", "bf16"), "--torch"),
        (("compare", "RUN", "RUN", "--no-whole"), "--no-whole"),
        (("compare", "RUN"), "'B'"),
        (("paper", "--min-seconds", "1"), "--min-seconds"),
        (("paper", "RUN"), "RUN"),
        (("gate", "--device", "cpu"), "--device"),
        (("gate", "f.json", "--out", "g.json"), "--out"),
        (("bench", "RUN", "--max-regression", "5%"), "--max-regression"),
        (("bench", "RUN", "--times"), "--times"),
    ],
)
def test_what_does_not_belong_to_a_command_is_refused(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
