"""`ttl-deploy train`: data and a cut become a run."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.options import (
    DATA,
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

NAME = "train"
ORDER = 3
NEEDS_ARGUMENTS = True

_SERIES, _OUTPUT = "Several runs", "Output"


def run(
    data: Annotated[
        Path | None,
        typer.Argument(help="CSV (path,label[,patient_id][,split]), folder with one folder per class, or .npz."),
    ] = None,
    backbone: Backbone = "resnet50",
    method: Annotated[
        str,
        typer.Option(
            help="ttl: keep the bottom up to the cut. tf: slim what is above it. lwft: train only above it. "
            "ftl: keep and train everything.",
            rich_help_panel=MODEL,
        ),
    ] = "ttl",
    cut: Annotated[
        str | None,
        typer.Option(help="Cut point: a name of `ttl-deploy cuts`, its index, or block:N.", rich_help_panel=MODEL),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            help="lwft: number of layers to train, the head included, instead of --cut.", rich_help_panel=MODEL
        ),
    ] = None,
    head: Head = "gap",
    slim: Annotated[int, typer.Option(help="tf: divisor of the channels above the cut.", rich_help_panel=MODEL)] = 2,
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
    split: Annotated[str, typer.Option(help="Train/validation/test in per cent.", rich_help_panel=DATA)] = "64/16/20",
    split_seed: SplitSeed = 0,
    crop: Annotated[
        str,
        typer.Option(help="center: the largest centred square. none: the whole image squeezed.", rich_help_panel=DATA),
    ] = "center",
    high_bit_depth: Annotated[
        str,
        typer.Option(help="16-bit images: full-range, or min-max of each image.", rich_help_panel=DATA),
    ] = "full-range",
    cache: PixelCache = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Most epochs.", show_default="until the rate is too small", rich_help_panel=PROTOCOL, min=1),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            help="Most minutes of training; the epoch in which they end is dropped, unless it is the first.",
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
    seed: Seed = 0,
    precision: TrainingPrecision = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=PROTOCOL)] = "auto",
    cache_features: Annotated[
        int,
        typer.Option(
            help="lwft: keep the frozen layers' features of this many augmentation views on disk and train on them, "
            "about twice as fast; 0: compute them every time, as in the paper. With as many views as epochs the "
            "result is the same.",
            rich_help_panel=PROTOCOL,
            min=0,
        ),
    ] = 0,
    cache_limit: Annotated[
        float, typer.Option(help="Most disk for --cache-features, GiB.", rich_help_panel=PROTOCOL)
    ] = 8.0,
    workers: Annotated[int, typer.Option(help="Processes that augment images.", rich_help_panel=PROTOCOL, min=0)] = 0,
    repeats: Annotated[
        int, typer.Option(help="Train with this many seeds on one split.", rich_help_panel=_SERIES, min=1)
    ] = 1,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate with this many folds.", rich_help_panel=_SERIES, min=2)
    ] = None,
    incremental: Annotated[
        bool,
        typer.Option(
            "--incremental", help="lwft: train 1 layer, then 2, … until --target-auprc is met.", rich_help_panel=_SERIES
        ),
    ] = False,
    target_auprc: Annotated[
        float | None, typer.Option(help="Validation AUPRC that ends --incremental.", rich_help_panel=_SERIES)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", rich_help_panel=_OUTPUT)] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with this interrupted run, or lengthen it with --epochs; other options are the run's own.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    moved: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="With --resume: where the run's images are now, if they moved; other images are refused.",
            show_default="as recorded",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is at --out.", rich_help_panel=_OUTPUT)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_OUTPUT)] = False,
) -> None:
    """Train a model and evaluate it: a run folder with weights, split, history, predictions and metrics.

    Defaults are the protocol of the TTL paper (Peng 2023, appendix A.1).
    """
    from ttl_deploy.data.columns import Columns
    from ttl_deploy.training import train as training

    reporter = console.ConsoleReporter(quiet=as_json)
    if resume is not None:
        place = moved or data
        resumed = training.resume(
            resume, epochs=epochs, max_minutes=max_minutes, data=place, cache=cache, reporter=reporter
        )
        _show(resumed, as_json)
        return
    if data is not None and moved is not None:
        raise BadInputError("DATA and --data are both given", where=moved, fix="leave --data out, or pass --resume RUN")
    data = data or moved
    if data is None or out is None:
        raise BadInputError("DATA and --out are needed", fix="or pass --resume RUN; see ttl-deploy train --help")
    options = training.DataOptions(
        data,
        [name.strip() for name in classes.split(",")] if classes else None,
        ignore_other_labels,
        patient_pattern,
        skip_unreadable,
        cache,
        Columns(path_column, label_column, patient_column, split_column),
    )
    request = training.Request(
        backbone,
        method,
        cut,
        layers,
        head,
        slim,
        image_size,
        channels,
        weights,
        device,
        precision,
        {
            "preprocess": {"crop": crop, "high_bit_depth": high_bit_depth},
            "augment": {"crop_scale": crop_scale, "rotation": rotation},
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "epochs": epochs,
            "max_minutes": max_minutes,
            "patience": patience,
            "class_weights": class_weights,
            "seed": seed,
            "workers": workers,
            "cached_views": cache_features,
            "cached_gib": cache_limit,
        },
    )
    division = _division(split, split_seed)
    if incremental or target_auprc is not None:
        _incremental(options, request, out, division, target_auprc, overwrite, reporter, as_json)
    elif repeats > 1 or folds is not None:
        from ttl_deploy.training.series import train_series

        summary = train_series(
            options, request, out, split=division, repeats=repeats, folds=folds, overwrite=overwrite, reporter=reporter
        )
        _show_summary(out, summary, as_json)
    else:
        _show(training.train(options, request, out, split=division, overwrite=overwrite, reporter=reporter), as_json)


def _division(text: str, seed: int) -> Any:
    from ttl_deploy.spec import SplitSpec, make_record

    parts = text.split("/")
    try:
        train, val, test = (float(part) / 100 for part in parts)
    except ValueError:
        raise BadInputError(f"--split {text!r} is not three numbers", fix="for example --split 64/16/20") from None
    return make_record(SplitSpec, train=train, val=val, test=test, seed=seed)


def _incremental(
    options: Any, request: Any, out: Path, division: Any, target: float | None, overwrite: bool, reporter: Any, js: bool
) -> None:
    from ttl_deploy.training.series import train_incremental

    if target is None:
        raise BadInputError("--incremental needs a target", fix="for example --target-auprc 0.9")
    summary = train_incremental(
        options, request, out, split=division, target_auprc=target, overwrite=overwrite, reporter=reporter
    )
    _show_summary(out, summary, js)


def _show(run: Any, as_json: bool) -> None:
    metrics = run.metrics()
    if as_json:
        console.print_json({"run": str(run.folder), **metrics})
        return
    test = metrics["test"]
    rows = [
        ("rarest class", _rarest(test["per_class"])),
        ("AUROC", _with_interval(test, "auroc")),
        ("AUPRC", _with_interval(test, "auprc")),
        ("accuracy", f"{test['accuracy']:.4f}"),
        ("Brier score", f"{test['brier']:.4f}"),
        ("calibration error", f"{test['ece']:.4f}"),
        ("parameters", f"{metrics['parameters'] / 1e6:.3f} M"),
        ("MACs", f"{metrics['macs'] / 1e9:.3f} G"),
        ("best epoch", f"{metrics['best_epoch']} of {metrics['epochs']}"),
        ("time", f"{metrics['seconds'] / 60:.1f} min"),
    ]
    model = run.config.model
    what = f"{model.backbone} {model.method}" + (f" {model.cut}" if model.cut else "")
    console.table(f"{run.folder}: {what}, test split, {metrics['images']['test']} images", ("", "value"), rows)
    console.line(f"next: ttl-deploy export {quote(str(run.folder))}")


def _rarest(classes: list[dict[str, Any]]) -> str:
    """The class with the fewest images: the one that decides how much the numbers say."""
    least = min(classes, key=lambda single: int(single["images"]))
    patients = least.get("patients")
    of = "" if patients is None else f" of {patients} patients"
    return f"{least['name']}: {least['images']} images{of}"


def _with_interval(test: dict[str, Any], name: str) -> str:
    interval = test.get(f"{name}_interval")
    bounds = f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
    return f"{test[name]:.4f}{bounds}"


def _show_summary(out: Path, summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.print_json({"series": str(out), **summary})
        return
    rows = [
        (name, f"{v['mean']:.4f}", None if v["std"] is None else f"{v['std']:.4f}", len(v["values"]))
        for name, v in summary["test"].items()
    ]
    console.table(f"{out}: test sides of {len(summary['runs'])} runs", ("metric", "mean", "std", "runs"), rows)
    if "chosen" in summary:
        met = "the target was met" if summary["target_met"] else "the target was not met; best on validation"
        console.line(f"chosen: {out / summary['chosen']} ({met})")
