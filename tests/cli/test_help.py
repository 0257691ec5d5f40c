"""The help texts on a narrow terminal: every word whole, paragraphs that flow, nothing swallowed."""

import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from ttl_deploy.cli.main import listing, program, run

WIDTH = 80
COMMANDS: dict[str, Any] = typer.main.get_command(program()).commands  # type: ignore[attr-defined]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The lines of a command's help at 80 columns, without the frames."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))

    def call(*command: str) -> list[str]:
        assert run([*command, "--help"]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert max(map(len, shown)) <= WIDTH
        return [line.strip("│ ") for line in shown if not line.startswith(("╭", "╰"))]

    return call


def words_of(parameter: Any) -> Iterator[str]:
    """What the help of an option or argument consists of; typer adds brackets and what the type is called."""
    yield from (parameter.help or "").split()
    if parameter.param_type_name == "option":
        yield from (word for word in (*parameter.opts, *parameter.secondary_opts) if word.startswith("--"))
    if isinstance(parameter.show_default, str):
        yield from f"({parameter.show_default})]".split()
    span = parameter._get_number_range_help_str()
    if span:
        yield f"[{span}]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_word_of_a_help_text_is_whole_at_80_columns(command: str, lines: Any) -> None:
    shown = {word for line in lines(command) for cell in line.split() for word in (cell, *cell.split(","))}
    said = [*COMMANDS[command].help.split(), *(w for p in COMMANDS[command].params for w in words_of(p))]
    assert [word for word in said if word not in shown] == []


def test_every_word_of_the_list_of_commands_is_whole_at_80_columns(lines: Any) -> None:
    shown = {word for line in lines() for word in line.split()}
    for name, command in COMMANDS.items():
        first = command.help.split("\n\n")[0]
        assert [word for word in (name, *first.split()) if word not in shown] == []


def test_the_list_that_is_read_from_the_files_is_that_of_the_commands() -> None:
    listed: dict[str, Any] = typer.main.get_command(listing()).commands  # type: ignore[attr-defined]
    assert [(name, command.help) for name, command in listed.items()] == [(n, c.help) for n, c in COMMANDS.items()]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_paragraph_ends_its_lines_where_the_terminal_does(command: str, lines: Any) -> None:
    shown = lines(command)
    for paragraph in COMMANDS[command].help.split("\n\n"):
        assert "\n" not in paragraph
        wrapped = textwrap.wrap(paragraph, WIDTH - 2, break_on_hyphens=False)
        assert [line for line in wrapped if line not in shown] == []
