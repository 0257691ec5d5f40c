"""The quickstart: synthetic images, a truncated and a whole model, export, verification, latency, one report.

Everything a user later does with their own images, in a few minutes on two cores and without internet.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ttl_deploy import __version__, files, hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.data import synthetic_ct
from ttl_deploy.data.synthetic import write_synthetic
from ttl_deploy.data.synthetic_ct import write_synthetic_ct
from ttl_deploy.errors import BadInputError, CheckFailedError, near
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.pages import charts
from ttl_deploy.pages.html import render
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import ArtifactManifest, Data, Model, Protocol
from ttl_deploy.training.run import Run, read_predictions, run_data
from ttl_deploy.training.train import train
from ttl_deploy.verbs.bench import WHOLE, BenchRow, bench, describe

REPORT = Path("reports/quickstart.html")


@dataclass(frozen=True)
class Subject:
    """What a quickstart is of.

    Attributes:
        write: Writes a synthetic set of so many into a folder, from a seed.
        count: How many where nothing is said.
        classes: Class names; the second is the positive one.
        reading: What else is said of the data.
        model: What is said of the model besides method and cut.
        cut: Of the truncated one.
        protocol: What differs from the paper's, which from random weights and a few hundred images would take far more
            epochs.
        title: Of the sizes of the latencies' chart.
        samples: What the report says of the samples that it shows.
        lesson: What decides in them.
    """

    write: Callable[[Path, int, int, Reporter], Path]
    count: int
    classes: tuple[str, str]
    reading: Mapping[str, Any]
    model: Mapping[str, Any]
    cut: str
    protocol: Mapping[str, Any]
    title: str
    samples: str
    lesson: str


_SIZE = 96
# After so few steps the batch norms' statistics lag behind the weights unless the rate falls: images are then ranked
# right and nearly all called by one class.
_FALLING = {"name": "cosine"}
SUBJECTS: Mapping[str, Subject] = {
    "image": Subject(
        lambda folder, count, seed, reporter: write_synthetic(
            folder, images=count, size=_SIZE, seed=seed, reporter=reporter
        ),
        600,
        ("healthy", "lesion"),
        {},
        {"backbone": "resnet18", "image_size": _SIZE},
        "layer2",
        {"epochs": 10, "learning_rate": 1e-3, "schedule": _FALLING, "batch_size": 32},
        f"{_SIZE}x{_SIZE}",
        "Both classes carry the same number of soft patches with the same mean and variance; only the texture inside "
        "them differs, so brightness says nothing and fine texture says all.",
        "The images are synthetic and made so that fine texture decides",
    ),
    "ct": Subject(
        lambda folder, count, seed, reporter: write_synthetic_ct(folder, studies=count, seed=seed, reporter=reporter),
        160,
        synthetic_ct.CLASSES,
        {"hu_window": (-100.0, 500.0)},
        {"backbone": "resnext3d50", "image_size": synthetic_ct.SIZE, "channels": 1},
        "layer1.0",
        {
            "epochs": 15,
            "learning_rate": 1e-3,
            "schedule": _FALLING,
            "batch_size": 16,
            "augment": {"steps": ("hflip=0.5", "vflip=0.5")},
        },
        "x".join(map(str, synthetic_ct.SIZE)),
        "The middle slices of studies. Both classes have vessels full of contrast and as many soft blobs of the same "
        "density; only whether these lie beside the vessels or fill them differs.",
        "The studies are synthetic and made so that a vessel's neighbourhood decides",
    ),
}
"""By the name that the command takes."""


@dataclass(frozen=True)
class QuickstartOutcome:
    """What the quickstart made.

    Attributes:
        report: The HTML page.
        small: `metrics.json` of the truncated run; the run itself is there only if it was kept.
        whole: That of the whole run.
        manifest: Of the exported truncated model.
        rows: The latencies.
    """

    report: Path
    small: dict[str, Any]
    whole: dict[str, Any]
    manifest: ArtifactManifest
    rows: list[BenchRow]


def quickstart(
    *,
    report: str | Path = REPORT,
    keep: str | Path | None = None,
    task: str = "image",
    images: int | None = None,
    seed: int = 0,
    overwrite: bool = True,
    reporter: Reporter = SILENT,
) -> QuickstartOutcome:
    """Runs everything once and writes the report.

    Args:
        report: Where the HTML page goes; its picture goes beside it, as PNG.
        keep: Folder that keeps data, runs and artifact; None: they are removed afterwards.
        task: Of `SUBJECTS`: `image`, or `ct`, studies of slices.
        images: How many synthetic images or studies; None: a few hundred.
        seed: Seed of images, weights and training.
        overwrite: Replace the report that is there.
        reporter: Told what happens.

    Raises:
        BadInputError: There is no such task.
        CheckFailedError: The artifact does not predict what PyTorch predicts, or nothing was learned.
    """
    if task not in SUBJECTS:
        raise BadInputError(f"unknown task {task!r:.80}", where="--task", fix=near(task, SUBJECTS))
    page, subject = Path(report), SUBJECTS[task]
    files.refuse_existing(page, overwrite=overwrite, fix="choose another --report")
    with _workplace(keep) as work:
        count = subject.count if images is None else images
        data = subject.write(work / "data", count, seed, reporter)
        small = _train(subject, data, work, "ttl", seed, reporter)
        whole = _train(subject, data, work, "ftl", seed, reporter)
        artifact = export_run(small.folder, cache=work / "cache", reporter=reporter)
        rows = bench(
            [artifact.folder],
            min_samples=100,
            min_seconds=1.5,
            roofline=False,
            cache=work / "cache",
            reporter=reporter,
        )
        _write_report(page, subject, work, small, whole, artifact, rows)
        if not _above_chance(small):
            raise CheckFailedError("the truncated model is not above chance on the held-out images", where=page)
        return QuickstartOutcome(page, small.metrics(), whole.metrics(), artifact.manifest, rows)


def _above_chance(run: Run) -> bool:
    interval = run.metrics()["test"]["auroc_interval"]
    return interval is not None and interval[0] > 0.5


def _train(subject: Subject, data: Path, work: Path, method: str, seed: int, reporter: Reporter) -> Run:
    reporter.info(f"training {method.upper()}")
    cut = subject.cut if method == "ttl" else None
    images = Data(path=data / "labels.csv", classes=subject.classes, cache=work / "cache", **subject.reading)
    model = Model(method=method, cut=cut, weights="random", **subject.model)
    return train(images, model, Protocol(**subject.protocol, seed=seed), work / "runs" / method, reporter=reporter)


@contextlib.contextmanager
def _workplace(keep: str | Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="ttl-deploy-") as temporary:
            yield Path(temporary)
        return
    folder = Path(keep)
    files.refuse_existing(folder, overwrite=False, fix="choose another folder for --keep")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _write_report(
    page: Path, subject: Subject, work: Path, small: Run, whole: Run, artifact: Artifact, rows: list[BenchRow]
) -> None:
    facts = _facts(subject, work, small, whole, artifact, rows)
    picture = facts["latency"]
    files.write_text(page, render("quickstart.html.j2", **facts))
    files.write_bytes(page.with_suffix(".png"), picture)


def _facts(
    subject: Subject, work: Path, small: Run, whole: Run, artifact: Artifact, rows: list[BenchRow]
) -> dict[str, Any]:
    machine = hardware.describe().name
    metrics = small.metrics()
    prepared = run_data(small, cache=work / "cache")
    names = {True: describe(small.config.model), False: describe(whole.config.model)}
    bars = [
        charts.Bar(row.measurement.runtime, _median(row), row.role != WHOLE)
        for row in sorted(rows, key=lambda row: row.role == "own")
    ]
    title = f"{subject.title}, {rows[0].measurement.threads} threads, {machine}"
    own_fastest = max(row.ratio or 0.0 for row in rows if row.role != WHOLE)
    test = prepared.indices("test")
    return {
        "small": _model_facts(small, own=True),
        "whole": _model_facts(whole, own=False),
        "speedup": own_fastest,
        "parity": artifact.manifest.parity,
        "images": metrics["images"],
        "note": subject.samples,
        "lesson": subject.lesson,
        "patients": len({prepared.patients[i] for i in test}),
        "samples": charts.image_grid(
            [
                (name, prepared.pixels(test[prepared.labels[test] == label][:6]))
                for label, name in enumerate(prepared.classes)
            ]
        ),
        "roc": charts.roc_chart([_curve(whole, small=False), _curve(small, small=True)]),
        "latency": charts.latency_chart(bars, names[False], names[True], title),
        "threads": rows[0].measurement.threads,
        "speeds": [_speed_facts(row) for row in rows],
        "command": hardware.command(),
        "version": __version__,
        "machine": machine,
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
        "libraries": hardware.library_versions(),
    }


def _model_facts(run: Run, *, own: bool) -> dict[str, Any]:
    metrics = run.metrics()
    test = metrics["test"]
    return {
        "name": describe(run.config.model),
        "own": own,
        "interval": test["auroc_interval"],
        **{key: test[key] for key in ("auroc", "auprc", "accuracy", "brier")},
        **{key: metrics[key] for key in ("parameters", "macs", "seconds")},
    }


def _speed_facts(row: BenchRow) -> dict[str, Any]:
    m = row.measurement
    return {
        "model": row.model,
        "own": row.role != WHOLE,
        "runtime": m.runtime,
        "precision": m.precision,
        "p50": _median(row),
        "disturbed": m.inconclusive,
        "p90": m.p90_ms,
        "throughput": m.throughput,
        "samples": len(m.samples_ms),
        "ratio": row.ratio,
    }


def _median(row: BenchRow) -> float:
    return float(np.median(row.measurement.samples_ms))


def _curve(run: Run, *, small: bool) -> tuple[str, Any, Any, bool]:
    from sklearn.metrics import roc_curve

    predictions = read_predictions(run).side("test")
    false, true, _thresholds = roc_curve(predictions.labels, run.task.probabilities(predictions.logits)[:, 1])
    return describe(run.config.model), false, true, small
