"""Does a truncated network keep what the whole one can, on real x-rays from a network that really was pretrained?

    python benchmarks/transfer.py LABELS.csv WEIGHTS --work FOLDER [--minutes 60] [--out reports/transfer.md]

EfficientNet-Lite0 with its published ImageNet weights (Apache-2.0, Google; a file of timm's names), no finding against
pneumonia, divided by patient, 224 pixels: FTL, and TTL, LWFT and TF at every block end, from the weights, from random
values and from the weights' statistics, with three seeds on one division. That is far more than an hour on a small
machine: what is in FOLDER is not trained again, no training begins after so many minutes, and the report is of the
trainings that are there and says how many are not. The first seed goes first, and TTL before the others.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from segmentation import milliseconds

from ttl_deploy import files, hardware
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.cli.console import line
from ttl_deploy.complexity import count
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.runtime.base import default_threads
from ttl_deploy.spec import Data, Model, Protocol
from ttl_deploy.training.ranked import Ranked
from ttl_deploy.training.resampling import Times, once
from ttl_deploy.training.run import Run, finished_run, read_predictions
from ttl_deploy.training.train import train
from ttl_deploy.transfer import build
from ttl_deploy.zoo import BACKBONES

BACKBONE = "tf_efficientnet_lite0"
CLASSES = ("no_finding", "pneumonia")
INITS = ("weights", "random", "stats")
METHODS = ("ttl", "lwft", "tf")
SEEDS = (0, 1, 2)
WHOLE = ("weights", "ftl", None)
RESAMPLES = 2000
NEAR = 0.05
"""Of AUROC: a cut is called level where the interval of its difference lies above minus this."""


@dataclass(frozen=True)
class Training:
    """One of the trainings.

    Attributes:
        init: What the layers start from.
        method: `ftl` and its kin.
        cut: Block end; None for ftl.
        seed: Of the training; the division is always the same.
    """

    init: str
    method: str
    cut: str | None
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return "-".join((self.init, self.method, *([self.cut] if self.cut else []), f"seed{self.seed}"))


def trainings() -> list[Training]:
    """All of them, what matters most first."""
    ends = [point.name for point in BACKBONES.get(BACKBONE).cut_points if point.ends_block]
    # Above the last block TF has nothing to slim.
    pairs = [(method, cut) for method, cut in itertools.product(METHODS, ends) if (method, cut) != ("tf", ends[-1])]
    plans = [("ftl", None), *pairs]
    every = [Training(init, method, cut, seed) for seed in SEEDS for init in INITS for method, cut in plans]
    return sorted(every, key=_turn)


def _turn(one: Training) -> tuple[int, int, int]:
    """The claim first (truncation from the weights, on every seed), then what differs in one thing, then in two."""
    return (one.method in ("lwft", "tf")) + (one.init != "weights"), one.seed, INITS.index(one.init)


def trained(one: Training, given: argparse.Namespace) -> Run:
    """The run, trained if it is not there; one that was interrupted begins anew."""
    folder: Path = given.work / one.name
    if (folder / "metrics.json").exists():
        return finished_run(folder)
    shutil.rmtree(folder, ignore_errors=True)
    data = Data(path=given.labels, classes=CLASSES, ignore_other_labels=True)
    model = Model(
        backbone=BACKBONE,
        method=one.method,
        cut=one.cut,
        weights="random" if one.init == "random" else str(given.weights),
        init="weights" if one.init == "random" else one.init,
        image_size=given.size,
    )
    protocol = Protocol(
        epochs=given.epochs,
        learning_rate=1e-3,
        batch_size=32,
        seed=one.seed,
        device="cpu",
        precision="bf16",
        schedule={"name": "cosine"},
    )
    return train(data, model, protocol, folder)


@dataclass(frozen=True)
class Side:
    """What the test images are and what a run says of them.

    Attributes:
        labels: (N,) 0 and 1.
        scores: (N,) probability of the second class.
        patients: (N,) numbers.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    patients: NDArray[np.int64]


def side_of(run: Run) -> Side:
    """Of a run's test side."""
    from ttl_deploy.data.prepared import read_split

    said = read_predictions(run).side("test")
    owners = {row.id: row.patient or row.id for row in read_split(run.split)}
    _, numbers = np.unique([owners[image] for image in said.ids], return_inverse=True)
    return Side(said.labels, run.task.probabilities(said.logits)[:, 1], numbers.astype(np.int64))


def difference(runs: Sequence[Run], whole: Sequence[Run]) -> tuple[float, float, float]:
    """AUROC of some runs less that of others, means over their seeds, with a 95 % interval over patients."""
    sides = [[side_of(run) for run in some] for some in (runs, whole)]
    labels, patients = sides[0][0].labels, sides[0][0].patients
    times = np.hstack([once(patients), drawn(labels, patients)])

    def each(side: Side) -> NDArray[np.float64]:
        return Ranked(side.labels == 1, side.scores, side.patients).areas(times)[0]

    first, second = (np.mean([each(side) for side in some], axis=0) for some in sides)
    apart = first - second
    low, high = np.percentile(apart[1:], [2.5, 97.5])
    return float(apart[0]), float(low), float(high)


