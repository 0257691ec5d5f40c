"""Several runs that belong together: seeds, folds, or LWFT's growing number of layers; and their mean and deviation.

A series is a folder of runs. Started again with the same options it finishes what is missing and repeats nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ttl_deploy import files
from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import SplitSpec
from ttl_deploy.training.run import SERIES, SUMMARY, Run, open_run
from ttl_deploy.training.train import DataOptions, Request, resume, train
from ttl_deploy.zoo import BACKBONES

_SUMMARISED = ("auroc", "auprc", "accuracy", "balanced_accuracy", "brier", "ece")


@dataclass(frozen=True)
class Member:
    """One run of a series: its folder's name, its seed and its split."""

    name: str
    request: Request
    split: SplitSpec


def members(request: Request, split: SplitSpec, repeats: int, folds: int | None) -> list[Member]:
    """The runs of `--repeats` and `--folds`: seeds counted up from the request's, on one split, or on every fold."""
    base = int((request.settings or {}).get("seed", 0))
    found = []
    for fold in range(folds) if folds else [None]:
        for repeat in range(repeats):
            parts = [f"fold-{fold}"] if fold is not None else []
            parts += [f"repeat-{repeat}"] if repeats > 1 else []
            side = split.model_copy(update={"folds": folds, "fold": fold})
            settings = {**(request.settings or {}), "seed": base + repeat}
            found.append(Member("-".join(parts), replace(request, settings=settings), side))
    return found


def train_series(
    data: DataOptions,
    request: Request,
    out: Path,
    *,
    split: SplitSpec,
    repeats: int = 1,
    folds: int | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Trains every member and writes `summary.json`.

    Returns:
        The summary: for each metric the mean and the standard deviation (n - 1) over the members' test sides.

    Raises:
        TtlDeployError: As `train`; finished members are kept.
    """
    planned = members(request, split, repeats, folds)
    _begin(out, {"repeats": repeats, "folds": folds, "members": [m.name for m in planned]}, overwrite)
    runs = [_one(data, member, out / member.name, reporter) for member in planned]
    return _summarise(out, runs)


def train_incremental(
    data: DataOptions,
    request: Request,
    out: Path,
    *,
    split: SplitSpec,
    target_auprc: float,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """LWFT's model selection (Tajbakhsh 2016; paper, section 3.1): one layer, then one more, until the target is met.

    Every step starts from the original weights again (the paper's footnote 1).

    Args:
        data: The images.
        request: With method `lwft`; its cut and number of layers are not used.
        out: Folder of the series.
        split: How to divide the images.
        target_auprc: Validation AUPRC that ends the procedure.
        overwrite: Replace what is at `out`.
        reporter: Told what happens.

    Returns:
        The summary, with the number of layers chosen and whether the target was met.
    """
    if request.method != "lwft":
        raise BadInputError(f"--incremental is LWFT's procedure, not {request.method}'s", fix="pass --method lwft")
    _begin(out, {"incremental": True, "target_auprc": target_auprc}, overwrite)
    runs: list[Run] = []
    reached = False
    most = len(BACKBONES.get(request.backbone).all_units) + 1
    for layers in range(1, most + 1):
        member = Member(f"layers-{layers}", replace(request, cut=None, trained_layers=layers), split)
        runs.append(_one(data, member, out / member.name, reporter))
        value = runs[-1].metrics()["val"]["auprc"]
        reporter.info(f"{layers} layers: validation AUPRC {value:.4f} (target {target_auprc:g})")
        reached = value >= target_auprc
        if reached:
            break
    best = runs[-1] if reached else max(runs, key=lambda run: float(run.metrics()["val"]["auprc"]))
    return _summarise(out, runs, chosen=best.name, target_met=reached)


def _begin(out: Path, plan: dict[str, Any], overwrite: bool) -> None:
    if _planned(out) == plan and not overwrite:
        return
    files.refuse_existing(out, overwrite=overwrite)
    with files.atomic_folder(out, overwrite=overwrite) as folder:
        files.write_json(folder / SERIES, plan)


def _planned(out: Path) -> Any:
    path = out / SERIES
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise IntegrityError("is not valid JSON", where=path, fix="pass --overwrite") from error


def _one(data: DataOptions, member: Member, folder: Path, reporter: Reporter) -> Run:
    reporter.info(f"— {member.name}")
    if not folder.exists():
        return train(data, member.request, folder, split=member.split, reporter=reporter)
    run = open_run(folder)
    return run if run.finished else resume(folder, data=data.path, cache=data.cache, reporter=reporter)


def _summarise(out: Path, runs: Sequence[Run], **more: Any) -> dict[str, Any]:
    tests = [run.metrics()["test"] for run in runs]
    summary = {
        "runs": [run.name for run in runs],
        "seeds": [run.config.seed for run in runs],
        "test": dict(_statistics(tests)),
        **more,
    }
    files.write_json(out / SUMMARY, summary)
    return summary


def _statistics(tests: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in _SUMMARISED:
        values = [test[name] for test in tests if test.get(name) is not None]
        if values:
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            yield name, {"mean": float(np.mean(values)), "std": deviation, "values": values}
