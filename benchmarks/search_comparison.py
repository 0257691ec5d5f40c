"""Every search strategy on the same images, split and seeds: what it chooses, how good that is, and what it costs.

    python benchmarks/search_comparison.py ../shared/data/cxr3/labels.csv --classes no_finding,covid --task covid \
        --pretrain ../shared/data/pneumonia28.npz --seeds 0,1,2 --out comparison --report reports/search.md

The report shows all tasks whose searches lie at --out, finished searches only, so several commands with other --task
names make one report. Its numbers are kept beside it as JSON, with those of earlier commands whose searches are no more
at --out: more seeds can be added later, on another machine. A strategy takes over every training that another one has
done identically (same model, seed, images, starting weights and epochs) together with what it cost there; so a strategy
costs what it would have cost alone, and six of them do not cost six times as much. Started again with the same options
it goes on where it was.

Costs are counted in multiply-adds, which a busy machine does not change, and in processor seconds; wall time is shown
beside them. A strategy written as `halving+early-stop` ends trainings whose learning curve cannot reach the best.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ttl_deploy import files, hardware
from ttl_deploy.cli.console import ConsoleReporter, line
from ttl_deploy.cores import usable_cores
from ttl_deploy.cut_search.search import search
from ttl_deploy.spec import Data, Model, Network, Protocol
from ttl_deploy.spec.search import SearchOptions, SearchProtocol
from ttl_deploy.training.run import METRICS, open_run
from ttl_deploy.training.train import resume, train

Known = dict[str, Any]
"""Title of a task -> its facts, and its seeds: of each, the strategies' numbers."""

_FIRST, _TASK = "exhaustive", "task.json"


@dataclass(frozen=True)
class Compared:
    """A strategy's outcome, beside that of exhaustive on the same images where there is one.

    Attributes:
        strategy: Its name.
        cut: Chosen.
        auroc, auprc: Of it, test side.
        open: Cuts that the data do not tell from the best, the chosen one included.
        divisions: How many divisions said so.
        smallest: The smallest of those, and its test AUROC.
        value, error: Validation metric of the chosen cut and its error, of all divisions together.
        work: Multiply-adds.
        share: Of the work of training every cut to the end once; None where that is missing.
        cpu, wall: Seconds.
    """

    strategy: str
    cut: str
    auroc: float
    auprc: float
    open: tuple[str, ...]
    divisions: int
    smallest: tuple[str, float]
    value: float
    error: float
    work: float
    share: float | None
    cpu: float
    wall: float


def main() -> int:
    """Runs what is missing, and writes the report after every search."""
    options = _parser().parse_args()
    if options.data is None:
        _write_report(options)
        return 0
    for seed in (int(text) for text in options.seeds.split(",")):
        for backbone in options.backbones.split(","):
            _note_task(options, backbone)
            weights = _weights(options, backbone)
            for strategy in options.strategies.split(","):
                _search(options, backbone, weights, strategy, seed)
                _write_report(options)
    return 0


def _write_report(options: argparse.Namespace) -> None:
    numbers = options.report.with_suffix(".json")
    known = gathered(options.out, json.loads(numbers.read_text()) if numbers.exists() else {})
    files.write_json(numbers, known)
    files.write_text(options.report, report(known))


def _home(options: argparse.Namespace, backbone: str) -> Path:
    place: Path = options.out / options.task / backbone
    return place


def _note_task(options: argparse.Namespace, backbone: str) -> None:
    """What the report says of the task's conditions."""
    classes = f", {options.classes}" if options.classes else ""
    facts = {
        "title": f"{options.task}: {backbone}",
        "conditions": f"{options.data.name}{classes}; {options.image_size} pixels, {options.method.upper()}, "
        f"{options.epochs} epochs, Adam {options.learning_rate:g}, batch {options.batch_size}; starting weights: "
        f"{_origin(options)}. {options.note}".strip(),
        "command": shlex.join(sys.argv),
        **({"remark": options.remark} if options.remark else {}),
    }
    files.write_json(_home(options, backbone) / _TASK, facts)


def _weights(options: argparse.Namespace, backbone: str) -> str:
    """The starting weights: as given, or a whole network trained on another set first (not part of any time)."""
    if options.pretrain is None:
        return str(options.weights)
    folder = _home(options, backbone) / "pretrained"
    model = Model(backbone=backbone, method="ftl", image_size=options.image_size, weights=str(options.weights))
    protocol = Protocol(epochs=options.pretrain_epochs, batch_size=64, learning_rate=1e-3)
    reporter = ConsoleReporter()
    if not folder.exists():
        train(Data(path=options.pretrain, cache=options.cache), model, protocol, folder, reporter=reporter)
    elif not open_run(folder).finished:
        resume(folder, cache=options.cache, reporter=reporter)
    return str(folder)


