"""`ttl-deploy search`: data becomes the cut, and a trained model cut there."""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.options import (
    MODEL,
    PROTOCOL,
    Backbone,
    BatchSize,
    Channels,
    Classes,
    ClassWeights,
    CropScale,
    Head,
    IgnoreOtherLabels,
    ImageSize,
    LabelColumn,
    LearningRate,
    PathColumn,
    Patience,
    PatientColumn,
    PatientPattern,
    PixelCache,
    Rotation,
    Seed,
    SkipUnreadable,
    SplitColumn,
    SplitSeed,
    TrainingPrecision,
    Weights,
)
from ttl_deploy.errors import BadInputError

NAME = "search"
ORDER = 4
NEEDS_ARGUMENTS = True

_SEARCH, _BUDGET, _ENGINE, _OUTPUT = "Search", "Budget", "Where it runs", "Output"

_UNITS = {"": 1.0, "ms": 1.0, "s": 1e3, "us": 1e-3}
_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


def run(
    data: Annotated[
        Path, typer.Argument(help="CSV (path,label[,patient_id][,split]), folder with one folder per class, or .npz.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the search; the same command goes on with one that was killed.", rich_help_panel=_OUTPUT
        ),
    ],
    backbone: Backbone = "resnet50",
    method: Annotated[str, typer.Option(help="ttl, tf or lwft; see train.", rich_help_panel=MODEL)] = "ttl",
    head: Head = "gap",
    weights: Weights = "imagenet",
    image_size: ImageSize = None,
    channels: Channels = 3,
    classes: Classes = None,
    ignore_other_labels: IgnoreOtherLabels = False,
    patient_pattern: PatientPattern = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    patient_column: PatientColumn = None,
    split_column: SplitColumn = None,
    skip_unreadable: SkipUnreadable = False,
    split_seed: SplitSeed = 0,
    cache: PixelCache = None,
    strategy: Annotated[
        str,
        typer.Option(
            help="exhaustive: every cut to the end. hierarchical: block ends, then the layers around the best (the "
            "paper's). halving: all for a few epochs, the better ones for longer. svcca: one whole network, one cut "
            "(the paper's appendix C.1). warm: each from the one below. auto: probes on a short whole network, then "
            "short trainings of the few that they point at; about a quarter of exhaustive's work from 8 epochs on, "
            "more of it with fewer.",
            rich_help_panel=_SEARCH,
        ),
    ] = "auto",
    metric: Annotated[
        str, typer.Option(help="auprc or auroc, on the validation side.", rich_help_panel=_SEARCH)
    ] = "auprc",
    repeats: Annotated[int, typer.Option(help="Seeds per candidate.", rich_help_panel=_SEARCH, min=1)] = 1,
    prefer: Annotated[
        str,
        typer.Option(
            help="What wins among cuts that the images cannot tell apart, being within one standard error of the best. "
            "block: the nearest to the block cutoff that the paper's tables show. smaller: the smallest model. "
            "accuracy: the best value all the same.",
            rich_help_panel=_SEARCH,
        ),
    ] = "block",
    divisions: Annotated[
        int,
        typer.Option(
            help="Divisions of training and validation images, by patient, that speak together for cuts that one "
            "cannot tell apart: up to 4 are trained on each of the others. The test images stay out. 1: the first "
            "only.",
            rich_help_panel=_SEARCH,
            min=1,
        ),
    ] = 3,
    neighbours: Annotated[
        int | None,
        typer.Option(
            help="hierarchical: look at so many layers on each side of the best block cutoff.",
            show_default="all up to the next block cutoffs",
            rich_help_panel=_SEARCH,
            min=1,
        ),
    ] = None,
    eta: Annotated[int, typer.Option(help="halving: keep one in so many.", rich_help_panel=_SEARCH, min=2)] = 3,
    threshold: Annotated[
        float,
        typer.Option(
            help="svcca: overlap with random features from which reuse has ended, 0 to 1.", rich_help_panel=_SEARCH
        ),
    ] = 0.5,
    early_stop: Annotated[
        bool | None,
        typer.Option(
            "--early-stop/--no-early-stop",
            help="End a training whose fitted learning curve cannot reach the best.",
            show_default="only in halving and auto",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(
            help="Longest median latency of one image, such as 5ms; candidates are measured before training.",
            rich_help_panel=_BUDGET,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where the latency counts: cpu or cuda, measured; or a target device, such as "
            "quadro-rtx-6000: the least it could take there, estimated.",
            rich_help_panel=_BUDGET,
        ),
    ] = "cpu",
    max_params: Annotated[
        str | None, typer.Option(help="Most parameters, such as 8.5M.", rich_help_panel=_BUDGET)
    ] = None,
    max_macs: Annotated[
        str | None, typer.Option(help="Most multiply-adds of one image, such as 3.3G.", rich_help_panel=_BUDGET)
    ] = None,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency/--no-latency",
            help="Measure the latency of every trained candidate for the Pareto picture.",
            rich_help_panel=_BUDGET,
        ),
    ] = True,
    epochs: Annotated[
        int,
        typer.Option(
            help="Most epochs of a candidate. Not in the paper, which trains until the rate is too small (0: so here): "
            "a search trains many.",
            rich_help_panel=PROTOCOL,
            min=0,
        ),
    ] = 30,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            help="Most minutes of one training; the epoch in which they end is dropped, unless it is the first. The "
            "result then depends on the machine's speed.",
            show_default="no limit",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    learning_rate: LearningRate = 1e-4,
    batch_size: BatchSize = 64,
    patience: Patience = 10,
    class_weights: ClassWeights = "none",
    rotation: Rotation = 10.0,
    crop_scale: CropScale = 0.8,
    cache_features: Annotated[
        int,
        typer.Option(
            help="lwft: augmentation views of the frozen features kept on disk; 0: none.",
            rich_help_panel=PROTOCOL,
            min=0,
        ),
    ] = 4,
    seed: Seed = 0,
    precision: TrainingPrecision = "auto",
    train_device: Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=PROTOCOL)] = "auto",
    engine: Annotated[
        str, typer.Option(help="local: one trial after the other. ray: as a cluster allows.", rich_help_panel=_ENGINE)
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="ray: address of a running cluster, or auto. Its nodes must see the data and --out.",
            show_default="one is started here",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Cores of one trial. Results are the same in both engines for the same number.",
            show_default="all usable ones",
            rich_help_panel=_ENGINE,
            min=1,
        ),
    ] = None,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(
            help="ray: GPUs of one trial; 0.5: two share one.",
            show_default="1 with --train-device cuda, else 0",
            rich_help_panel=_ENGINE,
            min=0,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is at --out.", rich_help_panel=_OUTPUT)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_OUTPUT)] = False,
) -> None:
    """Find where to cut a network for your images, and train the model cut there.

    Leaves OUT/winner, an ordinary run for `export`, and OUT/report.html with every candidate's accuracy and cost.
    """
    from ttl_deploy import hardware
    from ttl_deploy.aliases import DEVICES, device_of, meant
    from ttl_deploy.data.columns import Columns
    from ttl_deploy.search.engines import open_engine
    from ttl_deploy.search.options import MEASURED, Budget, SearchOptions
    from ttl_deploy.search.search import search
    from ttl_deploy.spec import SplitSpec, make_record
    from ttl_deploy.training.train import DataOptions, Request

    train_device = device_of(train_device, ("auto", "cpu", "cuda"))
    cores = threads or hardware.usable_cores()
    budget = make_record(
        Budget,
        latency_ms=_number("--max-latency", max_latency, _UNITS),
        parameters=_whole("--max-params", max_params),
        macs=_whole("--max-macs", max_macs),
        device=meant(device, DEVICES, MEASURED),
    )
    options = make_record(
        SearchOptions,
        strategy=strategy,
        metric=metric,
        repeats=repeats,
        prefer=prefer,
        divisions=divisions,
        neighbours=neighbours,
        eta=eta,
        threshold=threshold,
        early_stop=early_stop,
        threads=cores,
        budget=budget,
        latency=latency,
    )
    settings: dict[str, Any] = {
        "augment": {"crop_scale": crop_scale, "rotation": rotation},
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "epochs": epochs or None,
        "patience": patience,
        "class_weights": class_weights,
        "seed": seed,
        **({"cached_views": cache_features} if method == "lwft" else {}),
        # Left out where it is not given, so that trials of an earlier version are still known.
        **({"max_minutes": max_minutes} if max_minutes is not None else {}),
    }
    request = Request(
        backbone,
        method,
        None,
        None,
        head,
        image_size=image_size,
        channels=channels,
        weights=weights,
        device=train_device,
        precision=precision,
        settings=settings,
    )
    images = DataOptions(
        data,
        [name.strip() for name in classes.split(",")] if classes else None,
        ignore_other_labels,
        patient_pattern,
        skip_unreadable,
        cache,
        Columns(path_column, label_column, patient_column, split_column),
    )
    gpus = gpus_per_trial if gpus_per_trial is not None else float(train_device == "cuda")
    with open_engine(engine, threads=cores, gpus=gpus, address=address) as where:
        outcome = search(
            images,
            request,
            out,
            options=options,
            split=SplitSpec(seed=split_seed),
            engine=where,
            overwrite=overwrite,
            reporter=console.ConsoleReporter(quiet=as_json),
        )
    _show(outcome, as_json)


