"""Benchmarking as a user asks for it: an artifact in every engine here, beside PyTorch and beside the whole network.

Every measurement runs in its own process, in turns; this process loads neither torch nor an engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ttl_deploy import __version__, files, hardware
from ttl_deploy.artifact import MANIFEST, Artifact, open_artifact
from ttl_deploy.bench import Job, Measurement, run_all
from ttl_deploy.errors import BadInputError
from ttl_deploy.export.reference import whole_network
from ttl_deploy.parity.verify import source_folder
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.runtime import RUNTIMES
from ttl_deploy.spec import ModelSpec
from ttl_deploy.training.run import finished_run

EAGER = "ttl_deploy.runtime.eager:bench_loader"
WHOLE = "whole"


@dataclass(frozen=True)
class Row:
    """One measured model in one engine.

    Attributes:
        model: What it is, in words.
        role: `own` for what the user named, `whole` for the FTL network it is compared with.
        parameters: Parameters of the model.
        macs: Multiply-adds for one image.
        measurement: The latency, with all samples.
        ratio: Speed relative to the whole network in PyTorch eager; None where that was not measured.
    """

    model: str
    role: str
    parameters: int
    macs: int
    measurement: Measurement
    ratio: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "model": self.model,
            "role": self.role,
            "parameters": self.parameters,
            "macs": self.macs,
            "ratio": self.ratio,
            "measurement": self.measurement.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class _Subject:
    """Something to measure: its words, its cost, and its jobs."""

    model: str
    role: str
    parameters: int
    macs: int
    jobs: tuple[Job, ...]


def bench(
    paths: Sequence[str | Path],
    *,
    batch: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    runtimes: Sequence[str] | None = None,
    compare_whole: bool = True,
    min_samples: int = 60,
    min_seconds: float = 3.0,
    rounds: int = 3,
    out: Path | None = None,
    cache: Path | None = None,
    reporter: Reporter = SILENT,
) -> list[Row]:
    """Measures artifacts and runs, each artifact in every engine that runs it here.

    Args:
        paths: Folders of artifacts or runs. An artifact inside its run is also measured as PyTorch eager.
        batch: Images per call.
        threads: Threads per call; None: one per core.
        device: `cpu` or `cuda`.
        runtimes: Engines for artifacts; None: all that can.
        compare_whole: Measure the whole (FTL) network of each backbone too, untrained, in the same engines.
        min_samples: Least samples per row.
        min_seconds: Least seconds per row.
        rounds: How many times the rows take turns.
        out: JSON file for the rows with every raw sample.
        cache: Folder that keeps the exported whole networks.
        reporter: Told what happens.

    Raises:
        BadInputError: A path is neither an artifact nor a finished run.
        TtlDeployError: A measurement failed.
    """
    if not paths:
        raise BadInputError("nothing to measure", fix="pass artifacts or runs")
    shared = {
        "batch": batch,
        "threads": threads,
        "device": device,
        "min_samples": min_samples,
        "min_seconds": min_seconds,
        "max_seconds": max(20.0, 4 * min_seconds),
    }
    subjects: dict[str, _Subject] = {}
    for path in paths:
        for key, subject in _subjects(Path(path), runtimes, compare_whole, shared, cache, reporter):
            subjects.setdefault(key, subject)
    jobs = [job for subject in subjects.values() for job in subject.jobs]
    measured = iter(run_all(jobs, rounds=rounds, reporter=reporter))
    rows = [
        Row(subject.model, subject.role, subject.parameters, subject.macs, next(measured))
        for subject in subjects.values()
        for _job in subject.jobs
    ]
    rows = _with_ratios(rows)
    if out is not None:
        files.write_json(out, record(rows))
    return rows


def record(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows with where and when they were measured, for JSON."""
    return {
        "program": __version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware.describe().as_dict(),
        "libraries": hardware.library_versions(),
        "rows": [row.as_dict() for row in rows],
    }