def _search(options: argparse.Namespace, backbone: str, weights: str, strategy: str, seed: int) -> None:
    line(f"== {options.task} {backbone} seed {seed} {strategy}")
    network = Network(backbone=backbone, method=options.method, image_size=options.image_size, weights=weights)
    protocol = SearchProtocol(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=seed,
        precision=options.precision,
    )
    classes = options.classes.split(",") if options.classes else None
    name, _, variant = strategy.partition("+")
    if variant not in ("", "early-stop"):
        raise SystemExit(f"unknown variant {variant!r} of {name}; valid: early-stop")
    home = _home(options, backbone) / f"seed-{seed}"
    search(
        Data(
            path=options.data,
            classes=classes,
            ignore_other_labels=classes is not None,
            split_seed=seed,
            cache=options.cache,
        ),
        network,
        protocol,
        home / strategy,
        options=SearchOptions(
            strategy=name,
            threads=options.threads,
            latency=False,
            repeats=options.repeats,
            prefer=options.prefer,
            divisions=options.divisions,
            early_stop=True if variant else None,
        ),
        reuse=[other for other in sorted(home.glob("*")) if other.name != strategy],
        reporter=ConsoleReporter(),
    )


def gathered(out: Path, known: Known) -> Known:
    """What is known, and what is finished at a folder; a task under other conditions is another one, and replaced."""
    found = dict(known)
    for task in sorted(out.glob(f"*/*/{_TASK}")):
        facts = json.loads(task.read_text())
        name = facts["title"]
        before = found.get(name, {})
        same = before.get("conditions") == facts["conditions"]
        seeds = dict(before["seeds"]) if same else {}
        for folder in sorted(task.parent.glob("seed-*")):
            before_it = seeds.get(folder.name, {})
            rows = {row.strategy: asdict(row) for row in _compared(folder, before_it.get(_FIRST))}
            seeds[folder.name] = {**before_it, **rows}
        machine = f"{hardware.describe().name}; {hardware.library_words()}"
        remark = {"remark": before["remark"]} if same and "remark" in before else {}
        found[name] = {**remark, **facts, "machine": machine, "seeds": seeds}
    return found


def report(known: Known) -> str:
    """The Markdown page of every task, seed and strategy that is known."""
    return "\n".join(
        [
            "# Searching the cut: strategies compared",
            "",
            "Cuts are chosen on training and validation images only; the test columns are of the chosen model. *Open* "
            "are the cuts that all divisions together do not tell from the best, the chosen one among them; of these "
            "the one nearest to the paper's block cutoff is taken (`--prefer block`), and what `--prefer smaller` "
            "takes stands beside it. Every seed is one of training and of the division into sides. Work is counted in "
            "multiply-adds, forward and backward, and set beside that of training every cut once; seconds are of one "
            "thread on a shared machine and say little. A training that two strategies share was done once and counts "
            "for both. What is not listed, of six strategies and three seeds, was not finished when this page was "
            "made.",
            "",
            *(text for name in sorted(known) for text in _section(known[name])),
            *(f"Made by `python {known[name]['command']}` on {known[name]['machine']}." for name in sorted(known)),
            "",
        ]
    )


def _section(facts: dict[str, Any]) -> Iterator[str]:
    by_seed = {seed: _rows(found) for seed, found in sorted(facts["seeds"].items())}
    yield from (f"## {facts['title']}", "", facts["conditions"], "")
    header = (
        "strategy",
        "chosen cut",
        "test AUROC",
        "test AUPRC",
        "open",
        "smaller, its test AUROC",
        "validation AUPRC (divisions)",
        "work (T)",
        "of every cut once",
        "CPU (s)",
        "wall (s)",
    )
    for seed, rows in by_seed.items():
        if rows:
            yield from (f"{seed.replace('-', ' ')}:", "", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}")
            yield from (*(_line(row) for row in rows), "")
    yield from _means(by_seed)
    if "remark" in facts:
        yield from (facts["remark"], "")


def _rows(found: dict[str, dict[str, Any]]) -> list[Compared]:
    strategies = sorted(found, key=lambda name: (name != _FIRST, name))
    return [Compared(**found[strategy]) for strategy in strategies]


