"""`--format auto`: every format, precision and engine that this machine can run, and the fastest that passes parity.

Candidates come from the registries, so a new format or runtime joins by itself. Speeds are measured in turns, each in
a process of its own. What was tried, and why something was not, stays beside the winner in `candidates.json`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ttl_deploy import artifact as artifacts
from ttl_deploy import files, hardware
from ttl_deploy.aliases import device_of
from ttl_deploy.artifact import Artifact
from ttl_deploy.bench import Job, Measurement, run_all
from ttl_deploy.errors import CheckFailedError, TtlDeployError
from ttl_deploy.export.export_run import Exported, export_one
from ttl_deploy.export.exporter import EXPORTERS, Exporter
from ttl_deploy.parity.compare import Bounds
from ttl_deploy.parity.verify import verify
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.runtime import suitable
from ttl_deploy.training.run import finished_run

AUTO = "auto"
CANDIDATES = "candidates.json"
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Candidate:
    """One way to run the model.

    Attributes:
        format: Exporter.
        precision: Of the artifact.
        runtime: Engine; empty where it did not come to one.
        verdict: Of parity; empty where it was not checked.
        reason: The verdict's reason, or why it cannot be had here.
        p50_ms: Median milliseconds for one image; None where it was not measured.
        size_mb: Of all files.
        chosen: Whether it was kept.
    """

    format: str
    precision: str
    runtime: str = ""
    verdict: str = ""
    reason: str = ""
    p50_ms: float | None = None
    size_mb: float | None = None
    chosen: bool = False


def export_auto(
    run: str | Path,
    *,
    device: str = "cpu",
    out: str | Path | None = None,
    bounds: Bounds | None = None,
    threads: int | None = None,
    rounds: int = 3,
    min_samples: int = 60,
    overwrite: bool = False,
    data: str | Path | None = None,
    cache: Path | None = None,
    reporter: Reporter = SILENT,
) -> tuple[Artifact, list[Candidate]]:
    """Exports a run in every way this machine can run, and keeps the fastest that passes parity.

    Args:
        run: Folder of a finished run.
        device: `cpu` or `cuda`.
        out: Folder of the artifact; None: `RUN/auto-DEVICE`.
        bounds: What parity tolerates; None: the default of each precision.
        threads: Threads for one image; None: one per core.
        rounds: How many times the candidates take turns.
        min_samples: Least latency samples of each.
        overwrite: Replace an artifact that is there.
        data: Where the run's images are now; None: where they were.
        cache: Folder of the pixel cache.
        reporter: Told what happens.

    Returns:
        The artifact, and all candidates: the measured ones first, by speed.

    Raises:
        BadInputError: Not a finished run, an unknown device, or the place is taken.
        CheckFailedError: No candidate passes; nothing was kept.
    """
    device = device_of(device, DEVICES)
    source = Exported(finished_run(Path(run)), cache, reporter, None if data is None else Path(data))
    folder_of_run = source.run.folder
    place = Path(out) if out is not None else folder_of_run / f"auto-{device}"
    files.refuse_existing(place, overwrite=overwrite)
    artifacts.refuse_foreign(place)
    with tempfile.TemporaryDirectory(dir=folder_of_run, prefix=".auto-") as folder:
        tried: list[tuple[Candidate, Artifact | None]] = []
        for exporter in EXPORTERS:
            for precision in exporter.precisions:
                tried += _try(source, exporter, precision, Path(folder), device, bounds)
        passed = [(candidate, made) for candidate, made in tried if made is not None]
        if not passed:
            raise CheckFailedError("nothing that can run here passes parity", where=folder_of_run, fix=_why(tried))
        measured = _measured(passed, device, threads, rounds, min_samples, reporter)
        winner, made = measured[0]
        rows = [replace(winner, chosen=True), *(c for c, _ in measured[1:]), *(c for c, a in tried if a is None)]
        made = artifacts.update_manifest(made, details={**made.manifest.details, "auto": asdict(rows[0])})
        files.write_json(made.folder / CANDIDATES, _record(rows))
        with files.disk_errors(place):
            files.replace_folder(made.folder, place)
    return Artifact(place, made.manifest), rows


def _try(
    source: Exported,
    exporter: Exporter,
    precision: str,
    folder: Path,
    device: str,
    bounds: Bounds | None,
) -> Iterator[tuple[Candidate, Artifact | None]]:
    """A candidate for every engine, with its artifact where it passed parity."""
    base = Candidate(exporter.name, precision)
    reason = exporter.available(precision) or _no_engine(exporter.name, precision, device)
    if reason:
        yield replace(base, reason=reason), None
        return
    try:
        made = export_one(source, exporter, precision, folder / f"{exporter.name}-{precision}", bounds=bounds)
    except TtlDeployError as error:
        yield replace(base, verdict="fail" if isinstance(error, CheckFailedError) else "", reason=error.what), None
        return
    size = sum(record.size for record in made.manifest.files.values()) / 1e6
    for engine in suitable(made.manifest.format, precision, device):
        candidate = replace(base, runtime=engine.name, size_mb=size)
        try:
            judged = verify(
                made.folder,
                against=source.run.folder,
                data=source.data,
                runtime=engine.name,
                device=device,
                bounds=bounds,
                cache=source.cache,
            ).verdict
            candidate = replace(candidate, verdict=judged.result, reason=judged.reason)
        except TtlDeployError as error:
            candidate = replace(candidate, reason=error.what)
        yield candidate, made if candidate.verdict == "pass" else None


def _no_engine(format: str, precision: str, device: str) -> str | None:
    return None if suitable(format, precision, device) else f"no runtime here runs it on {device}"


def _measured(
    passed: Sequence[tuple[Candidate, Artifact]],
    device: str,
    threads: int | None,
    rounds: int,
    min_samples: int,
    reporter: Reporter,
) -> list[tuple[Candidate, Artifact]]:
    """The candidates with their latencies, fastest first."""
    jobs = [
        Job(
            label=f"{candidate.format} {candidate.precision} in {candidate.runtime}",
            artifact=str(made.folder.resolve()),
            runtime=candidate.runtime,
            device=device,
            threads=threads,
            min_samples=min_samples,
        )
        for candidate, made in passed
    ]
    latencies = [_median(m) for m in run_all(jobs, rounds=rounds, reporter=reporter)]
    timed = [(replace(c, p50_ms=ms), made) for (c, made), ms in zip(passed, latencies, strict=True)]
    return sorted(timed, key=lambda pair: pair[0].p50_ms or 0.0)


def _median(measurement: Measurement) -> float:
    return measurement.mean_ms if measurement.p50_ms is None else measurement.p50_ms


def _why(tried: Sequence[tuple[Candidate, Artifact | None]]) -> str:
    return "; ".join(f"{c.format} {c.precision} {c.runtime}: {c.reason}" for c, _ in tried)


def _record(rows: Sequence[Candidate]) -> dict[str, Any]:
    return {
        "hardware": hardware.describe().as_dict(),
        "libraries": hardware.library_versions(),
        "candidates": [asdict(row) for row in rows],
    }
