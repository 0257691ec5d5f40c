"""Several runs that belong together: seeds, folds, or LWFT's growing number of layers; and their mean and deviation.

A series is a folder of runs. Started again with the same options it finishes what is missing and repeats nothing; with
others it is refused, because its mean would be of two things.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ttl_deploy import documents, files
from ttl_deploy.data.manifest import dataset_of
from ttl_deploy.data.prepared import prepare
from ttl_deploy.errors import BadInputError
from ttl_deploy.papers.beside import Ours, paper_of
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import Data, Model, Protocol, SplitSpec
from ttl_deploy.spec.recipe import FoldHolds
from ttl_deploy.training.logs import Names, asked_loggers
from ttl_deploy.training.operation import refuse_point
from ttl_deploy.training.plans import PLAN_VERSION, plan_of, refuse_other_plan
from ttl_deploy.training.run import BEST, SERIES, SUMMARY, Run, finished_run, open_run
from ttl_deploy.training.train import check, kind_of, resume, specs, train
from ttl_deploy.zoo import BACKBONES

_SUMMARISED = ("dice", "jaccard", "auroc", "auprc", "quadratic_kappa", "accuracy", "balanced_accuracy", "brier", "ece")


@dataclass(frozen=True)
class Member:
    """One run of a series: its folder's name, what differs from the other members, and its split."""

    name: str
    model: Model
    protocol: Protocol
    split: SplitSpec


def members(
    model: Model,
    protocol: Protocol,
    split: SplitSpec,
    repeats: int,
    folds: int | None,
    *,
    new_splits: bool = False,
    fold_holds: FoldHolds = "test",
) -> list[Member]:
    """The runs of `--repeats` and `--folds`: seeds counted up from the protocol's, on one split, or on every fold.

    With `new_splits` the seed of the split is counted up as well.
    """
    found = []
    for fold in range(folds) if folds else [None]:
        for repeat in range(repeats):
            parts = [f"fold-{fold}"] if fold is not None else []
            parts += [f"repeat-{repeat}"] if repeats > 1 else []
            shuffle = split.seed + (repeat if new_splits else 0)
            changes = {"folds": folds, "fold": fold, "seed": shuffle, "fold_holds": fold_holds}
            side = split.model_copy(update=changes)
            seeded = protocol.model_copy(update={"seed": protocol.seed + repeat})
            found.append(Member("-".join(parts), model, seeded, side))
    return found


