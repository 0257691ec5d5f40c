"""Options that only some formats, methods or strategies take: whose they are, and how they are told apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from ttl_deploy.cli.main import run
from ttl_deploy.cut_search.search import search
from ttl_deploy.cut_search.strategies import STRATEGIES
from ttl_deploy.errors import BadInputError
from ttl_deploy.formats import export_run as room
from ttl_deploy.formats.exporter import EXPORTERS, Exporter, ExportJob, Written
from ttl_deploy.formats.options import FORMAT_OPTIONS, ExportOptions
from ttl_deploy.spec import Data, Model, Network, Record
from ttl_deploy.spec.methods import METHOD_OPTIONS
from ttl_deploy.spec.options import Options
from ttl_deploy.spec.search import SearchOptions, SearchProtocol
from ttl_deploy.spec.strategies import STRATEGY_OPTIONS
from ttl_deploy.transfer import METHODS


class NumbersOptions(ExportOptions):
    digits: Annotated[int, Field(ge=1, description="Decimal digits of a weight.")] = 7
    rounding: Annotated[Literal["even", "up"], Field(description="even or up.")] = "even"
    data: Annotated[str, Field(description="What the file is called, though --data is the command's.")] = "numbers"
    opset: Annotated[bool, Field(description="Though elsewhere it is a number.")] = False
    aot: Annotated[bool, Field(description="On, and elsewhere off.")] = True


class Numbers(Exporter):
    name = "numbers"
    precisions = ("fp32",)
    options = NumbersOptions

    def write(self, job: ExportJob, folder: Path) -> Written:
        raise AssertionError("is not reached")


@pytest.fixture
def numbers() -> Iterator[Exporter]:
    exporter = EXPORTERS.register("numbers", Numbers())
    yield exporter
    del EXPORTERS._entries["numbers"], FORMAT_OPTIONS._records["numbers"]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings that an exporter would have been given."""
    given: list[Any] = []

    def export_one(*_: Any, settings: Any, **__: Any) -> None:
        given.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "export_one", export_one)
    return given


def error(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_every_format_of_the_package_is_in_the_help_with_the_record_that_it_takes() -> None:
    known = {name: FORMAT_OPTIONS.of(name) for name in EXPORTERS.names()}
    assert known == {exporter.name: exporter.options for exporter in EXPORTERS}


@pytest.mark.parametrize(("registry", "table"), [(METHODS, METHOD_OPTIONS), (STRATEGIES, STRATEGY_OPTIONS)])
def test_the_help_knows_every_method_and_strategy_and_no_other(registry: Any, table: Any) -> None:
    assert sorted(registry.names()) == sorted(table._records)


@pytest.mark.parametrize(("table", "request_of"), [(METHOD_OPTIONS, Model), (STRATEGY_OPTIONS, SearchOptions)])
def test_an_option_that_a_request_has_itself_is_the_very_one_of_the_record(
    table: Any, request_of: type[Record]
) -> None:
    for option in table.beside:
        own = request_of.model_fields[option]
        for field in table.takers(option).values():
            assert (field.annotation, field.default, field.metadata) == (own.annotation, own.default, own.metadata)
    assert set(table.options()) == set(table.beside)


def test_a_registered_strategy_can_be_chosen_with_its_options(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class MineOptions(Options):
        tries: Annotated[int, Field(ge=1, description="How often.")] = 2

    given: list[Any] = []

    def search(*_: Any, options: SearchOptions, **__: Any) -> None:
        given.append(STRATEGY_OPTIONS.complete(options.strategy, options.strategy_options))
        raise KeyboardInterrupt

    monkeypatch.setattr("ttl_deploy.verbs.search.search", search)
    STRATEGIES.add("my.own-one", MineOptions)(lambda state: {})
    try:
        for said in ((), ("--tries", "5")):
            chosen = ["--strategy", "my.own-one", *said, "--out", str(tmp_path / "o")]
            assert run(["search", str(synthetic), *chosen]) == 130
    finally:
        del STRATEGIES._entries["my.own-one"], STRATEGY_OPTIONS._records["my.own-one"]
    assert given == [{"tries": 2}, {"tries": 5}]


def test_an_option_of_another_strategy_is_refused_in_python_too(synthetic: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="--eta is halving's, not auto's; leave it out, or pass --strategy halving"):
        search(Data(path=synthetic), Network(), SearchProtocol(), tmp_path / "o", options=SearchOptions(eta=4))


def test_a_registered_format_gets_its_options_from_the_command_line(
    numbers: Exporter, trained: Path, tmp_path: Path, written: list[Any]
) -> None:
    export = ["export", str(trained), "--out", str(tmp_path / "out"), "--format", "numbers"]
    said = ["--digits", "3", "--rounding", "up", "--numbers-data", "n", "--numbers-opset", "--numbers-no-aot"]
    assert run([*export, *said]) == 130
    assert run(export) == 130
    assert written == [NumbersOptions(digits=3, rounding="up", data="n", opset=True, aot=False), NumbersOptions()]


def test_the_options_of_a_format_that_was_there_before_are_said_as_before(
    numbers: Exporter, trained: Path, tmp_path: Path, written: list[Any]
) -> None:
    assert run(["export", str(trained), "--out", str(tmp_path / "out"), "--opset", "18", "--qat", "0"]) == 130
    (settings,) = written
    assert (settings.opset, settings.model_fields_set) == (18, {"opset", "qat"})


def test_help_shows_them_under_the_formats_that_take_them(
    numbers: Exporter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["export", "--help"]) == 0
    shown = capsys.readouterr().out
    panel = shown.partition("─ Format numbers ─")[2].partition("╰")[0]
    assert "--digits" in panel
    assert "Decimal digits of a weight. (1 or more) [default: (7)]" in panel
    assert "--numbers-data" in panel
    assert "Format pt2, torch-trt ─" in shown
    assert "--opset" in shown.partition("─ Format onnx, openvino, trt, trt-kit, trt-rtx ─")[2].partition("╰")[0]


def test_no_help_shows_what_is_not_registered(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "--help"]) == 0
    assert "--digits" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--min-batch", "2"), "format onnx has no option 'min_batch'; it is trt, trt-kit, trt-rtx and torch-trt's; "),
        (
            ("--format", "pt2", "--opset", "18"),
            "format pt2 has no option 'opset'; it is onnx, openvino, trt, trt-kit, trt-rtx and numbers's",
        ),
        (
            ("--format", "torchscript", "--aot"),
            "format torchscript has no option 'aot'; it is pt2, torch-trt and numbers's",
        ),
        (("--format", "auto", "--opset", "18"), "--format auto chooses for itself, --opset does not go with it"),
        (("--format", "numbers", "--digits", "0"), "digits: Input should be greater than or equal to 1 (got 0)"),
        (("--format", "numbers", "--rounding", "down"), "rounding: Input should be 'even' or 'up' (got 'down')"),
    ],
)
def test_an_option_that_the_format_does_not_take_is_one_line_with_those_that_take_it(
    options: tuple[str, ...],
    said: str,
    numbers: Exporter,
    trained: Path,
    tmp_path: Path,
    written: list[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["export", str(trained), "--out", str(tmp_path / "out"), *options]) == 2
    assert said in error(capsys)
    assert written == []
