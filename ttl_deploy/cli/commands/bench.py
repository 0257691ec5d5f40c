"""`ttl-deploy bench`: how fast an artifact is here, beside PyTorch and the whole network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ttl_deploy.cli import bench_tables, console
from ttl_deploy.cli.options import Key, Trust, device_word, integers
from ttl_deploy.cli.paper import show_paper
from ttl_deploy.errors import BadInputError

NAME = "bench"
ORDER = 6
NEEDS_ARGUMENTS = True

_SCENARIO = "Scenario"
_COMPARE = "Comparison"
_MACHINE = "Machine and roofline"
_PAPER = "Paper"
_REGRESSION = "This program's own speed"

COMPARE_ROUNDS = 12
ROW_ROUNDS = 3


def run(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Artifacts or runs.", metavar="ARTIFACT|RUN...", show_default=False)
    ] = None,
    batch: Annotated[str, typer.Option(help="Images per call; several: 1,8,32.")] = "1",
    threads: Annotated[
        str | None, typer.Option(help="Threads per call; several: 1,2.", show_default="one per core")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.", callback=device_word)] = "cpu",
    runtime: Annotated[
        list[str] | None, typer.Option(help="Engine; may be given several times.", show_default="all that can")
    ] = None,
    torch: Annotated[
        str, typer.Option(help="How PyTorch runs: eager, compile, bf16, cuda-graph; several with commas.")
    ] = "eager",
    whole: Annotated[bool, typer.Option(help="Measure the whole (FTL) network of the backbone too.")] = True,
    min_samples: Annotated[int, typer.Option(help="Least samples per row.", min=1)] = 60,
    min_seconds: Annotated[float, typer.Option(help="Least seconds per row.", min=0)] = 3.0,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="How many times the rows take turns; to compare, at least 6: fewer give no interval of 95 %.",
            min=1,
            show_default=f"{ROW_ROUNDS}; {COMPARE_ROUNDS} to compare",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="JSON file for the result with every raw sample; with --paper the folder of the report, [reports]."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Not needed, for runs whose images moved neither: latency is measured on random pixels, and no image "
            "is read. Taken so that one set of options serves export, verify and bench.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps exported whole networks and ceilings.", show_default="the user's"),
    ] = None,
    key: Key = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, raw samples included.")] = False,
    allow_inconclusive: Annotated[
        bool,
        typer.Option("--allow-inconclusive", help="Exit with 0 too where the machine was too disturbed to tell."),
    ] = False,
    scenario: Annotated[
        str,
        typer.Option(
            help="As in MLPerf Inference: single-stream, offline (throughput over many images in batches), or server"
            " (random arrivals that queue).",
            rich_help_panel=_SCENARIO,
        ),
    ] = "single-stream",
    queries: Annotated[
        int, typer.Option(help="Images (offline) or arrivals (server).", min=1, rich_help_panel=_SCENARIO)
    ] = 1024,
    qps: Annotated[
        float | None,
        typer.Option(
            help="Arrivals per second (server).",
            show_default="search the highest rate that holds the bound",
            rich_help_panel=_SCENARIO,
            min=0.001,
            max=1e6,
        ),
    ] = None,
    latency_bound: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds that the 99th percentile may take, queueing included (server).",
            rich_help_panel=_SCENARIO,
            min=0.001,
            max=1e7,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the arrivals.", min=0, rich_help_panel=_SCENARIO)] = 0,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Measure two in turns, A B B A, and give the ratio of their times with an interval of 95 %. Each is"
            " an artifact or a run, and after an @ its engine: PATH@openvino, PATH@onnxruntime, RUN@pytorch,"
            " RUN@compile, RUN@bf16.",
            metavar="A B",
            rich_help_panel=_COMPARE,
        ),
    ] = None,
    max_uncertainty: Annotated[
        float,
        typer.Option(
            help="Half the interval's width, per cent of the ratio, above which no ratio is given.",
            min=0,
            rich_help_panel=_COMPARE,
        ),
    ] = 5.0,
    ceiling: Annotated[
        bool,
        typer.Option(
            "--ceiling",
            help="Measure what this machine can do at most (GOP/s per precision, GB/s), print it, keep it.",
            rich_help_panel=_MACHINE,
        ),
    ] = False,
    roofline: Annotated[
        bool,
        typer.Option(
            help="Show each row's per cent of the roofline; the ceiling is measured where it is not known.",
            rich_help_panel=_MACHINE,
        ),
    ] = True,
    target: Annotated[
        str | None,
        typer.Option(
            help="Estimate the least time on another device too, such as quadro-rtx-6000 or core-i9-9920x.",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="Check the papers' complexity tables instead, and write the report.",
            rich_help_panel=_PAPER,
        ),
    ] = False,
    paper_times: Annotated[
        bool,
        typer.Option(
            "--paper-times",
            help="Measure the networks of the paper's tables, untrained, in PyTorch eager, and set the ratios of their"
            " times beside the paper's.",
            rich_help_panel=_PAPER,
        ),
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="Time this program's own workloads and compare with this file.",
            metavar="FILE",
            rich_help_panel=_REGRESSION,
        ),
    ] = None,
    max_regression: Annotated[
        str | None,
        typer.Option(
            help="With --baseline: most slowdown, exit code 1 above.", show_default="10%", rich_help_panel=_REGRESSION
        ),
    ] = None,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="With --baseline: write the file.", rich_help_panel=_REGRESSION)
    ] = False,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            help="With --baseline: only this one; may be repeated.", show_default="all", rich_help_panel=_REGRESSION
        ),
    ] = None,
) -> int:
    """Measure latency, each row in its own process, in turns, until there are enough samples.

    An artifact inside its run is measured in every engine, as PyTorch eager, and beside the whole network of its
    backbone (untrained: weights do not change latency). A percentile is blank where the samples are too few, and a
    row says inconclusive where the machine was too disturbed for a number; the samples are kept in any case. Exit
    code 1 where anything is inconclusive, as verify does, unless --allow-inconclusive.
    """
    if data is not None and not data.exists():
        raise BadInputError("no such file or folder", where=data, fix="leave --data out: no image is needed here")
    gate = baseline is not None or max_regression is not None or update_baseline or bool(workload)
    modes = {"--compare": compare is not None, "--ceiling": ceiling, "--paper-times": paper_times}
    # These two tell themselves that they measure no paths.
    _one_mode({"--paper": paper, "--baseline": gate, **modes}, None if paper or gate else paths)
    if paper:
        return show_paper(paths, out=out, as_json=as_json)
    if gate:
        from ttl_deploy.cli import regression

        return regression.run(
            baseline,
            max_regression,
            update_baseline=update_baseline,
            names=workload,
            paths=paths,
            allow_inconclusive=allow_inconclusive,
            as_json=as_json,
        )
    given: dict[str, Any] = {"device": device, "out": out, "reporter": console.ConsoleReporter(quiet=as_json)}
    counts = integers(threads, "--threads")
    batches = integers(batch, "--batch") or (1,)
    if ceiling:
        sure = _ceiling(counts, device, cache, out, as_json, given["reporter"])
    elif compare is not None:
        length = {"min_samples": min_samples, "min_seconds": min_seconds, "blocks": rounds or COMPARE_ROUNDS}
        single = {"batch": _single(batches, "--batch"), "threads": counts and _single(counts, "--threads")}
        more = {"key": key, "trust": trust, "most_uncertain": max_uncertainty / 100}
        sure = _compare(compare, {**given, **length, **single, **more}, as_json)
    elif paper_times:
        sure = _paper_times({**given, "threads": counts and _single(counts, "--threads"), "blocks": rounds}, as_json)
    else:
        options = {
            "batch": batches,
            "threads": counts,
            "runtimes": runtime,
            "variants": tuple(name.strip() for name in torch.split(",")),
            "compare_whole": whole,
            "scenario": scenario,
            "queries": queries,
            "qps": qps,
            "latency_bound_ms": latency_bound,
            "seed": seed,
            "min_samples": min_samples,
            "min_seconds": min_seconds,
            "rounds": rounds or ROW_ROUNDS,
            "roofline": roofline,
            "key": key,
            "trust": trust,
            "cache": cache,
        }
        sure = _rows(paths or [], {**given, **options}, target, as_json)
    return bench_tables.exit_code(sure=sure, allowed=allow_inconclusive)


def _rows(paths: list[Path], options: dict[str, Any], target: str | None, as_json: bool) -> bool:
    """Measures and prints; whether no row is inconclusive."""
    from ttl_deploy.bench.targets import get_target
    from ttl_deploy.workflows.bench import bench, record
    from ttl_deploy.workflows.estimate import estimate

    if target is not None:
        get_target(target)  # a wrong name is told before anything is measured
    rows = bench(paths, **options)
    estimates = estimate(rows, target) if target is not None else []
    sure = not any(row.measurement.inconclusive for row in rows)
    if as_json:
        more = {"estimates": [e.as_dict() for e in estimates]} if target is not None else {}
        console.print_json({**record(rows), **more})
        return sure
    bench_tables.print_rows(rows)
    if target is not None:
        bench_tables.print_estimates(estimates, target)
    return sure


def _compare(pair: tuple[str, str], options: dict[str, Any], as_json: bool) -> bool:
    """Compares and prints; whether there is a ratio."""
    from ttl_deploy.workflows.compare import compare

    duel = compare(*pair, **options)
    if as_json:
        console.print_json(duel.as_dict())
    else:
        bench_tables.print_duel(duel)
    return duel.ratio.ratio is not None


def _ceiling(
    counts: tuple[int, ...] | None, device: str, cache: Path | None, out: Path | None, as_json: bool, reporter: Any
) -> bool:
    """Measures and prints; whether nothing disturbed it."""
    from ttl_deploy import files
    from ttl_deploy.bench.ceiling import ceiling

    found = [
        ceiling(threads=count, device=device, cache=cache, refresh=True, reporter=reporter)
        for count in counts or (None,)
    ]
    plain = [each.model_dump(mode="json") for each in found]
    if out is not None:
        files.write_json(out, plain)
    if as_json:
        console.print_json(plain)
    else:
        for each in found:
            bench_tables.print_ceiling(each)
    return all(each.noise is None for each in found)


def _paper_times(options: dict[str, Any], as_json: bool) -> bool:
    """Measures and prints; whether every row has a ratio."""
    from ttl_deploy.workflows.paper_times import paper_times

    found = paper_times(**{key: value for key, value in options.items() if value is not None})
    if as_json:
        console.print_json(found.as_dict())
    else:
        bench_tables.print_paper_times(found)
    return all(row.measured.ratio is not None for row in found.rows)


def _one_mode(modes: dict[str, bool], paths: list[Path] | None) -> None:
    """Raises `BadInputError` where more than one kind of check or measurement is asked for, or none."""
    asked = [*(name for name, wanted in modes.items() if wanted), *(["paths to measure"] if paths else [])]
    if len(asked) > 1:
        raise BadInputError(f"{asked[0]} and {asked[1]} cannot be combined", fix="run them one after the other")
    if not asked:
        raise BadInputError("nothing to measure", fix="pass artifacts or runs, --compare A B or --ceiling")


def _single(values: tuple[int, ...], option: str) -> int:
    if len(values) > 1:
        raise BadInputError("takes one value here", where=option, fix=f"pass {option} {values[0]}")
    return values[0]