def train_series(
    data: Data,
    model: Model,
    protocol: Protocol,
    out: str | Path,
    *,
    repeats: int = 1,
    folds: int | None = None,
    new_splits: bool = False,
    fold_holds: FoldHolds = "test",
    overwrite: bool = False,
    log: Names = (),
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Trains every member and writes `summary.json`.

    Args:
        data: The images.
        model: What to train.
        protocol: How; its seed is the first repeat's.
        out: Folder of the series.
        repeats: Seeds.
        folds: Of a cross-validation; None: one division.
        new_splits: Divide anew for each repeat, so that the deviation is also the division's.
        fold_holds: Whether a fold is the test side, or validation and test (80/5/15 with 5 folds).
        overwrite: Replace what is at `out`.
        log: Loggers, as in `train`.
        reporter: Told what happens.

    Returns:
        The summary: for each metric the mean and the standard deviation (n - 1) over the members' test sides.

    Raises:
        TtlDeployError: As `train`; finished members are kept.
    """
    place = Path(out)
    _refuse_series(repeats, folds, new_splits, fold_holds)
    planned = members(model, protocol, data.division, repeats, folds, new_splits=new_splits, fold_holds=fold_holds)
    check(data, model, protocol)
    loggers = asked_loggers(log)
    if new_splits:
        _refuse_own_division(data, kind_of(model), folds)
    series = {"repeats": repeats, "folds": folds, "members": [m.name for m in planned]}
    series |= {"new_splits": True} if new_splits else {}
    _begin(place, {**series, **_plan(data, planned[0])}, overwrite)
    runs = [_one(data, member, place / member.name, reporter, loggers) for member in planned]
    return _summarise(place, runs, reporter)


def fold_part(word: str) -> FoldHolds:
    """What a fold holds, from a word.

    Raises:
        BadInputError: It is none.
    """
    for known in get_args(FoldHolds):
        if word == known:
            return known  # type: ignore[no-any-return]
    raise BadInputError(f"{word!r:.80} is nothing that a fold holds", where="--fold-holds", fix="test or val+test")


def _refuse_series(repeats: int, folds: int | None, new_splits: bool, fold_holds: str) -> None:
    if new_splits and repeats < 2:
        raise BadInputError("--new-splits is of repeats, and there is one", fix="pass --repeats, such as 3")
    if fold_holds != "test" and folds is None:
        raise BadInputError("--fold-holds is of folds, and there are none", fix="pass --folds, such as 5")


def _refuse_own_division(data: Data, kind: str, folds: int | None) -> None:
    """Raises `BadInputError` where a division comes with the images, which repeats would keep."""
    if folds is None and any(item.split for item in dataset_of(data, kind).items):
        raise BadInputError(
            "divides the images itself, and --new-splits would not",
            where=data.path,
            fix="pass --split-column '', or leave --new-splits out",
        )


def train_incremental(
    data: Data,
    model: Model,
    protocol: Protocol,
    out: str | Path,
    *,
    target_auprc: float,
    overwrite: bool = False,
    log: Names = (),
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """LWFT's model selection (Tajbakhsh 2016; paper, section 3.1): one layer, then one more, until the target is met.

    Every step starts from the original weights again (the paper's footnote 1).

    Args:
        data: The images.
        model: With method `lwft`; its cut and number of layers are not used.
        protocol: How to train.
        out: Folder of the series.
        target_auprc: Validation AUPRC that ends the procedure.
        overwrite: Replace what is at `out`.
        log: Loggers, as in `train`.
        reporter: Told what happens.

    Returns:
        The summary, with the number of layers chosen and whether the target was met.
    """
    if model.method != "lwft":
        raise BadInputError(f"--incremental is LWFT's procedure, not {model.method}'s", fix="pass --method lwft")
    place = Path(out)
    first = _with_layers(model, protocol, data.division, 1)
    check(data, first.model, protocol)
    loggers = asked_loggers(log)
    series = {"incremental": True, "target_auprc": target_auprc}
    _begin(place, {**series, **_plan(data, first)}, overwrite)
    runs: list[Run] = []
    reached = False
    most = len(BACKBONES.get(model.backbone).layers) + 1
    for layers in range(1, most + 1):
        member = _with_layers(model, protocol, data.division, layers)
        runs.append(_one(data, member, place / member.name, reporter, loggers))
        value = runs[-1].metrics()["val"]["auprc"]
        reporter.info(f"{layers} layers: validation AUPRC {value:.4f} (target {target_auprc:g})")
        reached = value >= target_auprc
        if reached:
            break
    best = runs[-1] if reached else max(runs, key=lambda run: float(run.metrics()["val"]["auprc"]))
    return _summarise(place, runs, reporter, chosen=best.name, target_met=reached)


def _with_layers(model: Model, protocol: Protocol, split: SplitSpec, layers: int) -> Member:
    chosen = model.model_copy(update={"cut": None, "layers": layers})
    return Member(f"layers-{layers}", chosen, protocol, split)


def _plan(data: Data, first: Member) -> dict[str, Any]:
    """All that decides the runs of a series, in plain types; decodes the images.

    Args:
        data: The images.
        first: The first of the members, whose preprocessing and division are the others'.
    """
    dataset = dataset_of(data, kind_of(first.model))
    refuse_point(first.protocol.operating_point, dataset.task)
    _spec, preprocess = specs(first.model, data, dataset.classes)
    prepared = prepare(dataset, preprocess, first.split, cache_folder=data.cache, skip_unreadable=data.skip_unreadable)
    return {
        "version": PLAN_VERSION,
        "data": {**plan_of(data), "digest": prepared.data_digest()},
        "model": {**first.model.model_dump(mode="json"), "weights": _weights(first.model.weights)},
        "protocol": first.protocol.model_dump(mode="json"),
        "split": first.split.model_dump(mode="json", exclude={"fold"}),
    }


def _weights(given: str) -> str:
    """Starting weights as a plan knows them: a file or a run by its content, because it may be written anew."""
    path = Path(given) / BEST if Path(given).is_dir() else Path(given)
    return f"{path.resolve()} ({files.sha256(path)})" if path.is_file() else given


def _begin(out: Path, plan: dict[str, Any], overwrite: bool) -> None:
    before = _planned(out)
    if before is not None and not overwrite:
        refuse_other_plan(out, "series", before, plan)
        return
    files.refuse_existing(out, overwrite=overwrite)
    with files.atomic_folder(out, overwrite=overwrite) as folder:
        files.write_json(folder / SERIES, plan)


def _planned(out: Path) -> dict[str, Any] | None:
    path = out / SERIES
    if not path.exists():
        return None
    return documents.read_object(path, "plan of a series", fix="choose another --out")


def _one(data: Data, member: Member, folder: Path, reporter: Reporter, log: Names) -> Run:
    reporter.info(f"— {member.name}")
    if not folder.exists():
        return train(data, member.model, member.protocol, folder, split=member.split, log=log, reporter=reporter)
    run = open_run(folder)
    if run.finished:
        return finished_run(folder)
    return resume(folder, data=data.path, cache=data.cache, log=log, reporter=reporter)


def _summarise(out: Path, runs: Sequence[Run], reporter: Reporter, **more: Any) -> dict[str, Any]:
    tests = [run.metrics()["test"] for run in runs]
    statistics = dict(_statistics(tests))
    ours = {name: Ours(found["mean"], deviation=found["std"]) for name, found in statistics.items()}
    summary = {
        "runs": [run.name for run in runs],
        "seeds": [run.config.seed for run in runs],
        "test": statistics,
        **paper_of(runs[0].config, ours, f"{len(runs)} runs on test images", reporter),
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
