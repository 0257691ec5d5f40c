"""Does a truncated network keep what the whole one can, on real x-rays from a network that really was pretrained?

    python benchmarks/transfer.py LABELS.csv WEIGHTS --work FOLDER [--minutes 60] [--out reports/transfer.md]

EfficientNet-Lite0 with its published ImageNet weights (Apache-2.0, Google; a file of timm's names), no finding against
pneumonia, divided by patient, 224 pixels: FTL, and TTL, LWFT and TF at every block end, from the weights, from random
values and from the weights' statistics, with three seeds on one division. That is far more than an hour on a small
machine: what is in FOLDER is not trained again, no training begins after so many minutes, and the report is of the
trainings that are there and says how many are not. The first seed goes first, and TTL before the others.

What the report needs of a training is kept beside it as JSON, with that of earlier commands whose FOLDER is gone: the
rest can be trained later, on another machine. With `--share 0 2` and `--share 1 2` two processes train half each.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import BaseModel
from segmentation import milliseconds

from ttl_deploy import files, hardware
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.cli.console import line
from ttl_deploy.complexity import count
from ttl_deploy.data.prepared import read_split
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
_FROM = {"weights": "the weights", "random": "random values", "stats": "values with the weights' mean and deviation"}
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

    @property
    def key(self) -> Key:
        """What it shares with those of other seeds."""
        return self.init, self.method, self.cut


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
class Result:
    """What is kept of a training.

    Attributes:
        auroc: Of the test side.
        auroc_interval: 95 %, over patients.
        auprc: Likewise.
        auprc_interval: Likewise.
        seconds: Of the training.
        parameters: Of the network.
        macs: Of one image.
        scores: (N,) log-odds of the second class, of the test images.
    """

    auroc: float
    auroc_interval: tuple[float, float]
    auprc: float
    auprc_interval: tuple[float, float]
    seconds: float
    parameters: int
    macs: int
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """A line of the report.

    Attributes:
        seeds: How many trainings it is of.
        auroc: Mean, and of several seeds their range, of one its 95 % interval.
        auprc: Likewise.
        apart: AUROC less that of FTL from the weights, with its 95 % interval; None of that itself.
        parameters: Of the network.
        macs: Of one image.
        minutes: Of a training, the middle one of several.
        earlier: Whether the images' scores are not kept: of trainings before scores were.
    """

    seeds: int
    auroc: tuple[float, float, float]
    auprc: tuple[float, float, float]
    apart: tuple[float, float, float] | None
    parameters: int
    macs: int
    minutes: float
    earlier: bool = False


class Kept(BaseModel):
    """The file beside the report.

    Attributes:
        sides: Images of each side.
        labels: (N,) of the test images, 0 and 1.
        patients: (N,) numbers.
        trainings: By `Training.name`.
        earlier: Rows by `name_of` their keys.
        latency: Milliseconds of one image by `shape_of` the keys.
    """

    sides: dict[str, int] = {}
    labels: list[int] = []
    patients: list[int] = []
    trainings: dict[str, Result] = {}
    earlier: dict[str, Row] = {}
    latency: dict[str, float] = {}


Key = tuple[str, str, str | None]
"""Initialisation, method, cut."""


def name_of(key: Key) -> str:
    """In the file."""
    return " ".join(part for part in key if part)


def shape_of(key: Key) -> str:
    """What latency hangs on: LWFT keeps the whole network, and the start of a training does not matter."""
    _, method, cut = key
    return "ftl" if method in ("ftl", "lwft") else f"{method} {cut}"


def result_of(run: Run) -> Result:
    """Of a finished run."""
    said, spec, metrics = read_predictions(run).side("test"), run.config.model, run.metrics()
    cost, test = count(build(spec), spec.input_shape), metrics["test"]
    odds = said.logits[:, 1].astype(np.float64) - said.logits[:, 0]
    return Result(
        auroc=test["auroc"],
        auroc_interval=tuple(test["auroc_interval"]),
        auprc=test["auprc"],
        auprc_interval=tuple(test["auprc_interval"]),
        seconds=metrics["seconds"],
        parameters=cost.parameters,
        macs=cost.macs,
        scores=tuple(float(f"{value:.7g}") for value in odds),
    )


def take_in(kept: Kept, one: Training, run: Run) -> None:
    """Keeps a run.

    Raises:
        SystemExit: Its test images are not those of the others.
    """
    said = read_predictions(run).side("test")
    owners = {row.id: row.patient or row.id for row in read_split(run.split)}
    _, patients = np.unique([owners[image] for image in said.ids], return_inverse=True)
    labels = said.labels.tolist()
    if kept.labels and (kept.labels, kept.patients) != (labels, patients.tolist()):
        raise SystemExit(f"{run.folder}: its test images are others than those of the report; pass another --out")
    kept.sides, kept.labels, kept.patients = run.metrics()["images"], labels, patients.tolist()
    kept.trainings[one.name] = result_of(run)


def difference(kept: Kept, some: Sequence[Result], whole: Sequence[Result]) -> tuple[float, float, float]:
    """AUROC of some trainings less that of others, means over their seeds, with a 95 % interval over patients."""
    labels, patients = np.array(kept.labels), np.array(kept.patients)
    times = np.hstack([once(patients), drawn(labels, patients)])

    def each(one: Result) -> NDArray[np.float64]:
        return Ranked(labels == 1, np.array(one.scores), patients).areas(times)[0]

    first, second = (np.mean([each(one) for one in side], axis=0) for side in (some, whole))
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


Table = dict[Key, Row]


def table_of(kept: Kept) -> Table:
    """Of every method, cut and start the row of more seeds."""
    whole = [result for one, result in known(kept) if (one.init, one.method) == WHOLE[:2]]
    found: Table = {}
    for one in trainings():
        key = one.key
        results = [result for other, result in known(kept) if other.key == key]
        earlier = kept.earlier.get(name_of(key))
        if earlier and earlier.seeds >= len(results):
            found[key] = earlier
        elif results:
            apart = None if key == WHOLE or not whole else difference(kept, results, whole)
            found[key] = row_of(results, apart)
    return found


def known(kept: Kept) -> list[tuple[Training, Result]]:
    """The trainings that are kept."""
    return [(one, kept.trainings[one.name]) for one in trainings() if one.name in kept.trainings]


def row_of(results: Sequence[Result], apart: tuple[float, float, float] | None) -> Row:
    """Of the trainings of one method, cut and start."""
    return Row(
        seeds=len(results),
        auroc=_span([one.auroc for one in results], results[0].auroc_interval),
        auprc=_span([one.auprc for one in results], results[0].auprc_interval),
        apart=apart,
        parameters=results[0].parameters,
        macs=results[0].macs,
        minutes=median(one.seconds for one in results) / 60,
    )


def _span(values: Sequence[float], interval: tuple[float, float]) -> tuple[float, float, float]:
    return (mean(values), min(values), max(values)) if len(values) > 1 else (values[0], *interval)


def rows_of(table: Table, latency: Mapping[str, float]) -> Iterator[str]:
    """The rows of the report."""
    for key, row in sorted(table.items(), key=_place):
        init, method, cut = key
        apart = ""
        if row.apart:
            apart = f"{row.apart[0]:+.3f} [{row.apart[1]:+.3f}, {row.apart[2]:+.3f}]"
        auroc, auprc = (_in_words(values, row.seeds) for values in (row.auroc, row.auprc))
        taken = f"{latency[shape_of(key)]:.1f} ms" if shape_of(key) in latency else ""
        yield (
            f"| {method.upper()} | {cut or ''} | {init} | {row.seeds}{'' if row.earlier else ' *'} | {auroc} | "
            f"{auprc} | {apart} | {row.parameters / 1e6:.3f} M | {row.macs / 1e6:.0f} M | {taken} | "
            f"{row.minutes:.1f} min |"
        )


def _in_words(values: tuple[float, float, float], seeds: int) -> str:
    middle, low, high = values
    return f"{middle:.3f} ({low:.3f} to {high:.3f})" if seeds > 1 else f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def _place(entry: tuple[Key, Any]) -> tuple[int, int, str]:
    init, method, cut = entry[0]
    return ("ftl", *METHODS).index(method), INITS.index(init), cut or ""


def answers(table: Table) -> Iterator[str]:
    """What the table says, in words: whether truncation costs, and what the pretrained weights bring at each cut."""
    whole = table.get(WHOLE)
    cuts = {cut: row for (init, method, cut), row in table.items() if (init, method) == ("weights", "ttl")}
    if whole and cuts:
        level = [cut for cut, row in cuts.items() if row.apart and row.apart[1] > -NEAR]
        least = min(level, key=lambda cut: cuts[cut].parameters, default=None)
        if least is None:
            yield f"- No cut's AUROC is shown to be less than {NEAR} below that of FTL."
        else:
            share = cuts[least].parameters / whole.parameters
            yield (
                f"- The smallest cut whose AUROC is shown to be less than {NEAR} below that of FTL is after {least}: "
                f"{cuts[least].auroc[0]:.3f} against {whole.auroc[0]:.3f} with {share:.1%} of the parameters."
            )
    for init, method in itertools.product(INITS, ("lwft", "tf")):
        others = {cut: row for (start, name, cut), row in table.items() if (start, name) == (init, method)}
        if others and whole:
            best = max(others, key=lambda cut: others[cut].auroc[0])
            told = ", ".join(f"{cut} {row.auroc[0]:.3f}" for cut, row in sorted(others.items(), key=str))
            yield (
                f"- {method.upper()} from {_FROM[init]} is best at {best} ({others[best].auroc[0]:.3f}, "
                f"{others[best].parameters / whole.parameters:.0%} of FTL's parameters): {told}."
            )
    for other in INITS[1:]:
        pairs = [
            (cut or "the whole network", row.auroc[0] - table[other, method, cut].auroc[0])
            for (init, method, cut), row in sorted(table.items(), key=_place)
            if init == "weights" and method in ("ftl", "ttl") and (other, method, cut) in table
        ]
        if pairs:
            told = ", ".join(f"{cut} {gain:+.3f}" for cut, gain in pairs)
            yield f"- The weights bring, against {_FROM[other]}, this much AUROC: {told}."


def report(kept: Kept, given: argparse.Namespace) -> str:
    """The text."""
    table = table_of(kept)
    machine, versions = hardware.describe(), hardware.library_versions()
    done, sides = sum(row.seeds for row in table.values()), kept.sides
    lines = [
        "<!-- made by `python benchmarks/transfer.py LABELS.csv WEIGHTS --work FOLDER` -->",
        "# Truncated transfer from real ImageNet weights, on real chest x-rays",
        "",
        f"EfficientNet-Lite0 (timm's `{BACKBONE}`, Google's weights), no finding against pneumonia (NIH ChestX-ray8 as",
        f"collected for DarkCovidNet), {given.size} pixels, divided by patient: {sides['train']} images for training,",
        f"{sides['val']} for validation, {sides['test']} for the test. {given.epochs} epochs of Adam at 1e-3 falling",
        "by a cosine, batch 32, rotation and crop, bfloat16, evaluated in float32; the same for all.",
        "",
        f"{done} of {len(trainings())} trainings are there. AUROC and AUPRC are of the test side: of one seed with its",
        "95 % interval over patients, of several their mean and range. The difference is of AUROC against FTL from the",
        "weights, on the same patients, with its 95 % interval. Latency is the median of one image in OpenVINO, fp32,",
        f"{default_threads()} threads; the minutes of training are of machines that did other work beside.",
        *_marked(kept, table),
        "",
        "| | cut after | start | seeds | AUROC | AUPRC | against FTL | parameters | MACs | latency | training |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *rows_of(table, kept.latency),
        "",
        *answers(table),
        "",
        "![AUROC over the cut](transfer.png)",
        "",
        f"{machine.name}; " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    return "\n".join(lines) + "\n"


def _marked(kept: Kept, table: Table) -> Iterator[str]:
    """What the star is."""
    whole = [result.auroc for one, result in known(kept) if one.key == WHOLE]
    if whole and table[WHOLE].earlier:
        words = _in_words(_span(whole, (0, 0)), len(whole))
        yield "Rows with a star are of trainings since the gradients of depthwise convolutions are computed in float32;"
        yield f"their difference is against FTL trained alike ({words} with {len(whole)} seeds)."


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
            values = [row.auroc[0] for _, row in points]
            label = f"{method.upper()} from {init}"
            axes.plot([x for x, _ in points], values, marks[method], color=colours[init], label=label)
    for init in INITS:
        if whole := table.get((init, "ftl", None)):
            label = f"FTL from {init}"
            axes.axhline(whole.auroc[0], linestyle="--", linewidth=1, color=colours[init], label=label)
    axes.set_xlabel("cut after block")
    axes.set_ylabel("AUROC, test")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
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
    parser.add_argument("--share", nargs=2, type=int, default=[0, 1], metavar=("I", "N"), help="every Nth, from I")
    parser.add_argument("--no-report", action="store_true", help="only train")
    parser.add_argument("--out", type=Path, default=Path("reports/transfer.md"))
    given = parser.parse_args()
    numbers = given.out.with_suffix(".json")
    kept = Kept.model_validate_json(numbers.read_text()) if numbers.exists() else Kept()
    begun = time.monotonic()
    for one in wanted(kept)[given.share[0] :: given.share[1]]:
        there = (given.work / one.name / "metrics.json").exists()
        if there or time.monotonic() - begun < 60 * given.minutes:
            run = trained(one, given)
            if not there:
                line(f"{one.name}: {run.metrics()['test']['auroc']:.4f}")
    if not given.no_report:
        gather(kept, given)
        picture(table_of(kept), given.out.with_suffix(".png"))
        files.write_text(numbers, kept.model_dump_json())
        files.write_text(given.out, report(kept, given))
    return 0


def wanted(kept: Kept) -> list[Training]:
    """The trainings that the report lacks; FTL from the weights is what all are held against, image by image."""
    lack = [one for one in trainings() if one.name not in kept.trainings]
    full = {name for name, row in kept.earlier.items() if row.seeds == len(SEEDS)} - {name_of(WHOLE)}
    return [one for one in lack if name_of(one.key) not in full]


def gather(kept: Kept, given: argparse.Namespace) -> None:
    """Takes in what lies in the folder, and times the networks that were not timed."""
    for one in trainings():
        if (given.work / one.name / "metrics.json").exists():
            run = finished_run(given.work / one.name)
            take_in(kept, one, run)
            if shape_of(one.key) not in kept.latency:
                kept.latency[shape_of(one.key)] = milliseconds(exported(run), given.seconds)


if __name__ == "__main__":
    sys.exit(main())