def _number(option: str, text: str | None, units: dict[str, float]) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"([0-9.]+)\s*([a-z]*)", text.strip().lower())
    try:
        assert match is not None
        return float(match[1]) * units[match[2]]
    except (AssertionError, KeyError, ValueError):
        known = ", ".join(unit for unit in units if unit)
        raise BadInputError(f"{option} {text!r} is not a number with one of the units {known}") from None


def _whole(option: str, text: str | None) -> int | None:
    number = _number(option, text, _SCALES)
    return None if number is None else round(number)


def _show(outcome: Any, as_json: bool) -> None:
    if as_json:
        console.print_json({"search": str(outcome.folder), **outcome.result})
        return
    rows = [
        (
            f"{row.cut} *" if row.cut == outcome.result["cut"] else row.cut,
            None if row.value is None else f"{row.value:.4f} ± {row.error:.4f}",
            row.epochs,
            f"{row.parameters / 1e6:.3f}",
            f"{row.macs / 1e9:.3f}",
            None if row.latency_ms is None else f"{row.latency_ms:.2f}",
            f"{row.seconds:.1f}",
            row.status,
        )
        for row in outcome.rows
    ]
    metric = outcome.result["metric"].upper()
    columns = ("cut", f"val {metric}", "epochs", "params (M)", "MACs (G)", "ms", "trained (s)", "status")
    console.table(f"{outcome.folder}: * the chosen cut", columns, rows)
    console.line(outcome.answer)
    console.line(
        f"report: {outcome.folder / 'report.html'}; next: ttl-deploy export {quote(str(outcome.winner.folder))}"
    )