def drawn(labels: NDArray[np.int64], patients: NDArray[np.int64]) -> Times:
    """(patients, `RESAMPLES`) how often each patient is in each resample; both classes are in all of them."""
    generator, count = np.random.default_rng(0), int(patients.max()) + 1
    found: list[NDArray[np.int64]] = []
    while len(found) < RESAMPLES:
        times = np.bincount(generator.integers(count, size=count), minlength=count)
        if 0 < labels @ times[patients] < times[patients].sum():
            found.append(times)
    return np.stack(found, axis=1).astype(np.int32)


def exported(run: Run) -> Artifact:
    """The run's model in OpenVINO, exported if it is not there."""
    folder = run.folder / "openvino"
    return open_artifact(folder) if folder.exists() else export_run(run.folder, format="openvino", out=folder)


Table = dict[tuple[str, str, str | None], list[Run]]
"""Runs of all seeds by (initialisation, method, cut)."""


Differences = dict[tuple[str, str, str | None], tuple[float, float, float]]
"""AUROC less that of FTL from the weights, with its interval, by the same key."""


def differences(table: Table) -> Differences:
    """Those of all but FTL from the weights; none where that is not there."""
    whole = table.get(WHOLE)
    return {key: difference(runs, whole) for key, runs in table.items() if whole and key != WHOLE}


def table_of(runs: dict[Training, Run]) -> Table:
    """The runs of each training's seeds."""
    found: Table = {}
    for one, run in runs.items():
        found.setdefault((one.init, one.method, one.cut), []).append(run)
    return found


