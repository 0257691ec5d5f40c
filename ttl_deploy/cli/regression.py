"""What `ttl-deploy bench --baseline` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ttl_deploy.cli import console
from ttl_deploy.cli.bench_tables import exit_code
from ttl_deploy.errors import BadInputError

if TYPE_CHECKING:
    from ttl_deploy.workflows.regression import Report

DEFAULT_BOUND = "10%"


def run(
    baseline: Path | None,
    max_regression: str | None,
    *,
    update_baseline: bool,
    names: Sequence[str] | None,
    paths: Sequence[Path] | None,
    allow_inconclusive: bool,
    as_json: bool,
) -> int:
    """Checks against the baseline, or writes it.

    Returns:
        The exit code: 1 where a workload became slower than the bound, or where that cannot be told, unless
        `allow_inconclusive`: a gate that stops people for noise is soon switched off, and a real regression stays above
        the bound when the check runs again.

    Raises:
        TtlDeployError: The baseline or an option cannot be used.
    """
    from ttl_deploy.bench.regression import parse_percent

    if baseline is None:
        raise BadInputError("these options need a baseline", fix="pass --baseline benchmarks/baseline.json")
    if paths:
        fix = "measure artifacts and runs without --baseline"
        raise BadInputError("the gate times the program's own workloads, not artifacts", where=paths[0], fix=fix)
    bound = parse_percent(max_regression or DEFAULT_BOUND)
    reporter = console.ConsoleReporter(quiet=as_json)
    if update_baseline:
        _update(baseline, names, reporter, as_json)
        return 0
    from ttl_deploy.workflows.regression import check

    report = check(baseline, bound, names=names, reporter=reporter)
    if as_json:
        console.print_json({**asdict(report), "failed": [c.name for c in report.failed]})
    else:
        _show(report)
    if report.failed:
        return 1
    sure = all(comparison.verdict == "pass" for comparison in report.comparisons)
    return exit_code(sure=sure, allowed=allow_inconclusive)


def _update(baseline: Path, names: Sequence[str] | None, reporter: console.ConsoleReporter, as_json: bool) -> None:
    from ttl_deploy.workflows.regression import update

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
