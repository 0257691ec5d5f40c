"""`ttl-deploy paper`: do the papers' tables hold?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttl_deploy.cli import bench_tables, console
from ttl_deploy.cli.options import INCONCLUSIVE_HELP, device_word
from ttl_deploy.errors import BadInputError

if TYPE_CHECKING:
    from ttl_deploy.complexity import RowResult

NAME = "paper"
ORDER = 23
NEEDS_ARGUMENTS = False

_TIMES = "With --times"


def run(
    times: Annotated[
        bool,
        typer.Option(
            "--times",
            help="Leave the counts, and measure the networks of the TTL paper's tables, untrained, in PyTorch eager: "
            "the ratios of their run times beside the printed ones.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the report; with --times a JSON file for the result with every raw sample.",
            show_default="reports; with --times none",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads per call.", min=1, show_default="one per core", rich_help_panel=_TIMES),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu or cuda.", callback=device_word, show_default="cpu", rich_help_panel=_TIMES),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="How many blocks of each network are measured; at least 6: fewer give no interval of 95 %.",
            min=1,
            show_default="10",
            rich_help_panel=_TIMES,
        ),
    ] = None,
    allow_inconclusive: Annotated[
        bool, typer.Option("--allow-inconclusive", help=INCONCLUSIVE_HELP, rich_help_panel=_TIMES)
    ] = False,
) -> int:
    """Check the papers' complexity tables, or with --times their run times, on networks built anew.

    Every row of the tables whose backbone is in the zoo is rebuilt and counted, and the report written: exit code 1
    where a row deviates and nobody knows why. No weights are fetched. Milliseconds belong to the hardware that they
    were measured on, so of run times only ratios are compared: exit code 1 where one is inconclusive, unless
    --allow-inconclusive.
    """
    if not times:
        given = {"--threads": threads, "--device": device, "--rounds": rounds}
        _refuse_of_times({**given, "--allow-inconclusive": allow_inconclusive or None})
        return _counts(out, as_json)
    options = {"threads": threads, "device": device or "cpu", "out": out}
    return _times({**options, **({} if rounds is None else {"blocks": rounds})}, as_json, allow_inconclusive)


def _refuse_of_times(given: dict[str, Any]) -> None:
    for option, value in given.items():
        if value is not None:
            raise BadInputError("counts are not measured", where=option, fix="leave it out, or add --times")


def _counts(out: Path | None, as_json: bool) -> int:
    """Checks and prints; 1 where a row deviates."""
    from ttl_deploy.verbs.paper import check_paper

    report = check_paper(out=out, reporter=console.ConsoleReporter(quiet=as_json))
    if as_json:
        console.print_json(report.as_dict())
    else:
        _print(report.results)
        console.line(f"{report.summary} Written: {', '.join(map(str, report.files))}")
    return 0 if report.passed else 1


def _times(options: dict[str, Any], as_json: bool, allow_inconclusive: bool) -> int:
    """Measures and prints; 1 where a ratio is inconclusive and that not allowed."""
    from ttl_deploy.verbs.paper_times import paper_times

    found = paper_times(**options, reporter=console.ConsoleReporter(quiet=as_json))
    if as_json:
        console.print_json(found.as_dict())
    else:
        bench_tables.print_paper_times(found)
    return bench_tables.exit_code(sure=found.sure, allowed=allow_inconclusive)


def _print(results: list[RowResult]) -> None:
    from ttl_deploy.pages.complexity import cell_texts, explanation

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
