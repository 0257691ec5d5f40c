"""`--format auto`: every format, precision and engine that this machine can run, and the fastest that passes.

Candidates come from the registries, so a new format or runtime joins by itself. Kept is what `export` would keep.
Speeds are measured in turns, each in a process of its own; of all that are not surely slower than the fastest, the most
precise is chosen, and of equally precise ones the first by name. What was tried, and why something was not, stays
beside the winner in `candidates.json`.
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
from ttl_deploy.errors import CheckFailedError, TtlDeployError
from ttl_deploy.formats.export_run import Exported, export_one
from ttl_deploy.formats.exporter import EXPORTERS, Exporter
from ttl_deploy.latency import Job, Measurement, run_all
from ttl_deploy.latency.duel import block_medians, ratio_of_medians
from ttl_deploy.parity.precision import STRICTEST_FIRST
from ttl_deploy.parity.verify import verify
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.runtime import able, suitable
from ttl_deploy.spec import Bounds, Placement, Trust
from ttl_deploy.training.run import finished_run

AUTO = "auto"
CANDIDATES = "candidates.json"
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Contender:
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
        relative: Interval of 95 % of its time relative to that of the fastest; None where it was not measured.
    """

    format: str
    precision: str
    runtime: str = ""
    verdict: str = ""
    reason: str = ""
    p50_ms: float | None = None
    size_mb: float | None = None
    chosen: bool = False
    relative: tuple[float, float] | None = None

    @property
    def tied(self) -> bool:
        """Whether it is not surely slower than the fastest."""
        return self.relative is not None and self.relative[0] <= 1


