"""Seconds and memory of the bootstrap by patient, beside a plain loop over resamples with scikit-learn.

    python benchmarks/bootstrap.py --images 20000 --classes 2
    python benchmarks/bootstrap.py --images 200000 --classes 14 --task multilabel --loop 3 --out bootstrap.json

makes labels and two models' scores from a seed and measures, each in a process of its own: `evaluate` and the paired
`changes` of `verify`, whole, with all their resamples; then the AUROC and the average precision of every column on the
same draws, ours on all resamples and scikit-learn's with sample weights on the first `--loop` of them, because it takes
a second and more for each. Prints seconds, the peak of the process' memory, of which Python and its libraries are part,
and the ratio for one resample; exit code 1 where the two sides differ by more than 1e-9. `--loop 0` leaves both sides'
comparison out. Times are only worth something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import files, hardware
from ttl_deploy.latency.measure import peak_rss_mib
from ttl_deploy.parity.paired import changes
from ttl_deploy.spec import TaskSpec
from ttl_deploy.tasks import Task, make_task, sigmoid, softmax
from ttl_deploy.tasks.task import rankable
from ttl_deploy.training.metrics import evaluate, resampled

TOLERANCE = 1e-9
"""Far above rounding, far below what anyone reports."""

MOST_TRIES = 20
"""Draws for each resample in which no class is missing."""

Floats = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        images: How many.
        patients: Of whom; their images are of different numbers.
        classes: How many.
        task: `multiclass` or `multilabel`.
        resamples: Of ours.
        loop: Of the plain loop.
        seed: Of images and resamples.
    """

    images: int
    patients: int
    classes: int
    task: str
    resamples: int
    loop: int
    seed: int


@dataclass(frozen=True)
class Sample:
    """Labelled images, and what two models say of them."""

    task: Task
    labels: NDArray[np.int64]
    first: Floats
    second: Floats
    groups: list[str]


def sample(sizes: Sizes) -> Sample:
    """Labels and probabilities that know something of them, the same for the same sizes; labels are of 1 to 30 %."""
    generator = np.random.default_rng(sizes.seed)
    shape = sizes.images, sizes.classes
    task = make_task(TaskSpec(kind=sizes.task), tuple(f"c{k:02}" for k in range(sizes.classes)))
    if task.SEVERAL:
        labels = (generator.random(shape) < np.linspace(0.01, 0.3, sizes.classes)).astype(np.int64)
        members, activation = labels, sigmoid
    else:
        labels = generator.integers(sizes.classes, size=sizes.images)
        members, activation = np.eye(sizes.classes, dtype=np.int64)[labels], softmax
    logits = generator.normal(size=shape) + members
    moved = logits + 0.1 * generator.normal(size=shape)
    groups = [f"p{patient:07}" for patient in generator.integers(sizes.patients, size=sizes.images)]
    return Sample(task, labels, activation(logits), activation(moved), groups)


def asked(given: Sample, sizes: Sizes) -> dict[str, Any]:
    """What every one of our sides is asked for."""
    return {"groups": given.groups, "bootstrap": sizes.resamples, "seed": sizes.seed}


def whole_evaluation(sizes: Sizes) -> Floats:
    """`evaluate`, with its intervals."""
    given = sample(sizes)
    found, took = timed(lambda: evaluate(given.labels, given.first, given.task, **asked(given, sizes)))
    return np.array([took, found.bootstrap])


def whole_change(sizes: Sizes) -> Floats:
    """`changes`, with its intervals."""
    given = sample(sizes)
    found, took = timed(lambda: changes(given.labels, given.first, given.second, given.task, **asked(given, sizes)))
    return np.array([took, found.bootstrap])


def our_areas(sizes: Sizes) -> Floats:
    """Both areas of every column on all resamples, of which the headline's average precision is kept."""
    given = sample(sizes)
    values, took = timed(lambda: resampled(given.labels, given.first, given.task, "auprc", **asked(given, sizes)))
    return np.append(took, values)


def looped_areas(sizes: Sizes) -> Floats:
    """The same by scikit-learn, one resample and one column after the other."""
    given = sample(sizes)
    values, took = timed(lambda: loop(given, sizes.loop, sizes.seed))
    return np.append(took, values)


