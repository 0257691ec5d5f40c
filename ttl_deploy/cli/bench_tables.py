"""How what was measured is printed: one table per kind of result. A disturbed number is not printed as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ttl_deploy.cli import console

if TYPE_CHECKING:
    from ttl_deploy.latency.ceiling import Ceiling
    from ttl_deploy.latency.measure import Measurement
    from ttl_deploy.verbs.bench import BenchRow
    from ttl_deploy.verbs.compare import Duel
    from ttl_deploy.verbs.estimate import LatencyEstimate
    from ttl_deploy.verbs.paper_times import PaperTimes

INCONCLUSIVE = "inconclusive"


def exit_code(*, sure: bool, allowed: bool) -> int:
    """The exit code of a measurement in which nothing failed: 1 where something is inconclusive and that not allowed.

    Args:
        sure: Whether nothing is inconclusive.
        allowed: Whether the user accepts what is.
    """
    if sure or allowed:
        return 0
    console.ConsoleReporter(quiet=True).warn(
        "something is inconclusive: exit code 1; measure again when the machine is at rest, or accept it with"
        " --allow-inconclusive"
    )
    return 1


def print_rows(rows: Sequence[BenchRow]) -> None:
    """The rows of a benchmark, and below them what disturbed which."""
    first = rows[0].measurement
    several = len({(row.measurement.batch, row.measurement.threads) for row in rows}) > 1
    per = "milliseconds per query, queueing included" if first.server else "milliseconds per call"
    where = "" if several else f", {first.threads} threads, batch {first.batch}"
    columns = ["model", "engine", "type", "M params", "G MACs"]
    columns += ["batch", "threads"] if several else []
    columns += ["p50", "p90", "p95", "p99", "mean ± std", "images/s", "n", "roof", "speed"]
    console.table(
        f"{_machine()}{where}, {first.scenario}: {per}",
        columns,
        [_row(row, several) for row in rows],
        right_from=3,
    )
    if any(row.roofline_percent is not None for row in rows):
        console.line("roof: least time by this machine's ceiling (2 operations per MAC), per cent of the median")
    if any(row.ratio is not None for row in rows):
        console.line("speed: against the whole network in PyTorch eager, medians")
    _print_device_times(rows)
    _print_servers(rows)
    _print_noise([row.measurement for row in rows])


def print_duel(duel: Duel) -> None:
    """Two things compared."""
    ratio = duel.ratio
    console.line(f"A: {ratio.a}, median {_ms(duel.a.typical_ms)} ms, {len(duel.a.samples_ms)} samples")
    console.line(f"B: {ratio.b}, median {_ms(duel.b.typical_ms)} ms, {len(duel.b.samples_ms)} samples")
    if ratio.ratio is None:
        console.line(f"{INCONCLUSIVE}: {ratio.reason}")
        return
    console.line(
        f"A takes {ratio.ratio:.3f} of B's time, 95 % interval {ratio.low:.3f} to {ratio.high:.3f}"
        f" ({ratio.blocks} blocks of each, in turns): {ratio.verdict.replace('a is', 'A is').replace('b is', 'B is')}"
    )


def print_ceiling(ceiling: Ceiling) -> None:
    """What the machine can do."""
    threads = f", {ceiling.threads} threads" if ceiling.device == "cpu" else ""
    console.table(
        f"{_machine()}{threads}: the best that was reached",
        ("what", "rate", "unit", "by", "kernel"),
        [
            (r.what, f"{r.value:.1f}", "GB/s" if r.what in ("copy", "triad") else "GOP/s", r.by, r.kernel)
            for r in ceiling.rates
        ],
        right_from=1,
    )
    if ceiling.isa:
        console.line(f"instruction set, by oneDNN: {ceiling.isa}")
    for what, reason in ceiling.refused.items():
        console.line(f"{what}: {reason}; rows in {what} get no per cent of the roofline")
    console.line("GOP/s: 2 operations per multiply-add, square matrix products; GB/s: bytes read and written")
    if ceiling.noise:
        console.line(f"{INCONCLUSIVE}, not kept: {ceiling.noise}")


def print_estimates(estimates: Sequence[LatencyEstimate], target: str) -> None:
    """What the models would need at least elsewhere."""
    from ttl_deploy.verbs.estimate import LABEL, MEANING

    console.table(
        f"{target}: {LABEL}; least milliseconds per call",
        ("model", "precision", "batch", f"least ms ({LABEL})", "limited by", "measured", "estimate's error"),
        [
            (
                e.model,
                e.precision,
                e.batch,
                _ms(e.least_ms),
                e.limit,
                _ms(e.measured_ms),
                None if e.error is None else f"-{e.error:.0%}",
            )
            for e in estimates
        ],
        right_from=2,
    )
    console.line(MEANING)


def print_paper_times(found: PaperTimes) -> None:
    """The paper's ratios of run times beside those measured here."""
    console.table(
        f"{_machine()}: run time relative to FTL at batch 1, PyTorch eager on {found.device}",
        ("table", "row", "against", "paper's device", "paper", "here", "95 % interval", "paper ms", "here ms"),
        [
            (
                row.table,
                row.row,
                row.baseline,
                row.machine,
                f"{row.paper_ratio:.3f}",
                INCONCLUSIVE if row.measured.ratio is None else f"{row.measured.ratio:.3f}",
                f"{row.measured.low:.3f} to {row.measured.high:.3f}",
                f"{row.paper_ms:g}",
                _ms(row.measured_ms) if row.same_hardware else None,
            )
            for row in found.rows
        ],
        right_from=4,
    )
    console.line("milliseconds are set beside the paper's only on the hardware it names; elsewhere only ratios compare")
    for reason in dict.fromkeys(row.measured.reason for row in found.rows if row.measured.reason):
        console.line(f"{INCONCLUSIVE}: {reason}")
    for words in found.missing:
        console.line(f"not measured: {words}")


