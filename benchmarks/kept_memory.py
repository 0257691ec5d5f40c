"""Training with the memory that it frees kept for the next batch, beside giving it back at once, as it was before.

    python benchmarks/kept_memory.py [--rounds 6] [--images 160]

Each training is a process of its own, since what a process did before decides what glibc does with its memory; both
ways in turns in one run. The time is that of the second of two epochs, validation included; the evaluation is of the
training side in fp32. Peak memory is that of the whole process. Ratios with their 95 % interval are of the rounds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from blocks import enough_blocks

from ttl_deploy import hardware
from ttl_deploy.cli.console import line
from ttl_deploy.data.synthetic import write_synthetic
from ttl_deploy.latency.duel import LEAST_BLOCKS, ratio_of_medians
from ttl_deploy.runtime.base import default_threads
from ttl_deploy.spec import Data, Model, Protocol

NETWORKS = (
    ("tf_efficientnet_lite0", None, 224, "bf16"),
    ("tf_efficientnet_lite0", "blocks.2.1", 224, "fp32"),
    ("resnet50", "layer2.3", 112, "bf16"),
)
"""Backbone, cut, pixels and precision."""


def one(number: int, way: str, work: Path, out: Path) -> dict[str, float]:
    """Trains one of the networks in this process; seconds of an epoch and of an evaluation, and MiB.

    Args:
        number: Of the network.
        way: `kept` or `given back`.
        work: Folder of the images.
        out: Folder of the run.
    """
    import torch

    from ttl_deploy.training import train as training
    from ttl_deploy.training.run import run_data

    def given_back(_on: bool = True) -> AbstractContextManager[None]:
        return nullcontext()

    if way != "kept":
        module: Any = training
        module.freed_memory_kept = given_back
    torch.set_num_threads(default_threads())
    backbone, cut, side, precision = NETWORKS[number]
    data = Data(path=work / str(side) / "labels.csv", cache=work / "cache")
    model = Model(backbone=backbone, method="ttl" if cut else "ftl", cut=cut, weights="random", image_size=side)
    protocol = Protocol(epochs=2, batch_size=32, device="cpu", precision=precision, learning_rate=1e-3)
    run = training.train(data, model, protocol, out)
    epoch = json.loads((out / "timing.jsonl").read_text().splitlines()[-1])["seconds"]
    network, images = training.load_model(run), run_data(run, cache=work / "cache")
    begin = time.perf_counter()
    training.predict_fp32(network, images, "train", run.config)
    taken = time.perf_counter() - begin
    return {"epoch": epoch, "evaluation": taken, "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def in_turns(number: int, work: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    """What each way took in every round; a round before them, which fills the cache of pixels, is not kept."""
    taken: dict[str, list[dict[str, float]]] = {"kept": [], "given back": []}
    for turn in range(rounds + 1):
        for way in sorted(taken, reverse=bool(turn % 2)):
            with tempfile.TemporaryDirectory() as out:
                command = [sys.executable, __file__, "--one", str(number), way, str(work), f"{out}/run"]
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
            if turn:
                taken[way].append(json.loads(said.splitlines()[-1]))
    return taken


def row(what: str, of: str, taken: dict[str, list[dict[str, float]]]) -> str:
    """A line of the table."""
    ours, other = ([found[of] for found in taken[way]] for way in ("kept", "given back"))
    ratio, low, high = ratio_of_medians(other, ours)
    memory = " | ".join(f"{max(found['MiB'] for found in taken[way]):.0f} MiB" for way in ("kept", "given back"))
    times = f"{median(ours):.2f} s | {median(other):.2f} s | {ratio:.2f} [{low:.2f}, {high:.2f}]"
    return f"| {what} | {of} | {times} | {memory} |"


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=enough_blocks, default=LEAST_BLOCKS)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        number, way, work, out = given.one
        line(json.dumps(one(int(number), way, Path(work), Path(out))))
        return
    with tempfile.TemporaryDirectory() as work:
        for side in {side for _, _, side, _ in NETWORKS}:
            write_synthetic(Path(work) / str(side), images=given.images, size=side, seed=0)
        line("| network | of one | kept | given back (before) | its time by ours | peak memory | before |")
        line("|---|---|---:|---:|---:|---:|---:|")
        for number, (backbone, cut, side, precision) in enumerate(NETWORKS):
            taken = in_turns(number, Path(work), given.rounds)
            what = f"{backbone} {cut or '(whole)'}, {side} pixels"
            line(row(f"{what}, {precision}", "epoch", taken))
            line(row(f"{what}, fp32", "evaluation", taken))
    line(f"\n{hardware.describe().name}, {default_threads()} threads, {hardware.library_words()}.")


if __name__ == "__main__":
    main()
