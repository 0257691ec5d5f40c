"""The quickstart: synthetic images, a truncated and a whole model, export, verification, latency, one report.

Everything a user later does with their own images, in a few minutes on two cores and without internet.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ttl_deploy import __version__, files, hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.data.synthetic import write_synthetic
from ttl_deploy.errors import CheckFailedError
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.report import charts
from ttl_deploy.report.html import render
from ttl_deploy.spec import ArtifactManifest, Data, Model, Protocol
from ttl_deploy.training.run import Run, read_predictions, run_data
from ttl_deploy.training.train import train
from ttl_deploy.verbs.bench import WHOLE, BenchRow, bench, describe

REPORT = Path("reports/quickstart.html")

_BACKBONE = "resnet18"
_CUT = "layer2"
_IMAGE_SIZE = 96
_SETTINGS: dict[str, Any] = {
    "epochs": 10,
    # From random weights and a few hundred images the paper's rate and batch would take far more epochs.
    "learning_rate": 1e-3,
    "batch_size": 32,
}


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
    images: int = 600,
    seed: int = 0,
    overwrite: bool = True,
    reporter: Reporter = SILENT,
) -> QuickstartOutcome:
    """Runs everything once and writes the report.

    Args:
        report: Where the HTML page goes; its picture goes beside it, as PNG.
        keep: Folder that keeps data, runs and artifact; None: they are removed afterwards.
        images: How many synthetic images.
        seed: Seed of images, weights and training.
        overwrite: Replace the report that is there.
        reporter: Told what happens.

    Raises:
        CheckFailedError: The artifact does not predict what PyTorch predicts, or nothing was learned.
    """
    page = Path(report)
    files.refuse_existing(page, overwrite=overwrite, fix="choose another --report")
    with _workplace(keep) as work:
        data = write_synthetic(work / "data", images=images, size=_IMAGE_SIZE, seed=seed, reporter=reporter)
        small = _train(data, work, "ttl", _CUT, seed, reporter)
        whole = _train(data, work, "ftl", None, seed, reporter)
        artifact = export_run(small.folder, cache=work / "cache", reporter=reporter)
        rows = bench(
            [artifact.folder],
            min_samples=100,
            min_seconds=1.5,
            roofline=False,
            cache=work / "cache",
            reporter=reporter,
        )
        _write_report(page, work, small, whole, artifact, rows)
        if not _above_chance(small):
            raise CheckFailedError("the truncated model is not above chance on the held-out images", where=page)
        return QuickstartOutcome(page, small.metrics(), whole.metrics(), artifact.manifest, rows)


def _above_chance(run: Run) -> bool:
    interval = run.metrics()["test"]["auroc_interval"]
    return interval is not None and interval[0] > 0.5


def _train(data: Path, work: Path, method: str, cut: str | None, seed: int, reporter: Reporter) -> Run:
    reporter.info(f"training {method.upper()}")
    images = Data(path=data / "labels.csv", classes=("healthy", "lesion"), cache=work / "cache")
    model = Model(backbone=_BACKBONE, method=method, cut=cut, image_size=_IMAGE_SIZE, weights="random")
    return train(images, model, Protocol(**_SETTINGS, seed=seed), work / "runs" / method, reporter=reporter)


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


def _write_report(page: Path, work: Path, small: Run, whole: Run, artifact: Artifact, rows: list[BenchRow]) -> None:
    facts = _facts(work, small, whole, artifact, rows)
    picture = facts["latency"]
    files.write_text(page, render("quickstart.html.j2", **facts))
    files.write_bytes(page.with_suffix(".png"), picture)


def _facts(work: Path, small: Run, whole: Run, artifact: Artifact, rows: list[BenchRow]) -> dict[str, Any]:
    machine = hardware.describe().name
    metrics = small.metrics()
    prepared = run_data(small, cache=work / "cache")
    names = {True: describe(small.config.model), False: describe(whole.config.model)}
    bars = [
        charts.Bar(row.measurement.runtime, _median(row), row.role != WHOLE)
        for row in sorted(rows, key=lambda row: row.role == "own")
    ]
    title = f"{_IMAGE_SIZE}x{_IMAGE_SIZE}, {rows[0].measurement.threads} threads, {machine}"
    own_fastest = max(row.ratio or 0.0 for row in rows if row.role != WHOLE)
    test = prepared.indices("test")
    return {
        "small": _model_facts(small, own=True),
        "whole": _model_facts(whole, own=False),
        "speedup": own_fastest,
        "parity": artifact.manifest.parity,
        "images": metrics["images"],
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
        "command": "ttl-deploy " + shlex.join(sys.argv[1:]) if sys.argv[1:] else "ttl-deploy quickstart",
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
