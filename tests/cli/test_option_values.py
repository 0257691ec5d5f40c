"""Every option of every command, given what it cannot be: one line and exit code 2 before anything is read or run.

The options are those that the program declares, so that a new one is asked too.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from ttl_deploy.cli.main import program, run
from ttl_deploy.resources import data_folder

COMMANDS = typer.main.get_command(program()).commands  # type: ignore[attr-defined]

FREE = {
    "classes", "patient-pattern", "path-column", "label-column", "patient-column", "split-column", "label-columns",
    "host", "name", "address", "cuts",
}  # fmt: skip
"""Text options whose words only the data, a network or a cluster can refuse."""

UNUSED = {("search", "threshold")}
"""Read only with another option."""


class Reached(BaseException):
    """The command began what an option should have prevented."""


def options(kind: str) -> Iterator[tuple[str, str]]:
    """Commands and the names of their options that hold a number, or text."""
    for name, command in COMMANDS.items():
        for option in command.params:
            if option.param_type_name != "option" or option.is_flag:
                continue
            declared = str(option.type_descriptor.annotation)
            long = max(option.opts, key=len).removeprefix("--")
            number, path = "int" in declared or "float" in declared, "Path" in declared
            if number == (kind == "number") and not path and (name, long) not in UNUSED:
                yield name, long


@pytest.fixture
def refused(
    trained: Path, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Runs a command with one more option; fails where it reads data, opens an engine or measures."""
    artifact, table, out = str(trained / "onnx-fp32"), str(synthetic / "labels.csv"), str(tmp_path / "out")
    criteria = tmp_path / "criteria.yaml"
    criteria.write_text("minimum: {auroc: 0.5}")
    network = ["--backbone", "resnet18", "--weights", "random", "--image-size", "32", "--out", out]
    given = {
        "train": [table, *network, "--cut", "layer1.0"],
        "search": [table, *network],
        "export": [str(trained), "--out", out],
        "verify": [artifact, "--against", str(trained)],
        "bench": [artifact],
        "compare": [artifact, artifact],
        "gate": [str(data_folder("benchmarks") / "baseline.json")],
        "predict": [artifact, table],
        "serve": [artifact],
        "cuts": ["resnet18"],
        "synthetic": [out],
        "quickstart": ["--keep", out],
        "report": [str(trained), "--out", f"{out}.html"],
        "dossier": [artifact, "--criteria", str(criteria), "--out", out],
        "sign": [artifact],
        "analyze": [str(trained), "--out", out],
    }

    def reached(*_: object, **__: object) -> None:
        raise Reached

    for place in (
        "ttl_deploy.data.manifest.read_dataset",
        "ttl_deploy.training.run.run_data",
        "ttl_deploy.formats.export_run.run_data",
        "ttl_deploy.runtime.load",
        "ttl_deploy.verbs.bench.run_all",
        "ttl_deploy.verbs.compare.measure_in_turns",
        "ttl_deploy.verbs.gate.prepared",
        "ttl_deploy.verbs.paper.reproduce",
        "ttl_deploy.latency.ceiling._measure_apart",
        "ttl_deploy.data.synthetic.write_synthetic",
        "ttl_deploy.verbs.quickstart.write_synthetic",
    ):
        monkeypatch.setattr(place, reached)

    def call(command: str, option: str, value: str) -> str:
        several = next(p.nargs for p in COMMANDS[command].params if f"--{option}" in p.opts)
        code = run([command, *given.get(command, []), f"--{option}", *[value] * several])
        said = capsys.readouterr().err
        assert code == 2, said
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert "unforeseen" not in line
        assert "Traceback" not in said
        assert not (tmp_path / "out").exists()
        return line

    return call


def _named(option: str, line: str) -> bool:
    """Whether a line names an option that another one, which was given or not, leaves without a use."""
    return option in line.replace("_", "-") or (option == "target-auprc" and "--incremental" in line)


@pytest.mark.parametrize(("command", "option"), list(options("number")))
@pytest.mark.parametrize("value", ["-1", "nan"])
def test_no_option_takes_a_number_that_is_none_or_below_its_range(
    command: str, option: str, value: str, refused: Any
) -> None:
    line = refused(command, option, value)
    assert value in line or _named(option, line)


@pytest.mark.parametrize(("command", "option"), [(c, o) for c, o in options("text") if o not in FREE])
def test_a_word_that_is_none_of_an_options_is_refused_with_those_that_are(
    command: str, option: str, refused: Any
) -> None:
    line = refused(command, option, "centre")
    assert "centre" in line or _named(option, line)


@pytest.mark.parametrize(
    ("command", "option", "value", "said"),
    [
        ("train", "crop", "centre", "'center' or 'none'"),
        ("train", "high-bit-depth", "foo", "'full-range' or 'min-max'"),
        ("train", "channels", "20", "equal to 16"),
        ("search", "channels", "0", "equal to 1"),
        ("train", "class-weights", "balancd", "'balanced'"),
        ("train", "lr", "1e300", "less than or equal to"),
        ("train", "lr", "inf", "less than or equal to"),
        ("train", "seed", "99999999999999999999999", "less than"),
        ("train", "image-size", "0", "greater than or equal to 8"),
        ("train", "patient-pattern", "(", "is not a regular expression"),
        ("search", "patient-pattern", "P[0-9]+", "has 0 groups"),
        ("train", "path-template", "scans/x.png", "has no {}"),
        ("search", "path-template", "{}*", "has a wildcard"),
        ("verify", "path-template", "{}", "--data"),
        ("predict", "path-template", "scans/x.png", "has no {}"),
        ("train", "test-data", "nowhere.csv", "nowhere.csv: no such file"),
        ("search", "val-data", "nowhere.csv", "pass --test-data too"),
        ("train", "labels-separator", ";", "one label in this task"),
        ("train", "label-columns", "A,A", "'A' is named twice"),
        ("search", "weights", "nowhere.pth", "nowhere.pth: no such file"),
        ("train", "layers", "2", "--layers is LWFT's, not ttl's"),
        ("train", "slim", "7", "--slim is TransFusion's, not ttl's"),
        ("bench", "qps", "1e300", "less than or equal to"),
        ("serve", "timeout", "1e300", "less than or equal to"),
    ],
)
def test_the_line_says_what_it_may_be(command: str, option: str, value: str, said: str, refused: Any) -> None:
    assert said in refused(command, option, value)
