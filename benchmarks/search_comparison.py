"""Every search strategy on the same images, split and seeds: what it chooses, how good that is, and what it costs.

    python benchmarks/search_comparison.py ../shared/data/cxr3/labels.csv --classes no_finding,pneumonia \
        --pretrain ../shared/data/pneumonia28.npz --out comparison --report reports/search.md

Exhaustive runs first. A strategy's time is the sum of what it trains, measured; where a trial comes out the same as a
finished one of exhaustive (same seed, epochs and starting weights), its recorded time is counted instead of training
it again. A strategy written as `halving+early-stop` ends trainings whose learning curve cannot reach the best.
Started again with the same options it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttl_deploy import files, hardware
from ttl_deploy.cli.console import ConsoleReporter, line
from ttl_deploy.search.options import SearchOptions
from ttl_deploy.search.outcome import Outcome
from ttl_deploy.search.search import search
from ttl_deploy.training.run import open_run
from ttl_deploy.training.train import DataOptions, Request, resume, train

_FIRST = "exhaustive"


@dataclass(frozen=True)
class Compared:
    """A strategy's outcome beside that of exhaustive on the same backbone."""

    backbone: str
    strategy: str
    cut: str
    auroc: float
    auprc: float
    seconds: float
    ratio: float
    validation: float
    best: float
    error: float

    @property
    def within(self) -> bool:
        """Whether the chosen cut, trained in full, is within one standard error of the best one."""
        return self.validation >= self.best - self.error


def main() -> int:
    """Runs what is missing and writes the report."""
    options = _parser().parse_args()
    compared = []
    for backbone in options.backbones.split(","):
        weights = _weights(options, backbone)
        outcomes = {
            strategy: _search(options, backbone, weights, strategy)
            for strategy in [_FIRST, *(s for s in options.strategies.split(",") if s != _FIRST)]
        }
        compared += [_compare(backbone, strategy, outcome, outcomes[_FIRST]) for strategy, outcome in outcomes.items()]
        files.write_text(options.report, _report(options, compared))
    for row in compared:
        line(f"{row.backbone} {row.strategy}: {row.cut}, {row.ratio:.2f} of exhaustive, within: {row.within}")
    return 0


def _weights(options: argparse.Namespace, backbone: str) -> str:
    """The starting weights: as given, or a whole network trained on another set first (not part of any time)."""
    if options.pretrain is None:
        return str(options.weights)
    folder = options.out / backbone / "pretrained"
    request = Request(
        backbone,
        "ftl",
        image_size=options.image_size,
        weights=str(options.weights),
        settings={"epochs": options.pretrain_epochs, "batch_size": 64, "learning_rate": 1e-3},
    )
    reporter = ConsoleReporter()
    if not folder.exists():
        train(DataOptions(options.pretrain, cache=options.cache), request, folder, reporter=reporter)
    elif not open_run(folder).finished:
        resume(folder, cache=options.cache, reporter=reporter)
    return str(folder)


def _search(options: argparse.Namespace, backbone: str, weights: str, strategy: str) -> Outcome:
    line(f"== {backbone} {strategy}")
    request = Request(
        backbone,
        options.method,
        image_size=options.image_size,
        weights=weights,
        precision=options.precision,
        settings={
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "learning_rate": options.learning_rate,
            "seed": options.seed,
        },
    )
    classes = options.classes.split(",") if options.classes else None
    name, _, variant = strategy.partition("+")
    if variant not in ("", "early-stop"):
        raise SystemExit(f"unknown variant {variant!r} of {name}; valid: early-stop")
    return search(
        DataOptions(options.data, classes, ignore_other_labels=classes is not None, cache=options.cache),
        request,
        options.out / backbone / strategy,
        options=SearchOptions(
            strategy=name,
            threads=options.threads,
            latency=False,
            repeats=options.repeats,
            prefer=options.prefer,
            early_stop=True if variant else None,
        ),
        reuse=[] if strategy == _FIRST else [options.out / backbone / _FIRST],
        reporter=ConsoleReporter(),
    )


def _compare(backbone: str, strategy: str, outcome: Outcome, whole: Outcome) -> Compared:
    rows = {row.cut: row for row in whole.rows}
    best = max((row for row in whole.rows if row.value is not None), key=lambda row: row.value or 0.0)
    cut, test = str(outcome.result["cut"]), outcome.result["test"]
    seconds: float = outcome.result["seconds"]
    return Compared(
        backbone,
        strategy,
        cut,
        test["auroc"],
        test["auprc"],
        seconds,
        seconds / whole.result["seconds"],
        rows[cut].value or 0.0,
        best.value or 0.0,
        best.error or 0.0,
    )


def _report(options: argparse.Namespace, rows: list[Compared]) -> str:
    return "\n".join(
        [
            "# Searching the cut: strategies compared",
            "",
            f"{options.data.name}{f', {options.classes}' if options.classes else ''}; {options.image_size} pixels, "
            f"{options.method.upper()}, {options.epochs} epochs, Adam {options.learning_rate:g}, batch "
            f"{options.batch_size}, seed {options.seed}, {options.repeats} seed(s) per candidate, same split for all; "
            f"starting weights: {_origin(options)}.",
            "",
            "Cuts are chosen by validation AUPRC; the test columns are of the chosen model. Time is the sum of "
            "what a strategy trained and evaluated, without latency measurements; a trial that exhaustive had trained "
            "identically counts with the time recorded there. *Within* says whether the chosen cut, trained in full, "
            "has a validation AUPRC within one standard error (bootstrap by patient) of the best of all cuts.",
            "",
            "| backbone | strategy | chosen cut | test AUROC | test AUPRC | time (s) | of exhaustive "
            "| val AUPRC of the cut | best cut's | within |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *map(_line, rows),
            "",
            f"Made by `python {' '.join(sys.argv)}` on {hardware.describe().name}; {hardware.library_words()}.",
            "",
        ]
    )


def _line(row: Compared) -> str:
    cells: list[Any] = [
        row.backbone,
        row.strategy,
        f"`{row.cut}`",
        f"{row.auroc:.3f}",
        f"{row.auprc:.3f}",
        f"{row.seconds:.0f}",
        f"{row.ratio:.2f}",
        f"{row.validation:.3f}",
        f"{row.best:.3f} ± {row.error:.3f}",
        "yes" if row.within else "no",
    ]
    return f"| {' | '.join(cells)} |"


def _origin(options: argparse.Namespace) -> str:
    if options.pretrain is None:
        return f"{options.weights}"
    return f"the whole network trained on {options.pretrain.name} for {options.pretrain_epochs} epochs"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the searches")
    parser.add_argument("--report", type=Path, default=Path("reports/search.md"))
    parser.add_argument("--classes", help="comma-separated; other labels are left out")
    parser.add_argument("--backbones", default="resnet18,resnet50")
    parser.add_argument("--strategies", default="hierarchical,halving,svcca,auto")
    parser.add_argument("--method", default="ttl")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--weights", default="random", help="start of the searches, or of --pretrain")
    parser.add_argument("--pretrain", type=Path, help="images to train the starting weights on")
    parser.add_argument("--pretrain-epochs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--prefer", default="smaller")
    parser.add_argument("--threads", type=int, default=hardware.usable_cores())
    parser.add_argument("--cache", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