def accuracy(runs: Sequence[Run]) -> tuple[str, str]:
    """AUROC and AUPRC of the seeds in words: mean, and of one seed its interval, of several their range."""
    cells = []
    for metric in ("auroc", "auprc"):
        values = [run.metrics()["test"][metric] for run in runs]
        if len(values) > 1:
            cells.append(f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        else:
            low, high = runs[0].metrics()["test"][f"{metric}_interval"]
            cells.append(f"{values[0]:.3f} [{low:.3f}, {high:.3f}]")
    return cells[0], cells[1]


def rows_of(table: Table, moved: Differences, seconds: float) -> Iterator[str]:
    """The rows of the report, one for each method and cut and initialisation that is there."""
    times: dict[tuple[str, str | None], float] = {}
    for (init, method, cut), runs in sorted(table.items(), key=_place):
        shape = (method if method == "tf" else "ftl" if method in ("ftl", "lwft") else "ttl", cut)
        shape = ("ftl", None) if shape[0] == "ftl" else shape
        if shape not in times:
            times[shape] = milliseconds(exported(runs[0]), seconds)
        spec = runs[0].config.model
        cost = count(build(spec), spec.input_shape)
        minutes = mean(run.metrics()["seconds"] for run in runs) / 60
        apart = ""
        if (init, method, cut) in moved:
            value, low, high = moved[init, method, cut]
            apart = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
        auroc, auprc = accuracy(runs)
        yield (
            f"| {method.upper()} | {cut or ''} | {init} | {len(runs)} | {auroc} | {auprc} | {apart} | "
            f"{cost.parameters / 1e6:.3f} M | {cost.macs / 1e6:.0f} M | {times[shape]:.1f} ms | {minutes:.1f} min |"
        )


def _place(entry: tuple[tuple[str, str, str | None], Any]) -> tuple[int, int, str]:
    init, method, cut = entry[0]
    return ("ftl", *METHODS).index(method), INITS.index(init), cut or ""


def answers(table: Table, moved: Differences) -> Iterator[str]:
    """What the table says, in words: whether truncation costs, and what the pretrained weights bring at each cut."""
    whole = table.get(WHOLE)
    cuts = {cut: runs for (init, method, cut), runs in table.items() if (init, method) == ("weights", "ttl")}
    if whole and cuts:
        level = [cut for cut in cuts if moved["weights", "ttl", cut][1] > -NEAR]
        least = min(level, key=lambda cut: _parameters(cuts[cut]), default=None)
        if least is None:
            yield f"- No cut's AUROC is shown to be less than {NEAR} below that of FTL."
        else:
            share = _parameters(cuts[least]) / _parameters(whole)
            yield (
                f"- The smallest cut whose AUROC is shown to be less than {NEAR} below that of FTL is after {least}: "
                f"{_mean_auroc(cuts[least]):.3f} against {_mean_auroc(whole):.3f} with {share:.1%} of the parameters."
            )
    for method in ("lwft", "tf"):
        others = {cut: runs for (init, name, cut), runs in table.items() if (init, name) == ("weights", method)}
        if others and whole:
            best = max(others, key=lambda cut: _mean_auroc(others[cut]))
            told = ", ".join(f"{cut} {_mean_auroc(runs):.3f}" for cut, runs in sorted(others.items(), key=str))
            yield (
                f"- {method.upper()} from the weights is best at {best} ({_mean_auroc(others[best]):.3f}, "
                f"{_parameters(others[best]) / _parameters(whole):.0%} of FTL's parameters): {told}."
            )
    for other, words in (("random", "random values"), ("stats", "values with the weights' mean and deviation")):
        pairs = [
            (cut or "the whole network", _mean_auroc(runs) - _mean_auroc(table[other, method, cut]))
            for (init, method, cut), runs in sorted(table.items(), key=_place)
            if init == "weights" and method in ("ftl", "ttl") and (other, method, cut) in table
        ]
        if pairs:
            told = ", ".join(f"{cut} {gain:+.3f}" for cut, gain in pairs)
            yield f"- The weights bring, against {words}, this much AUROC: {told}."


def _mean_auroc(runs: Sequence[Run]) -> float:
    return mean(run.metrics()["test"]["auroc"] for run in runs)


def _parameters(runs: Sequence[Run]) -> int:
    spec = runs[0].config.model
    return count(build(spec), spec.input_shape).parameters


def report(table: Table, given: argparse.Namespace, missing: int) -> str:
    """The text."""
    first, moved = next(iter(table.values()))[0], differences(table)
    sides = first.metrics()["images"]
    machine, versions = hardware.describe(), hardware.library_versions()
    done = len(trainings()) - missing
    lines = [
        "<!-- made by `python benchmarks/transfer.py LABELS.csv WEIGHTS --work FOLDER` -->",
        "# Truncated transfer from real ImageNet weights, on real chest x-rays",
        "",
        f"EfficientNet-Lite0 (timm's `{BACKBONE}`, Google's weights), no finding against pneumonia (NIH ChestX-ray8 as",
        f"collected for DarkCovidNet), {given.size} pixels, divided by patient: {sides['train']} images for training,",
        f"{sides['val']} for validation, {sides['test']} for the test. {given.epochs} epochs of Adam at 1e-3 falling",
        "by a cosine, batch 32, rotation and crop, bfloat16, evaluated in float32; the same for all.",
        "",
        f"{done} of {done + missing} trainings are there. AUROC and AUPRC are of the test side: of one seed with its",
        "95 % interval over patients, of several their mean and range. The difference is of AUROC against FTL from the",
        "weights, on the same patients, with its 95 % interval. Latency is the median of one image in OpenVINO, fp32,",
        f"{default_threads()} threads; the minutes of training are of a machine that did other work beside.",
        "",
        "| | cut after | start | seeds | AUROC | AUPRC | against FTL | parameters | MACs | latency | training |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *rows_of(table, moved, given.seconds),
        "",
        *answers(table, moved),
        "",
        "![AUROC over the cut](transfer.png)",
        "",
        f"{machine.name}; " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    return "\n".join(lines) + "\n"


def picture(table: Table, path: Path) -> None:
    """AUROC over the block after which the network is cut, a line for each method and start."""
    ends = [point.name for point in BACKBONES.get(BACKBONE).cut_points if point.ends_block]
    figure = Figure(figsize=(7.5, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    colours = {init: f"C{place}" for place, init in enumerate(INITS)}
    marks = dict(zip(METHODS, ("o-", "s:", "^-."), strict=True))
    for init, method in itertools.product(INITS, METHODS):
        points = [(i + 1, table[init, method, cut]) for i, cut in enumerate(ends) if (init, method, cut) in table]
        if points:
            values = [_mean_auroc(runs) for _, runs in points]
            label = f"{method.upper()} from {init}"
            axes.plot([x for x, _ in points], values, marks[method], color=colours[init], label=label)
    for init in INITS:
        if whole := table.get((init, "ftl", None)):
            label = f"FTL from {init}"
            axes.axhline(_mean_auroc(whole), linestyle="--", linewidth=1, color=colours[init], label=label)
    axes.set_xlabel("cut after block")
    axes.set_ylabel("AUROC, test")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    FigureCanvasAgg(figure)
    figure.savefig(path)


def main() -> int:
    """Trains what is missing as far as the time goes, and writes the report; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path, help="table of images, labels and patients")
    parser.add_argument("weights", type=Path, help="timm's weights of the network")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=1e9, help="after which no training begins")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--seconds", type=float, default=3.0, help="of every latency")
    parser.add_argument("--no-report", action="store_true", help="only train")
    parser.add_argument("--out", type=Path, default=Path("reports/transfer.md"))
    given = parser.parse_args()
    begun, runs, missing = time.monotonic(), {}, 0
    for one in trainings():
        there = (given.work / one.name / "metrics.json").exists()
        if there or time.monotonic() - begun < 60 * given.minutes:
            runs[one] = trained(one, given)
            if not there:
                line(f"{one.name}: {runs[one].metrics()['test']['auroc']:.4f}")
        else:
            missing += 1
    if runs and not given.no_report:
        table = table_of(runs)
        picture(table, given.out.with_suffix(".png"))
        files.write_text(given.out, report(table, given, missing))
    return 0


if __name__ == "__main__":
    sys.exit(main())