def _means(by_seed: dict[str, list[Compared]]) -> Iterator[str]:
    """Test AUROC by strategy, over the seeds in which all strategies are finished."""
    most = max((len(rows) for rows in by_seed.values()), default=0)
    whole = [rows for rows in by_seed.values() if rows and len(rows) == most]
    if len(whole) < 2:
        return
    yield from (
        f"Means of {len(whole)} seeds:",
        "",
        "| strategy | test AUROC | smaller | of every cut once |",
        "|---|---|---|---|",
    )
    for rows in zip(*whole, strict=True):
        shares = [row.share for row in rows if row.share is not None]
        share = f"{fmean(shares):.2f}" if shares else ""
        chosen, smaller = fmean(row.auroc for row in rows), fmean(row.smallest[1] for row in rows)
        yield f"| {rows[0].strategy} | {chosen:.3f} | {smaller:.3f} | {share} |"
    yield ""


def _compared(seed: Path, known: dict[str, Any] | None = None) -> Iterator[Compared]:
    """The searches of a seed; `known` is the exhaustive one's row where that was run elsewhere."""
    results = {path.parent.name: json.loads(path.read_text()) for path in sorted(seed.glob("*/result.json"))}
    whole = _once(seed / _FIRST) if _FIRST in results else known and known["work"] / known["share"]
    for strategy in sorted(results, key=lambda name: (name != _FIRST, name)):
        result = results[strategy]
        value, error = result["together"][result["cut"]]
        sizes = {row["cut"]: (row["parameters"], row["macs"], row["trainable"]) for row in result["candidates"]}
        smallest = min((cut for cut in result["open"] if cut in result["together"]), key=lambda cut: sizes[cut])
        yield Compared(
            strategy,
            result["cut"],
            result["test"]["auroc"],
            result["test"]["auprc"],
            ("not compared",) if result["told_apart"] is None else tuple(result["open"]),
            result["divisions"],
            (smallest, _test_auroc(seed / strategy, smallest)),
            value,
            error,
            result["work"],
            result["work"] / whole if whole else None,
            result["cpu_seconds"],
            result["seconds"],
        )


def _once(folder: Path) -> float:
    """Multiply-adds of the trainings of a search on the first division."""
    records = [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]
    return float(sum(record["work"] for record in records if "-d" not in record["name"]))


def _test_auroc(folder: Path, cut: str) -> float:
    """Of a candidate that the search trained to the end, or took over from another one that did."""
    records = [json.loads(path.read_text()) for path in folder.glob(f"records/{cut}@*.json")]
    run = next(Path(record["run"]) for record in records if record["finished"])
    return float(json.loads((run / METRICS).read_text())["test"]["auroc"])


def _line(row: Compared) -> str:
    cells: list[Any] = [
        row.strategy,
        f"`{row.cut}`",
        f"{row.auroc:.3f}",
        f"{row.auprc:.3f}",
        ", ".join(row.open) if row.open != (row.cut,) else "told",
        f"`{row.smallest[0]}` {row.smallest[1]:.3f}",
        f"{row.value:.3f} ± {row.error:.3f} ({row.divisions})",
        f"{row.work / 1e12:.1f}",
        "" if row.share is None else f"{row.share:.2f}",
        f"{row.cpu:.0f}",
        f"{row.wall:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _origin(options: argparse.Namespace) -> str:
    if options.pretrain is None:
        return Path(options.weights).name
    return f"the whole network trained on {options.pretrain.name} for {options.pretrain_epochs} epochs"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="images; none: only the report of what is there")
    parser.add_argument("--out", type=Path, required=True, help="folder of the searches")
    parser.add_argument("--report", type=Path, default=Path("reports/search.md"))
    parser.add_argument("--classes", help="comma-separated; other labels are left out")
    parser.add_argument("--task", default="task", help="name of the task in the report")
    parser.add_argument("--note", default="", help="a sentence on the task for the report")
    parser.add_argument("--remark", default="", help="what to say below the task's tables")
    parser.add_argument("--backbones", default="resnet18")
    parser.add_argument("--strategies", default="exhaustive,hierarchical,halving,warm,svcca,auto")
    parser.add_argument("--method", default="ttl")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--weights", default="random", help="start of the searches, or of --pretrain")
    parser.add_argument("--pretrain", type=Path, help="images to train the starting weights on")
    parser.add_argument("--pretrain-epochs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--prefer", default="block")
    parser.add_argument("--divisions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--cache", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