def describe(spec: ModelSpec) -> str:
    """A model in words: `resnet50 TTL layer3.3`."""
    where = spec.cut or (f"top {spec.trained_layers}" if spec.trained_layers else "")
    return " ".join(part for part in (spec.backbone, spec.method.upper(), where) if part)


def _subjects(
    path: Path,
    runtimes: Sequence[str] | None,
    compare_whole: bool,
    shared: dict[str, Any],
    cache: Path | None,
    reporter: Reporter,
) -> list[tuple[str, _Subject]]:
    artifact = open_artifact(path) if (path / MANIFEST).exists() or not (path / "config.yaml").exists() else None
    run_folder = source_folder(artifact) if artifact else path
    found: list[tuple[str, _Subject]] = []
    spec = artifact.manifest.model if artifact else finished_run(path).config.model
    if run_folder is not None:
        found.append((f"run {run_folder.resolve()}", _run_subject(run_folder, shared)))
    if artifact:
        found.append((f"artifact {artifact.folder.resolve()}", _artifact_subject(artifact, "own", runtimes, shared)))
    if compare_whole and not (spec.method == "ftl" and artifact):
        found += _whole_subjects(spec, runtimes, shared, cache, reporter)
    return found


def _run_subject(folder: Path, shared: dict[str, Any]) -> _Subject:
    run = finished_run(folder)
    metrics = run.metrics()
    words = describe(run.config.model)
    job = _eager_job(words, {"run": str(folder.resolve())}, shared)
    return _Subject(words, "own", metrics["parameters"], metrics["macs"], (job,))


def _artifact_subject(
    artifact: Artifact, role: str, runtimes: Sequence[str] | None, shared: dict[str, Any]
) -> _Subject:
    manifest = artifact.manifest
    words = describe(manifest.model)
    jobs = tuple(
        Job(label=f"{words} {name}", artifact=str(artifact.folder.resolve()), runtime=name, **shared)
        for name in _engines(artifact, runtimes, shared["device"])
    )
    return _Subject(words, role, manifest.parameters, manifest.macs, jobs)


def _whole_subjects(
    spec: ModelSpec, runtimes: Sequence[str] | None, shared: dict[str, Any], cache: Path | None, reporter: Reporter
) -> list[tuple[str, _Subject]]:
    with reporter.task(f"exporting the whole {spec.backbone} for comparison", None):
        artifact = whole_network(spec, cache=cache)
    whole = artifact.manifest.model
    words = describe(whole)
    eager = _eager_job(words, {"spec": whole.model_dump(mode="json")}, shared)
    exported = _artifact_subject(artifact, WHOLE, runtimes, shared)
    key = f"whole {whole.digest()}"
    return [(key, _Subject(words, WHOLE, exported.parameters, exported.macs, (eager, *exported.jobs)))]


def _eager_job(words: str, argument: dict[str, Any], shared: dict[str, Any]) -> Job:
    return Job(label=f"{words} pytorch", loader=EAGER, argument={**argument, "device": shared["device"]}, **shared)


def _engines(artifact: Artifact, wanted: Sequence[str] | None, device: str) -> list[str]:
    if wanted is not None:
        return [RUNTIMES.get(name).name for name in wanted]
    return [
        engine.name
        for engine in sorted(RUNTIMES, key=lambda engine: engine.rank)
        if artifact.manifest.format in engine.formats and device in engine.devices and engine.available() is None
    ]


def _with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Speeds relative to the whole network in PyTorch eager, where exactly one was measured."""
    bases = [r.measurement for r in rows if r.role == WHOLE and r.measurement.runtime == "pytorch"]
    if len(bases) != 1:
        return list(rows)
    base = bases[0].mean_ms if bases[0].p50_ms is None else bases[0].p50_ms
    return [
        Row(
            r.model, r.role, r.parameters, r.macs, r.measurement, base / (r.measurement.p50_ms or r.measurement.mean_ms)
        )
        for r in rows
    ]