def loop(given: Sample, count: int, seed: int) -> Floats:
    """(count,) the headline's average precision on the first resamples that have both sides of every column."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth, scores = given.task.truth(given.labels), given.task.scores(given.first)
    present = rankable(truth)
    names, patient = np.unique(given.groups, return_inverse=True)
    generator, found = np.random.default_rng(seed), list[float]()
    for _ in range(MOST_TRIES * count):
        if len(found) == count:
            break
        weights = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))[patient]
        if all((weights @ (truth[:, present] == side) > 0).all() for side in (0, 1)):
            areas = {
                k: [
                    measure(truth[:, k], scores[:, k], sample_weight=weights)
                    for measure in (roc_auc_score, average_precision_score)
                ]
                for k in present
            }
            found.append(float(np.mean([areas[k][1] for k in given.task.headline(truth)])))
    return np.array(found)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and the seconds that it took."""
    begin = time.perf_counter()
    found = work()
    return found, time.perf_counter() - begin


def alone(work: Callable[[Sizes], Floats], sizes: Sizes) -> tuple[Floats, float]:
    """What a side says, and the peak memory in MiB, in a new process that does nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, sizes).result(), pool.submit(peak_rss_mib).result()


def measure(sizes: Sizes) -> dict[str, Any]:
    """All sides, one after the other."""
    found: dict[str, Any] = {"command": " ".join(sys.argv), "sizes": asdict(sizes)}
    for name, work in (("evaluate", whole_evaluation), ("changes", whole_change)):
        (seconds, resamples), peak = alone(work, sizes)
        found[name] = {"resamples": int(resamples), "seconds": float(seconds), "peak_mib": peak}
    if sizes.loop:
        found |= compared(alone(our_areas, sizes), alone(looped_areas, sizes))
    return {**found, "hardware": hardware.describe().as_dict(), "libraries": hardware.library_versions()}


def compared(ours: tuple[Floats, float], loop: tuple[Floats, float]) -> dict[str, Any]:
    """Both sides' rows, the ratio of their seconds for one resample, and how far their numbers differ."""
    rows = {
        name: {"resamples": len(told) - 1, "seconds": float(told[0]), "peak_mib": peak}
        for name, (told, peak) in (("ours", ours), ("loop", loop))
    }
    if not all(row["resamples"] for row in rows.values()):
        raise SystemExit("nearly every resample lacks a class: more --images, --patients or fewer --classes")
    each = {name: row["seconds"] / row["resamples"] for name, row in rows.items()}
    both = min(row["resamples"] for row in rows.values())
    difference = np.abs(ours[0][1 : both + 1] - loop[0][1 : both + 1]).max()
    return {**rows, "ratio": each["loop"] / each["ours"], "largest_difference": float(difference)}


def lines(found: dict[str, Any]) -> list[str]:
    """The record for people."""
    sizes = found["sizes"]
    told = [f"{sizes['images']} images of {sizes['patients']} patients, {sizes['classes']} classes ({sizes['task']})"]
    for name in ("evaluate", "changes", "ours", "loop"):
        if name in found:
            row = found[name]
            told.append(
                f"{name}: {row['resamples']} resamples in {row['seconds']:.2f} s, peak {row['peak_mib']:.0f} MiB"
            )
    if "ratio" in found:
        told.append(
            f"a resample of the loop takes {found['ratio']:.1f} times as long as ours; the values differ by at most"
            f" {found['largest_difference']:.1e}"
        )
    return told


def main() -> int:
    """Parses, measures, prints; 0 if both sides say the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--patients", type=int, help="default: half as many as images")
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--task", choices=("multiclass", "multilabel"), default="multiclass")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=20, help="resamples of the plain loop; 0: without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the record")
    options = vars(parser.parse_args())
    out = options.pop("out")
    found = measure(Sizes(**{**options, "patients": options["patients"] or max(1, options["images"] // 2)}))
    if out:
        files.write_json(out, found)
    sys.stdout.write("\n".join(lines(found)) + "\n")
    return 0 if found.get("largest_difference", 0.0) <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
