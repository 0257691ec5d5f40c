"""`ttl-deploy train`: data and a cut become a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.forms import request_form
from ttl_deploy.cli.options import Log
from ttl_deploy.cli.recipes import show_paper, tell_recipe
from ttl_deploy.errors import BadInputError
from ttl_deploy.first_use import importing
from ttl_deploy.spec import Data, Model, Protocol
from ttl_deploy.spec.recipe import SeriesDefaults

NAME = "train"
ORDER = 3
NEEDS_ARGUMENTS = True

_SERIES, _OUTPUT = "Several runs", "Output"


@request_form
def run(
    data: Data | None,
    model: Model,
    protocol: Protocol,
    repeats: Annotated[
        int | None,
        typer.Option(
            help="Train with this many seeds on one split.",
            show_default="1, or as --recipe",
            rich_help_panel=_SERIES,
            min=1,
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Cross-validate with this many folds; 1: none.",
            show_default="none, or as --recipe",
            rich_help_panel=_SERIES,
            min=1,
        ),
    ] = None,
    new_splits: Annotated[
        bool,
        typer.Option(
            "--new-splits",
            help="--repeats: divide the images anew for each, so that the deviation is also the division's.",
            rich_help_panel=_SERIES,
        ),
    ] = False,
    fold_holds: Annotated[
        str | None,
        typer.Option(
            help="--folds: a fold is the test side (test), or validation and test as --split has them (val+test): "
            "80/5/15 with 5 folds.",
            show_default="test, or as --recipe",
            rich_help_panel=_SERIES,
        ),
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
    log: Log = None,
    cache: Path | None = None,
) -> None:
    """Train a model and evaluate it: a run folder with weights, split, history, predictions and metrics.

    Defaults are the protocol of the TTL paper (Peng 2023, appendix A.1); --recipe has it to the letter, three runs
    included, and those of the other papers, and prints the papers' accuracies beside yours.
    """
    from ttl_deploy.papers.recipes import with_recipe

    with importing():
        from ttl_deploy.verbs import train as training

    reporter = console.ConsoleReporter(quiet=as_json)
    if resume is not None:
        resumed = training.resume(
            resume,
            epochs=protocol.epochs,
            max_minutes=protocol.max_minutes,
            data=moved or (None if data is None else data.path),
            cache=cache,
            log=log or (),
            reporter=reporter,
        )
        _show(resumed, as_json)
        return
    if data is None or out is None:
        raise BadInputError("DATA and --out are needed", fix="or pass --resume RUN; see ttl-deploy train --help")
    if moved is not None:
        raise BadInputError("DATA and --data are both given", where=moved, fix="leave --data out, or pass --resume RUN")
    data, model, protocol = with_recipe(data, model, protocol)
    tell_recipe(protocol.recipe, reporter)
    if incremental or target_auprc is not None:
        _incremental(data, model, protocol, out, target_auprc, overwrite, log or (), reporter, as_json)
        return
    asked = _series(protocol.recipe, repeats, folds, fold_holds)
    if asked != SeriesDefaults(repeats=1) or new_splits:
        from ttl_deploy.training.series import train_series

        summary = train_series(
            data,
            model,
            protocol,
            out,
            repeats=asked.repeats or 1,
            folds=asked.folds,
            new_splits=new_splits,
            fold_holds=asked.fold_holds,
            overwrite=overwrite,
            log=log or (),
            reporter=reporter,
        )
        _show_summary(out, summary, as_json)
    else:
        trained = training.train(data, model, protocol, out, overwrite=overwrite, log=log or (), reporter=reporter)
        _show(trained, as_json)


def _series(recipe: str | None, repeats: int | None, folds: int | None, holds: str | None) -> SeriesDefaults:
    """How many runs: as the user says, else as the recipe does, else one."""
    from ttl_deploy.papers.recipes import read_recipe
    from ttl_deploy.training.series import fold_part

    said = SeriesDefaults() if recipe is None else read_recipe(recipe).series
    wanted = folds or said.folds or 1
    return SeriesDefaults(
        repeats=repeats or said.repeats or 1,
        folds=wanted if wanted > 1 else None,
        fold_holds=fold_part(holds) if holds is not None else said.fold_holds if wanted > 1 else "test",
    )


def _incremental(
    data: Data,
    model: Model,
    protocol: Protocol,
    out: Path,
    target: float | None,
    overwrite: bool,
    log: Sequence[str],
    reporter: Any,
    as_json: bool,
) -> None:
    from ttl_deploy.training.series import train_incremental

    if target is None:
        raise BadInputError("--incremental needs a target", fix="for example --target-auprc 0.9")
    summary = train_incremental(
        data, model, protocol, out, target_auprc=target, overwrite=overwrite, log=log, reporter=reporter
    )
    _show_summary(out, summary, as_json)


def _show(run: Any, as_json: bool) -> None:
    metrics = run.metrics()
    if as_json:
        console.print_json({"run": str(run.folder), **metrics})
        return
    from ttl_deploy.training.metrics import TITLES

    test = metrics["test"]
    rows = [
        *([("rarest class", _rarest(test["per_class"]))] if "per_class" in test else []),
        *((TITLES[name], _with_interval(test, name)) for name in run.task.METRICS),
        *((title, f"{test[name]:.4f}") for name, title in _BESIDE.items() if test.get(name) is not None),
        *_operation(run, metrics.get("operating_point")),
        ("parameters", f"{metrics['parameters'] / 1e6:.3f} M"),
        ("MACs", f"{metrics['macs'] / 1e9:.3f} G"),
        ("best epoch", f"{metrics['best_epoch']} of {metrics['epochs']}"),
        ("time", f"{metrics['seconds'] / 60:.1f} min"),
    ]
    model = run.config.model
    what = f"{model.backbone} {model.method}" + (f" {model.cut}" if model.cut else "")
    console.table(f"{run.folder}: {what}, test split, {metrics['images']['test']} images", ("", "value"), rows)
    show_paper(metrics)
    console.line(f"next: ttl-deploy export {quote(str(run.folder))}")


_BESIDE = {
    "accuracy": "accuracy",
    "brier": "Brier score",
    "ece": "calibration error",
    "dice_std": "Dice, deviation of images",
    "jaccard_std": "Jaccard, deviation of images",
    "least_dice": "Dice, worst image",
}
"""What is shown beside the headline, where it was measured."""


def _operation(run: Any, recorded: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The operating point and what it does on the test side."""
    if recorded is None:
        return []
    rows = [(f"{run.task.positive} from", str(run.operating_point))]
    for name in ("sensitivity", "specificity"):
        found = recorded["test"][name]
        value = "none" if found["value"] is None else f"{found['value']:.4f}"
        rows.append((name, f"{value}{_bounds(found['interval'])}, {found['hits']} of {found['images']}"))
    return rows


def _rarest(classes: list[dict[str, Any]]) -> str:
    """The class with the fewest images: the one that decides how much the numbers say."""
    least = min(classes, key=lambda single: int(single["images"]))
    patients = least.get("patients")
    of = "" if patients is None else f" of {patients} patients"
    return f"{least['name']}: {least['images']} images{of}"


def _with_interval(test: dict[str, Any], name: str) -> str:
    value = "none" if test[name] is None else f"{test[name]:.4f}"
    return f"{value}{_bounds(test.get(f'{name}_interval'))}"


def _bounds(interval: Sequence[float] | None) -> str:
    return f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""


def _show_summary(out: Path, summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.print_json({"series": str(out), **summary})
        return
    rows = [
        (name, f"{v['mean']:.4f}", None if v["std"] is None else f"{v['std']:.4f}", len(v["values"]))
        for name, v in summary["test"].items()
    ]
    console.table(f"{out}: test sides of {len(summary['runs'])} runs", ("metric", "mean", "std", "runs"), rows)
    show_paper(summary)
    if "chosen" in summary:
        met = "the target was met" if summary["target_met"] else "the target was not met; best on validation"
        console.line(f"chosen: {out / summary['chosen']} ({met})")
