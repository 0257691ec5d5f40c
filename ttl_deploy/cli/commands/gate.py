"""`ttl-deploy gate`: has this program itself become slower?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.bench_tables import exit_code
from ttl_deploy.cli.options import AllowInconclusive
from ttl_deploy.errors import BadInputError

if TYPE_CHECKING:
    from ttl_deploy.verbs.gate import Report

NAME = "gate"
ORDER = 22
NEEDS_ARGUMENTS = False

_SLOWDOWN = "10%"


def run(
    baseline: Annotated[Path, typer.Argument(help="File to compare with.", metavar="BASELINE")] = Path(
        "benchmarks/baseline.json"
    ),
    max_regression: Annotated[
        str | None, typer.Option(help="Most slowdown of a workload: exit code 1 above.", show_default=_SLOWDOWN)
    ] = None,
    workload: Annotated[
        list[str] | None, typer.Option(help="Only this one; may be given several times.", show_default="all")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Compare nothing: measure, and write the workloads into the file.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    allow_inconclusive: AllowInconclusive = False,
) -> int:
    """Time this program's own workloads and compare them with a baseline: exit code 1 where one became slower.

    A workload is timed in turns with fixed reference work, and their quotient is compared, which a slow clock hardly
    changes. Another processor does: the file holds an entry for each that --update ran on. So does other work on the
    same core, which is measured too and widens the interval. Slower is what lies above the bound with its whole 99 %
    interval. Exit code 1 too where that cannot be told, unless --allow-inconclusive: a
    gate that stops people for noise is soon switched off, and a real slowdown stays above the bound when the check
    runs again.
    """
    reporter = console.ConsoleReporter(quiet=as_json)
    if update:
        if max_regression is not None or allow_inconclusive:
            option = "--allow-inconclusive" if max_regression is None else "--max-regression"
            raise BadInputError("--update compares nothing", where=option, fix=f"leave {option} out, or --update")
        _update(baseline, workload, reporter, as_json)
        return 0
    from ttl_deploy.latency.regression import parse_percent
    from ttl_deploy.verbs.gate import check

    bound = parse_percent(max_regression or _SLOWDOWN)
    report = check(baseline, bound, names=workload, reporter=reporter)
    if as_json:
        console.print_json(report.as_dict())
    else:
        _show(report)
    return 1 if report.failed else exit_code(sure=report.sure, allowed=allow_inconclusive)


def _update(baseline: Path, names: Sequence[str] | None, reporter: console.ConsoleReporter, as_json: bool) -> None:
    from ttl_deploy.verbs.gate import update

    written = update(baseline, names=names, reporter=reporter)
    if as_json:
        console.print_json({name: asdict(estimate) for name, estimate in written.items()})
        return
    console.table(
        f"{baseline}: written",
        ("workload", "ratio", "low", "high", "pairs"),
        [(name, f"{e.ratio:.4f}", f"{e.low:.4f}", f"{e.high:.4f}", e.pairs) for name, e in written.items()],
    )


def _show(report: Report) -> None:
    console.table(
        f"against {report.baseline}: time by that of the reference, change and its 99 % interval",
        ("workload", "verdict", "ratio", "change", "low", "high", "bound", "pairs"),
        [
            (
                c.name,
                c.verdict,
                f"{c.estimate.ratio:.4f}",
                *(None if value is None else f"{value:+.1%}" for value in (c.change, c.low, c.high, c.bound)),
                c.estimate.pairs,
            )
            for c in report.comparisons
        ],
        right_from=2,
    )
    for comparison in report.comparisons:
        if comparison.verdict != "pass":
            console.line(f"{comparison.verdict.upper()}: {comparison.name}: {comparison.reason}")
    if report.foreign:
        console.line(f"the baseline is from elsewhere: {report.foreign}")
