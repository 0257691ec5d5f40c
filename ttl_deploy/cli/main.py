"""The program: finds the commands, runs one, and turns whatever goes wrong into one line and an exit code.

0 done, 1 a check failed, 2 bad input or a missing dependency, 130 interrupted, 143
ended by SIGTERM. Nothing heavy is imported here.
"""

from __future__ import annotations

import ast
import gc
import importlib
import inspect
import itertools
import os
import pkgutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, NoReturn, Self

import typer

import ttl_deploy
from ttl_deploy.cli import commands, console, stopping
from ttl_deploy.cores import tell_openmp
from ttl_deploy.errors import StorageError, TtlDeployError
from ttl_deploy.first_use import importing

_INTERRUPTED = 130
"""What typer makes of Ctrl-C."""


_ON_INTERRUPT = {
    "train": "finished epochs are kept, and `ttl-deploy train --resume RUN` goes on",
    "search": "finished trials are kept, and the same command goes on",
    "predict": "finished rows of --out are kept, and the same command goes on",
}
"""What is left of a command that was interrupted."""

_ON_MEMORY = {
    "train": "lower --batch-size or --image-size",
    "search": "lower --batch-size or --image-size",
    "bench": "lower --batch",
    "compare": "lower --batch",
    "predict": "lower --batch-size",
    "serve": "lower --max-batch",
}
"""What makes a command smaller."""

_MOVED = {
    "--compare": "compare A B",
    "--max-uncertainty": "compare A B --max-uncertainty",
    "--ceiling": "ceiling",
    "--paper": "paper",
    "--paper-times": "paper --times",
    "--baseline": "gate BASELINE",
    "--max-regression": "gate --max-regression",
    "--update-baseline": "gate --update",
    "--workload": "gate --workload",
}
"""What `bench` did by option before commands were one thing each, and does no more."""


def _version(asked: bool) -> None:
    if asked:
        console.line(ttl_deploy.__version__)
        raise typer.Exit


def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the program itself; `run` reads --debug from the arguments, as errors happen before this runs."""


@dataclass(frozen=True)
class _Listed:
    """What the list of commands shows of one, read from its file: importing all of them would take most of the time.

    Attributes:
        order: Its place in the list.
        name: The user's word for it.
        help: The docstring of its `run`.
    """

    order: int
    name: str
    help: str

    @classmethod
    def of(cls, name: str) -> Self:
        body = ast.parse(pkgutil.get_data(commands.__name__, f"{name}.py") or b"").body
        said = {
            target.id: ast.literal_eval(part.value)
            for part in body
            if isinstance(part, ast.Assign)
            for target in part.targets
            if isinstance(target, ast.Name) and target.id in ("NAME", "ORDER")
        }
        (run,) = (part for part in body if isinstance(part, ast.FunctionDef) and part.name == "run")
        return cls(said["ORDER"], said["NAME"], ast.get_docstring(run) or "")


@cache
def program(only: str | None = None) -> typer.Typer:
    """The program with its commands.

    Args:
        only: The one command that is imported; None: all.
    """
    made = _empty()
    found = [_imported(name) for name in ((only,) if only else _names())]
    for module in sorted(found, key=lambda module: module.ORDER):
        made.command(module.NAME, no_args_is_help=module.NEEDS_ARGUMENTS, help=_flowing(module.run.__doc__))(module.run)
    return made


def listing() -> typer.Typer:
    """The program as far as its own help and its words about an unknown command go: what it lists cannot be called."""
    made = _empty()
    for listed in sorted((_Listed.of(name) for name in _names()), key=lambda listed: listed.order):
        made.command(listed.name, help=_flowing(listed.help))(_uncalled)
    return made


def _empty() -> typer.Typer:
    made = typer.Typer(
        name="ttl-deploy",
        help="Turn a pretrained image network into a small, fast, verified medical classifier.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_options)
    return made


def _uncalled() -> None:
    """Stands for a command in the list; the one that is called is imported."""


def _complete(name: str) -> None:
    """Adds the options of third parties to a command."""
    from ttl_deploy.cli import forms  # Pydantic, half of what the list of commands would take

    forms.complete(_imported(name).run)


def _names() -> tuple[str, ...]:
    """Of the commands, each of which is the file of its name."""
    return tuple(module.name for module in pkgutil.iter_modules(commands.__path__))


def _imported(name: str) -> Any:
    return importlib.import_module(f"{commands.__name__}.{name}")


def _flowing(text: str) -> str:
    """A docstring without the source's line ends, at which typer would break all paragraphs but the first."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