def export_auto(
    run: str | Path,
    *,
    device: str = "cpu",
    out: str | Path | None = None,
    bounds: Bounds | None = None,
    threads: int | None = None,
    rounds: int = 6,
    min_samples: int = 60,
    overwrite: bool = False,
    operating_point: str | None = None,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> tuple[Artifact, list[Contender]]:
    """Exports a run in every way this machine can run, and keeps the fastest that parity lets through.

    Args:
        run: Folder of a finished run.
        device: `cpu` or `cuda`.
        out: Folder of the artifact; None: `RUN/auto-DEVICE`.
        bounds: What parity tolerates; what is not given, or None: the default of each precision.
        threads: Threads for one image; None: one per core.
        rounds: How many times the candidates take turns; 6 or more for an interval that holds.
        min_samples: Least latency samples of each.
        overwrite: Replace an artifact that is there.
        operating_point: As for `export_run`.
        data: Where the run's images are now; None: where they were.
        cache: Folder of the pixel cache.
        reporter: Told what happens.

    Returns:
        The artifact, and all candidates: the one that was kept, then the measured ones by speed, then the others.

    Raises:
        BadInputError: Not a finished run, an unknown device, or the place is taken.
        CheckFailedError: No candidate passes; nothing was kept.
    """
    device = device_of(device, DEVICES)
    source = Exported(finished_run(Path(run)), files.as_path(cache), reporter, files.as_path(data), operating_point)
    folder_of_run = source.run.folder
    place = Path(out) if out is not None else folder_of_run / f"auto-{device}"
    files.refuse_existing(place, overwrite=overwrite)
    artifacts.refuse_foreign(place)
    with tempfile.TemporaryDirectory(dir=folder_of_run, prefix=".auto-") as folder:
        tried: list[tuple[Contender, Artifact | None]] = []
        for exporter in EXPORTERS:
            for precision in exporter.precisions:
                tried += _try(source, exporter, precision, Path(folder), device, bounds)
        passed = [(candidate, made) for candidate, made in tried if made is not None]
        if not passed:
            raise CheckFailedError("nothing that can run here passes parity", where=folder_of_run, fix=_why(tried))
        measured = _measured(passed, device, threads, rounds, min_samples, reporter)
        place_of_winner = _winner([candidate for candidate, _ in measured])
        winner, made = measured.pop(place_of_winner)
        if place_of_winner:
            reporter.info(_told(winner, measured[0][0]))
        rows = [replace(winner, chosen=True), *(c for c, _ in measured), *(c for c, a in tried if a is None)]
        files.write_json(made.folder / CANDIDATES, _record(rows))
        made = artifacts.update_manifest(
            made,
            details={**made.manifest.details, "auto": asdict(rows[0])},
            files={**made.manifest.files, CANDIDATES: artifacts.record_of(made.folder / CANDIDATES)},
        )
        with files.disk_errors(place):
            files.replace_folder(made.folder, place)
    return replace(made, folder=place), rows


def _try(
    source: Exported,
    exporter: Exporter,
    precision: str,
    folder: Path,
    device: str,
    bounds: Bounds | None,
) -> Iterator[tuple[Contender, Artifact | None]]:
    """A candidate for every engine, with its artifact where an export would keep it."""
    base = Contender(exporter.name, precision)
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
    # An exporter's own engines: the graph inside another's artifact is a candidate of the format `onnx`.
    for engine in able(made, device):
        candidate = replace(base, runtime=engine.name, size_mb=size)
        try:
            result = verify(
                made.folder,
                against=source.run.folder,
                data=source.data,
                placement=Placement(runtime=engine.name, device=device),
                bounds=bounds,
                trust=Trust(native_code=True),
                cache=source.cache,
            )
        except TtlDeployError as error:
            yield replace(candidate, reason=error.what), None
            continue
        judged = replace(candidate, verdict=result.verdict.result, reason=result.verdict.reason)
        of_engine = replace(made, manifest=made.manifest.model_copy(update={"parity": result.record}))
        yield judged, of_engine if result.acceptable else None


def _no_engine(format: str, precision: str, device: str) -> str | None:
    return None if suitable(format, precision, device) else f"no runtime here runs it on {device}"


def _measured(
    passed: Sequence[tuple[Contender, Artifact]],
    device: str,
    threads: int | None,
    rounds: int,
    min_samples: int,
    reporter: Reporter,
) -> list[tuple[Contender, Artifact]]:
    """The candidates with their latencies, fastest first."""
    jobs = [
        Job(
            label=f"{candidate.format} {candidate.precision} in {candidate.runtime}",
            artifact=str(made.folder.resolve()),
            placement=Placement(runtime=candidate.runtime, device=device, threads=threads),
            trust=Trust(native_code=True),
            min_samples=min_samples,
        )
        for candidate, made in passed
    ]
    measured = run_all(jobs, rounds=rounds, reporter=reporter)
    fastest = min(measured, key=lambda measurement: measurement.typical_ms)
    timed = [
        (replace(candidate, p50_ms=m.typical_ms, relative=_relative(m, fastest)), made)
        for (candidate, made), m in zip(passed, measured, strict=True)
    ]
    return sorted(timed, key=lambda pair: pair[0].p50_ms or 0.0)


def _relative(one: Measurement, fastest: Measurement) -> tuple[float, float]:
    """Interval of 95 % of the ratio of their times; one round alone has none, and its ratio stands for it."""
    if len(one.rounds) < 2:
        return (one.typical_ms / fastest.typical_ms,) * 2
    _ratio, low, high = ratio_of_medians(block_medians(one), block_medians(fastest))
    return low, high


def _winner(by_speed: Sequence[Contender]) -> int:
    """Position of the one to keep: of those that tie with the fastest the most precise, then by format."""
    precisions = {name: place for place, name in enumerate(STRICTEST_FIRST)}
    tied = [i for i, candidate in enumerate(by_speed) if candidate.tied or i == 0]
    return min(tied, key=lambda i: (precisions.get(by_speed[i].precision, 0), by_speed[i].format))


def _told(winner: Contender, fastest: Contender) -> str:
    low, high = winner.relative or (1.0, 1.0)
    return (
        f"{fastest.format} {fastest.precision} in {fastest.runtime} is not surely faster than {winner.format} "
        f"{winner.precision} in {winner.runtime}, which is kept (its time: {low:.2f} to {high:.2f} of the other's)"
    )


def _why(tried: Sequence[tuple[Contender, Artifact | None]]) -> str:
    return "; ".join(f"{c.format} {c.precision} {c.runtime}: {c.reason}" for c, _ in tried)


def _record(rows: Sequence[Contender]) -> dict[str, Any]:
    return {
        "hardware": hardware.describe().as_dict(),
        "libraries": hardware.library_versions(),
        "candidates": [asdict(row) for row in rows],
    }
