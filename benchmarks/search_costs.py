"""What ideas behind `search` cost and save, both sides in turns in one run.

    python benchmarks/search_costs.py ../shared/data/cxr3/labels.csv --classes no_finding,pneumonia --weights RUN \
        --out costs --report reports/search-costs.md

Also, with `--early-stop FOLDER` of a `search_comparison.py` that had the strategy `exhaustive+early-stop`, how many
trainings and epochs early stopping saved there.

LWFT on cached features against LWFT that runs the frozen layers in every epoch; and trials on Ray, one worker on this
machine, against the same trials in this process: what starting Ray costs, and what it adds to each trial.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ttl_deploy import files, hardware
from ttl_deploy.cli.console import line
from ttl_deploy.cores import usable_cores
from ttl_deploy.cut_search.engines import open_engine
from ttl_deploy.cut_search.search import search
from ttl_deploy.spec import Data, Model, Network, Protocol
from ttl_deploy.spec.search import Budget, SearchOptions, SearchProtocol
from ttl_deploy.training.run import TIMING
from ttl_deploy.training.train import train

_TURNS = ("a", "b", "b", "a")


@dataclass(frozen=True)
class Training:
    """One LWFT training.

    Attributes:
        whole: Seconds from start to finished run, features included.
        epoch: Median seconds of an epoch.
        auprc: On the test side.
    """

    whole: float
    epoch: float
    auprc: float


@dataclass(frozen=True)
class Searched:
    """One search.

    Attributes:
        start: Seconds until the engine was open.
        seconds: Seconds of the search.
        trials: Trained candidates.
        answer: Cut and test AUPRC.
    """

    start: float
    seconds: float
    trials: int
    answer: tuple[str, float]


def main() -> int:
    """Measures both and writes the report."""
    options = _parser().parse_args()
    cached = {"a": 0, "b": options.views}
    trainings: dict[str, list[Training]] = {"a": [], "b": []}
    for turn, side in enumerate(_TURNS):
        trainings[side].append(_lwft(options, options.out / f"lwft-{turn}", cached[side]))
        line(f"LWFT with {cached[side]} cached views: {trainings[side][-1]}")
    engines = {"a": "local", "b": "ray"}
    searches: dict[str, list[Searched]] = {"a": [], "b": []}
    for turn, side in enumerate(_TURNS):
        searches[side].append(_search(options, options.out / f"search-{turn}", engines[side]))
        line(f"search on {engines[side]}: {searches[side][-1]}")
    files.write_text(options.report, _report(options, trainings, searches))
    return 0


def _data(options: argparse.Namespace) -> Data:
    classes = options.classes.split(",") if options.classes else None
    return Data(path=options.data, classes=classes, ignore_other_labels=classes is not None, cache=options.cache)


def _lwft(options: argparse.Namespace, folder: Path, views: int) -> Training:
    model = Model(
        backbone=options.backbone,
        method="lwft",
        layers=options.layers,
        image_size=options.image_size,
        weights=str(options.weights),
    )
    protocol = Protocol(epochs=options.epochs, batch_size=32, learning_rate=1e-3, cache_features=views)
    begin = time.monotonic()
    run = train(_data(options), model, protocol, folder)
    whole = time.monotonic() - begin
    epochs = [json.loads(row)["seconds"] for row in (folder / TIMING).read_text().splitlines()]
    return Training(whole, statistics.median(epochs), run.metrics()["test"]["auprc"])


def _search(options: argparse.Namespace, folder: Path, engine: str) -> Searched:
    threads = usable_cores()
    network = Network(backbone="resnet18", image_size=64, weights="random")
    protocol = SearchProtocol(epochs=2, batch_size=32, learning_rate=1e-3)
    wanted = SearchOptions(
        strategy="exhaustive", threads=threads, latency=False, divisions=1, budget=Budget(parameters=700_000)
    )
    begin = time.monotonic()
    with open_engine(engine, threads=threads, workers=1) as opened:
        started = time.monotonic()
        outcome = search(_data(options), network, protocol, folder, options=wanted, engine=opened)
        ended = time.monotonic()
    trials = sum(row.value is not None for row in outcome.rows)
    answer = str(outcome.result["cut"]), float(outcome.result["test"]["auprc"])
    return Searched(started - begin, ended - started, trials, answer)


def _report(
    options: argparse.Namespace, trainings: dict[str, list[Training]], searches: dict[str, list[Searched]]
) -> str:
    plain, cached = ([_mean([t.whole for t in trainings[s]]), _mean([t.epoch for t in trainings[s]])] for s in "ab")
    local, ray = searches["a"], searches["b"]
    trials = local[0].trials
    added = (_mean([s.seconds for s in ray]) - _mean([s.seconds for s in local])) / trials
    same = {s.answer for s in (*local, *ray)}
    return "\n".join(
        [
            "# What the ideas behind `search` cost and save",
            "",
            f"{options.data.name}{f', {options.classes}' if options.classes else ''}; every side twice, in the order "
            "A B B A, means.",
            "",
            "## LWFT on cached features",
            "",
            f"{options.backbone}, the top {options.layers} layers trained, {options.image_size} pixels, "
            f"{options.epochs} epochs, {options.views} augmentation views kept.",
            "",
            "| | an epoch (s) | whole training, features and test included (s) | test AUPRC |",
            "|---|---|---|---|",
            f"| frozen layers run in every epoch | {plain[1]:.1f} | {plain[0]:.1f} | {_auprc(trainings['a'])} |",
            f"| frozen layers' features kept | {cached[1]:.1f} | {cached[0]:.1f} | {_auprc(trainings['b'])} |",
            f"| ratio | {plain[1] / cached[1]:.2f} | {plain[0] / cached[0]:.2f} | |",
            "",
            "## Trials on Ray",
            "",
            f"{trials} trials of ResNet-18 at 64 pixels, 2 epochs each; one worker with all cores, or this process.",
            "",
            "| | engine opened (s) | search (s) |",
            "|---|---|---|",
            f"| local | {_mean([s.start for s in local]):.1f} | {_mean([s.seconds for s in local]):.1f} |",
            f"| Ray | {_mean([s.start for s in ray]):.1f} | {_mean([s.seconds for s in ray]):.1f} |",
            "",
            f"Ray adds {added:.2f} s to each trial. "
            + (
                f"All four searches chose `{local[0].answer[0]}` with a test AUPRC of {local[0].answer[1]:.4f}."
                if len(same) == 1
                else f"The searches differ: {sorted(same)}."
            ),
            "",
            *(_early(options.early_stop) if options.early_stop else ()),
            f"Made by `python {' '.join(sys.argv)}` on {hardware.describe().name}; {hardware.library_words()}.",
            "",
        ]
    )


def _early(folder: Path) -> list[str]:
    """Counted in epochs, which depend on no machine."""
    before, after = (
        json.loads((folder / strategy / "result.json").read_text())
        for strategy in ("exhaustive", "exhaustive+early-stop")
    )
    epochs = [sum(row["epochs"] or 0 for row in result["candidates"]) for result in (before, after)]
    ended = [row["cut"] for row in after["candidates"] if row["status"].startswith("ended early")]
    named = ", ".join(f"`{cut}`" for cut in ended) or "none"
    values = [row["value"] for row in before["candidates"] if row["value"] is not None]
    return [
        "## Early stopping by the fitted learning curve",
        "",
        f"Exhaustive search of {folder.name}'s {len(values)} cuts, each held against one standard error below the "
        f"best before it. Ended early: {named}; {epochs[1]} of {epochs[0]} epochs "
        f"were trained. Validation {before['metric'].upper()} of the cuts: {min(values):.3f} to {max(values):.3f}.",
        "",
    ]


def _mean(values: list[float]) -> float:
    return statistics.fmean(values)


def _auprc(trainings: list[Training]) -> str:
    return f"{_mean([t.auprc for t in trainings]):.3f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and searches")
    parser.add_argument("--report", type=Path, default=Path("reports/search-costs.md"))
    parser.add_argument("--classes", help="comma-separated; other labels are left out")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--weights", default="random", help="start of the LWFT trainings")
    parser.add_argument("--layers", type=int, default=4, help="LWFT: trained layers, the head included")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--early-stop", type=Path, help="folder of a backbone's searches to read")
    parser.add_argument("--cache", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