def main() -> NoReturn:
    """Runs the command line and exits."""
    console.accept_any_text()
    tell_openmp()
    with stopping.by_signals(lambda: f"error: {_stopped(sys.argv[1:])}"):
        code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # The process ends: going once more through all that was imported would free nothing that matters.
    gc.freeze()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Runs a command and gives its exit code; no exception leaves it unless `--debug` is among the arguments."""
    try:
        # One command needs not wait for all others to be imported.
        command = _command(arguments)
        only = command if command in _names() else None
        with importing():
            if only is not None:
                _complete(only)
            made = listing() if only is None else program(only)
        result = made(args=[a for a in arguments if a != "--debug"], prog_name="ttl-deploy", standalone_mode=False)
    except KeyboardInterrupt:
        result = _INTERRUPTED
    except BaseException as error:
        # Whatever a library made of the interruption, it was one.
        return _interrupted(arguments) if stopping.came() else _ended_by(error, arguments)
    if result == _INTERRUPTED:
        return _interrupted(arguments)
    return result if isinstance(result, int) else 0


def _ended_by(error: BaseException, arguments: list[str]) -> int:
    debug = "--debug" in arguments
    if isinstance(error, TtlDeployError):
        return _explain(error, str(error), error.exit_code, debug)
    # Typer leaves so when nobody reads what a command prints any more, as behind `| head`: no fault of the command.
    left = error.__context__ if isinstance(error, SystemExit) else error
    if isinstance(left, BrokenPipeError):
        return 0
    if not isinstance(error, Exception):
        raise error
    if type(error).__name__ == "NoArgsIsHelpError":
        console.line(_usage(error, arguments))
        return 2
    return _explain(error, _usage(error, arguments) or _unforeseen(error, arguments), 2, debug)


def _interrupted(arguments: list[str]) -> int:
    console.error(_stopped(arguments))
    return stopping.exit_code()


def _stopped(arguments: list[str]) -> str:
    return f"{stopping.how()}; {_left(arguments)}"


def _left(arguments: list[str]) -> str:
    """What an interrupted command left, and how it goes on."""
    command = _command(arguments)
    words = _ON_INTERRUPT.get(command, "nothing was left half done")
    if command == "train":
        words = _left_of_training(arguments, words)
    if "--overwrite" in arguments:
        words = words.replace("the same command goes", "the same command without --overwrite goes")
    return words


def _left_of_training(arguments: list[str], words: str) -> str:
    """A series of runs goes on by its own command, and before the first epoch's data are read there is no run."""
    pairs = itertools.pairwise(word for given in arguments for word in given.split("=", 1))
    place = next((value for option, value in pairs if option in ("--resume", "--out")), None)
    if place is None or not Path(place).exists():
        return "nothing was written"
    if not (Path(place) / "config.yaml").exists():
        return "finished runs are kept, and the same command goes on"
    return words.replace("RUN", quote(place))


def _usage(error: Exception, arguments: list[str]) -> str:
    """What typer says of wrong arguments, with the value it leaves out; empty for any other error.

    Told by its method, because typer's classes are click's or its own copies of them, depending on the version.
    """
    said = getattr(error, "format_message", None)
    if said is None:
        return ""
    if type(error).__name__ == "NoArgsIsHelpError":
        return str(said())
    unknown = getattr(error, "option_name", "")
    if unknown in _MOVED and _command(arguments) == "bench":
        return f"bench has no {unknown} any more; run `ttl-deploy {_MOVED[unknown]}`"
    options = getattr(getattr(error, "param", None), "opts", [])
    values = [value for option, value in itertools.pairwise(arguments) if option in options]
    got = f" (got {values[-1]!r})" if values and values[-1] not in said() else ""
    return " ".join(said().split()).removesuffix(".") + got


def _command(arguments: list[str]) -> str:
    return next((word for word in arguments if not word.startswith("-")), "")


def _unforeseen(error: Exception, arguments: list[str]) -> str:
    """One line for what no check foresaw; the ways a disk or a memory fails are known."""
    if isinstance(error, OSError) and error.errno in StorageError.REASONS:
        return str(StorageError.of(error, _place(error)))
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{_place(error)}: {error.strerror.lower()}; check that it is there and can be used"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"out of memory; {_ON_MEMORY.get(_command(arguments), 'end other programs, or take a larger machine')}"
    detail = " ".join(str(error).split())[:300]
    return f"unforeseen {type(error).__name__}: {detail}; run again with --debug for the traceback and report it"


def _place(error: OSError) -> Path | None:
    from ttl_deploy.files import users_path

    return users_path(Path(os.fsdecode(error.filename))) if isinstance(error.filename, str | bytes) else None


def _explain(error: BaseException, message: str, code: int, debug: bool) -> int:
    if debug:
        raise error
    console.error(message)
    return code
