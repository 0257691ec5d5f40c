"""What `ttl-deploy bench --paper` shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ttl_deploy.cli import console
from ttl_deploy.errors import BadInputError

if TYPE_CHECKING:
    from ttl_deploy.complexity import RowResult


def show_paper(paths: Sequence[Path] | None, *, out: Path | None, as_json: bool) -> int:
    """Checks the papers' tables, prints them, and gives the exit code: 1 where a row deviates.

    Raises:
        BadInputError: There is something to measure as well.
    """
    if paths:
        raise BadInputError(
            f"--paper measures nothing, but was given {paths[0]}", fix="run the two one after the other"
        )
    from ttl_deploy.workflows.paper import check_paper

    report = check_paper(out=out, reporter=console.ConsoleReporter(quiet=as_json))
    if as_json:
        console.print_json(report.as_dict())
    else:
        _print(report.results)
        console.line(f"{report.summary} Written: {', '.join(map(str, report.files))}")
    return 0 if report.passed else 1


def _print(results: list[RowResult]) -> None:
    from ttl_deploy.report.complexity import cell_texts, explanation

    texts = list(dict.fromkeys(text for text in map(explanation, results) if text))
    console.table(
        "The papers' complexity tables: printed, rebuilt, deviation",
        ("table", "row", "P (M)", "ours", "off by", "MACs (G)", "ours", "off by", "verdict"),
        [
            (
                result.table.name,
                result.row.title,
                *(text or None for text in (*cell_texts(result, "parameters"), *cell_texts(result, "macs"))),
                result.verdict + (f" [{texts.index(explanation(result)) + 1}]" if explanation(result) else ""),
            )
            for result in results
        ],
        right_from=2,
    )
    for number, text in enumerate(texts, start=1):
        console.line(f"[{number}] {text}")
