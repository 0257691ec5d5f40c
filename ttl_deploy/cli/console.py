"""The terminal: tables, progress and messages. The only module that knows rich, and it loads it on first use.

Results go to stdout, everything else to stderr, so that `--json` and CSV can be piped. What is shown to people holds no
control characters, whatever a class or a file is called.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ttl_deploy.errors import printable
from ttl_deploy.progress import Advance

if TYPE_CHECKING:
    from rich.console import Console  # noqa: TID251 - the one module that may

PLAIN_INTERVAL = 10.0
"""Seconds between progress lines where there is no terminal."""


_LAYOUT = "\n\t"
"""Control characters of our own in messages of several lines."""

_SPELLED_OUT = "ttl-deploy.spelled-out"
"""Name of the way in which characters are written that an output's encoding lacks."""


def accept_any_text() -> None:
    r"""Lets stdout take every name, whatever its encoding: no table or stream ends in the middle.

    Bytes of file names that are no text come out as they are, so that the files can be opened by them; characters that
    the encoding lacks come out as escapes, such as `\xf6`.
    """
    codecs.register_error(_SPELLED_OUT, _spelled_out)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_SPELLED_OUT)


def _spelled_out(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    number = ord(error.object[error.start])
    undecoded = range(0xDC80, 0xDD00)
    if number in undecoded and not error.encoding.lower().startswith(("utf-16", "utf-32", "utf16", "utf32")):
        return bytes([number - 0xDC00]), error.start + 1
    one = UnicodeEncodeError(error.encoding, error.object, error.start, error.start + 1, error.reason)
    return codecs.backslashreplace_errors(one)


class ConsoleReporter:
    """Draws progress bars on a terminal and prints plain lines elsewhere; all on stderr.

    Args:
        quiet: Say nothing but warnings.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet

    def info(self, message: str) -> None:
        """Prints a message."""
        if not self._quiet:
            _stderr().print(printable(message, _LAYOUT), markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Prints a warning."""
        _stderr().print(
            f"warning: {printable(message, _LAYOUT)}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )

    @contextlib.contextmanager
    def task(self, description: str, total: float | None) -> Iterator[Advance]:
        """A progress bar, or a line now and then."""
        if self._live:
            with _bar(description, total) as advance:
                yield advance
        else:
            yield self._plain(description, total)

    def _plain(self, description: str, total: float | None) -> Advance:
        done, last = 0.0, time.monotonic()

        def advance(steps: float, status: str) -> None:
            nonlocal done, last
            done += steps
            if time.monotonic() - last > PLAIN_INTERVAL:
                last = time.monotonic()
                of = f"/{total:g}" if total else ""
                self.info(f"{description}: {done:g}{of} {status}".rstrip())

        return advance


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right_from: int = 1) -> None:
    """Prints a table on stdout; columns from `right_from` on are right-aligned."""
    from rich.box import SIMPLE_HEAD  # noqa: TID251 - the one module that may
    from rich.table import Table  # noqa: TID251 - the one module that may

    drawn = Table(header_style="bold", box=SIMPLE_HEAD)
    for position, column in enumerate(columns):
        side: Literal["left", "right"] = "right" if position >= right_from else "left"
        drawn.add_column(column, justify=side, overflow="fold", no_wrap=position == 0)
    for row in rows:
        drawn.add_row(*(_cell(value) for value in row))
    screen = _console(stderr=False)
    if title:
        # A table's own title would be wrapped to the width of its columns.
        screen.print(printable(title), style="bold", markup=False, highlight=False, soft_wrap=True)
    screen.print(drawn)


def line(text: str) -> None:
    """Prints one line on stdout."""
    sys.stdout.write(printable(text, _LAYOUT) + "\n")


def data_line(text: str) -> None:
    """Prints a line for machines on stdout, as it is."""
    sys.stdout.write(text + "\n")


def flush() -> None:
    """Sends what was printed on its way, for who waits for it at the other end of a pipe."""
    sys.stdout.flush()


def print_json(content: Any) -> None:
    """Prints JSON on stdout."""
    sys.stdout.write(json.dumps(content, indent=2, default=str) + "\n")


def error(message: str) -> None:
    """Prints the one line of an error on stderr."""
    sys.stderr.write(f"error: {printable(message)}\n")


def _cell(value: Any) -> str:
    from rich.markup import escape  # noqa: TID251 - the one module that may

    return "-" if value is None else escape(printable(str(value)))


def _console(*, stderr: bool) -> Console:
    from rich.console import Console  # noqa: TID251 - the one module that may

    stream = sys.stderr if stderr else sys.stdout
    # Without a terminal the width is unknown, and a table that wraps at 80 columns is useless in a log.
    return Console(stderr=stderr, width=None if stream.isatty() else 160)


def _stderr() -> Console:
    return _console(stderr=True)


@contextlib.contextmanager
def _bar(description: str, total: float | None) -> Iterator[Advance]:
    from rich.progress import (  # noqa: TID251 - the one module that may
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}", markup=False),
    )
    with Progress(*columns, console=_stderr(), transient=True) as progress:
        task = progress.add_task(printable(description), total=total, status="")
        yield lambda steps, status: progress.update(task, advance=steps, status=printable(status))
