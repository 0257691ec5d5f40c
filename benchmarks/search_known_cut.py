"""How often a search finds the cut that is best by construction; see `ttl_deploy.cut_search.known_cut`.

    python benchmarks/search_known_cut.py --out known-cut --report reports/search-known-cut.md

Started again with the same options it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ttl_deploy import files, hardware
from ttl_deploy.cli.console import ConsoleReporter, line
from ttl_deploy.cores import usable_cores
from ttl_deploy.cut_search.known_cut import CLASSES, best_cut, write_known_cut
from ttl_deploy.cut_search.outcome import SearchOutcome
from ttl_deploy.cut_search.search import search
from ttl_deploy.spec import AugmentSpec, Data, Network
from ttl_deploy.spec.search import SearchOptions, SearchProtocol

_REUSE = (
    "It looks for where finetuning stops reusing what was there before. From random values hardly anything is, so "
    "where reuse ends says nothing of which cut is best: this strategy wants pretrained weights."
)


def main() -> int:
    """Runs every seed; 0 where the search found the cut in nine of ten or more."""
    options = _parser().parse_args()
    expected = best_cut(options.backbone, options.distance)
    rows = []
    for seed in range(options.seeds):
        outcome = find(options, seed)
        rows.append((seed, outcome.result["cut"], outcome.result["test"]["auprc"], outcome.result["seconds"]))
        line(f"seed {seed}: {rows[-1][1]} (expected {expected}), {rows[-1][3]:.0f} s")
    found = sum(cut == expected for _seed, cut, _auprc, _seconds in rows)
    line(f"{options.strategy}: {found} of {len(rows)} seeds found {expected}")
    if options.report is not None:
        files.write_text(options.report, _report(options, expected, rows, found))
    return 0 if found >= 0.9 * len(rows) else 1


def find(options: argparse.Namespace, seed: int) -> SearchOutcome:
    folder = options.out / f"{options.strategy}-{seed}"
    data = options.out / f"images-{seed}.npz"
    if not data.exists():
        write_known_cut(data, distance=options.distance, images=options.images, seed=seed)
    protocol = SearchProtocol(
        epochs=options.epochs,
        batch_size=32,
        learning_rate=1e-3,
        seed=seed,
        device="cpu",
        # Augmentation resamples the dots; what is asked here is which cut sees both.
        augment=AugmentSpec(crop_scale=1.0, rotation=0.0),
    )
    return search(
        Data(path=data, classes=CLASSES, cache=options.out / "cache"),
        Network(backbone=options.backbone, image_size=64, channels=1, weights="random"),
        protocol,
        folder,
        # The lowest cut that sees both dots is what is asked for, so of those that are not told apart the smallest.
        options=SearchOptions(
            strategy=options.strategy, threads=options.threads, latency=False, prefer="smaller", divisions=1
        ),
        reporter=ConsoleReporter(quiet=not options.verbose),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of images and searches")
    parser.add_argument("--report", type=Path, help="Markdown file for the result")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--distance", type=int, default=16)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--verbose", action="store_true")
    return parser


def _report(options: argparse.Namespace, expected: str, rows: list[tuple[int, str, float, float]], found: int) -> str:
    lines = [
        "# The cut that is best by construction",
        "",
        f"Two classes that differ only across {options.distance} pixels: a feature of {options.backbone} below "
        f"`{expected}` cannot see both dots of a pair (`ttl_deploy/cut_search/known_cut.py`). {options.images} images "
        f"of 64 pixels per seed, 5 % of the labels wrong, random starting weights, {options.epochs} epochs, strategy "
        f"`{options.strategy}`.",
        "",
        f"**{found} of {len(rows)} seeds found `{expected}`.**",
        "",
        *([_REUSE, ""] if options.strategy == "svcca" else []),
        "| seed | chosen cut | test AUPRC | search (s) |",
        "|---|---|---|---|",
        *(f"| {seed} | {cut} | {auprc:.3f} | {seconds:.0f} |" for seed, cut, auprc, seconds in rows),
        "",
        f"Made by `python {' '.join(sys.argv)}` on {hardware.describe().name}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