def _row(row: BenchRow, several: bool) -> list[Any]:
    m = row.measurement
    quiet = not m.inconclusive
    mean = _ms(m.mean_ms) if m.std_ms is None else f"{m.mean_ms:.2f} ± {m.std_ms:.2f}"
    percentiles = [_ms(value) for value in (m.p50_ms, m.p90_ms, m.p95_ms, m.p99_ms)]
    return [
        row.model,
        m.runtime,
        m.precision,
        f"{row.parameters / 1e6:.2f}",
        f"{row.macs / 1e9:.3f}",
        *([m.batch, m.threads] if several else []),
        *([*percentiles, mean] if quiet else [*[None] * len(percentiles), INCONCLUSIVE]),
        f"{m.throughput:.1f}" if quiet else None,
        len(m.samples_ms),
        None if row.roofline_percent is None else f"{row.roofline_percent:.0f} %",
        None if row.ratio is None or row.ratio_noise else f"{row.ratio:.2f}x",
    ]


def _print_device_times(rows: Sequence[BenchRow]) -> None:
    from statistics import median

    staged = [(row, row.measurement.stages) for row in rows if row.measurement.stages is not None]
    if not staged:
        return
    console.table(
        "on the GPU by CUDA events: median milliseconds",
        ("model", "engine", "to device", "network", "to host", "CUDA graph", "peak MiB"),
        [
            (
                row.model,
                row.measurement.runtime,
                _ms(median(stages.to_device_ms)),
                _ms(median(stages.compute_ms)),
                _ms(median(stages.to_host_ms)),
                "yes" if row.measurement.cuda_graph else "no",
                None if row.measurement.peak_device_mib is None else f"{row.measurement.peak_device_mib:.0f}",
            )
            for row, stages in staged
            if stages is not None
        ],
        right_from=2,
    )


def _print_servers(rows: Sequence[BenchRow]) -> None:
    for row in rows:
        m = row.measurement
        if m.server is None or m.inconclusive:
            continue
        s = m.server
        held = {True: "holds", False: "breaks", None: "too few queries to tell whether it holds"}[s.held]
        rate = f"{s.offered_qps:.1f} queries/s" + (" (the highest found)" if s.searched and s.held else "")
        tail = "no percentile known" if s.percentile is None else f"p{s.percentile} {_ms(s.tail_ms)} ms"
        console.line(
            f"{row.model} {m.runtime}: at {rate} {held} the bound of {s.bound_ms:g} ms: {tail},"
            f" busy {s.utilisation:.0%}, answered {s.completed_qps:.1f}/s, seed {s.seed}"
        )


def _print_noise(measurements: Sequence[Measurement]) -> None:
    for m in measurements:
        if m.noise is not None:
            console.line(f"{INCONCLUSIVE}: {m.label}: {m.noise}")


def _machine() -> str:
    from ttl_deploy import hardware

    return hardware.describe().name


def _ms(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"
