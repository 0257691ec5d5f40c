"""Benchmarking as a user asks for it: an artifact in every engine here, beside PyTorch and beside the whole network.

Every measurement runs in its own process, in turns; this process loads neither torch nor an engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ttl_deploy import __version__, files, hardware
from ttl_deploy.artifact import MANIFEST, Artifact, open_artifact
from ttl_deploy.errors import BadInputError
from ttl_deploy.formats.reference import whole_network
from ttl_deploy.latency import Job, Measurement, run_all
from ttl_deploy.latency.ceiling import Ceiling, ceiling
from ttl_deploy.latency.roofline import Work, floor
from ttl_deploy.parity.verify import source_folder
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.runtime import RUNTIMES, able, native_code, refuse_unbound, runtime_for, torch_variants
from ttl_deploy.spec import ModelSpec, Placement, Scenario, Trust
from ttl_deploy.training.run import finished_run

EAGER = "ttl_deploy.runtime.eager:bench_loader"
WHOLE = "whole"


@dataclass(frozen=True)
class BenchRow:
    """One measured model in one engine.

    Attributes:
        model: What it is, in words.
        role: `own` for what the user named, `whole` for the FTL network it is compared with.
        parameters: Parameters of the model.
        macs: Multiply-adds for one image.
        measurement: The latency, with all samples.
        work: What the model asks of a device for one batch.
        ratio: Speed relative to the whole network in PyTorch eager at the same batch and threads; None where that was
            not measured.
        ratio_noise: Whether either of the two was too disturbed for the ratio to be shown.
        roofline_percent: Least time on this machine (`ttl_deploy.latency.roofline`) as per cent of the median; None
            where the ceiling is not known, or either was too disturbed.
    """

    model: str
    role: str
    parameters: int
    macs: int
    measurement: Measurement
    work: Work
    ratio: float | None = None
    ratio_noise: bool = False
    roofline_percent: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "model": self.model,
            "role": self.role,
            "parameters": self.parameters,
            "macs": self.macs,
            "ratio": self.ratio,
            "ratio_inconclusive": self.ratio_noise,
            "roofline_percent": self.roofline_percent,
            "measurement": self.measurement.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class _Subject:
    """Something to measure: its words, its cost, and its jobs."""

    spec: ModelSpec
    role: str
    parameters: int
    macs: int
    jobs: tuple[Job, ...]


def bench(
    paths: Sequence[str | Path],
    *,
    batch: int | Sequence[int] = 1,
    threads: int | Sequence[int] | None = None,
    device: str = "cpu",
    runtime: Sequence[str] | None = None,
    torch: Sequence[str] = ("eager",),
    whole: bool = True,
    scenario: Scenario = Scenario(),
    min_samples: int = 60,
    min_seconds: float = 3.0,
    rounds: int = 3,
    roofline: bool = True,
    trust: Trust = Trust(),
    out: str | Path | None = None,
    cache: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> list[BenchRow]:
    """Measures artifacts and runs, each artifact in every engine that runs it here.

    Args:
        paths: Folders of artifacts or runs. An artifact inside its run is also measured as PyTorch eager.
        batch: Images per call; several are measured one by one.
        threads: Threads per call; None: one per core. Every batch size is measured with every number of threads.
        device: `cpu` or `cuda`.
        runtime: Engines for artifacts; None: all that can.
        torch: How PyTorch runs, of `ttl_deploy.runtime.torch_variants.VARIANTS`.
        whole: Measure the whole (FTL) network of each backbone too, untrained, in the same engines.
        scenario: How images come.
        min_samples: Least samples per row.
        min_seconds: Least seconds per row.
        rounds: How many times the rows take turns.
        roofline: Set the rows against the machine's ceiling, which is measured where it is not known yet.
        trust: Whose artifacts they may be; engines that would run native code of others are left out unless named.
        out: JSON file for the rows with every raw sample.
        cache: Folder that keeps the exported whole networks and the ceiling.
        reporter: Told what happens.

    Raises:
        BadInputError: A path is neither an artifact nor a finished run, or an option does not fit.
        IntegrityError: An artifact is not signed by the key, or can only run native code that nobody answers for.
        TtlDeployError: A measurement failed.
    """
    if not paths:
        raise BadInputError("nothing to measure", fix="pass artifacts or runs")
    where = Placement(device=device)
    for variant in torch:
        torch_variants.check(variant, where.device)
    shared = {
        "placement": where,
        "min_samples": min_samples,
        "min_seconds": min_seconds,
        "max_seconds": max(20.0, 4 * min_seconds),
        "scenario": scenario,
        "timeout_s": 600.0 if scenario.kind == "single-stream" else 7200.0,
    }
    subjects: dict[str, _Subject] = {}
    for path in paths:
        opened = _artifact_at(Path(path), trust)
        for name, subject in _subjects(
            opened or Path(path), runtime, torch, whole, shared, files.as_path(cache), reporter
        ):
            subjects.setdefault(name, subject)
    jobs = [
        (subject, job.on(threads=count).model_copy(update={"batch": size}))
        for size in _several(batch)
        for count in _several(threads)
        for subject in subjects.values()
        for job in subject.jobs
    ]
    measured = run_all([job for _subject, job in jobs], rounds=rounds, reporter=reporter)
    rows = _with_ratios([_row(subject, m) for (subject, _job), m in zip(jobs, measured, strict=True)])
    if roofline:
        rows = _with_rooflines(rows, files.as_path(cache), reporter)
    if out is not None:
        files.write_json(Path(out), record(rows))
    return rows


def record(rows: Sequence[BenchRow]) -> dict[str, Any]:
    """The rows with where and when they were measured, for JSON."""
    return {**provenance(), "rows": [row.as_dict() for row in rows]}


def provenance() -> dict[str, Any]:
    """Program, time, machine and libraries, for the JSON of a result."""
    return {
        "program": __version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware.describe().as_dict(),
        "libraries": hardware.library_versions(),
    }


def describe(spec: ModelSpec) -> str:
    """A model in words; see `ModelSpec.words`."""
    return spec.words


def _artifact_at(path: Path, trust: Trust) -> Artifact | None:
    """The artifact, or None for a run."""
    if not (path / MANIFEST).exists() and (path / "config.yaml").exists():
        return None
    artifact = open_artifact(path, trust=trust)
    refuse_unbound(artifact)
    return artifact


def _subjects(
    of: Artifact | Path,
    runtimes: Sequence[str] | None,
    variants: Sequence[str],
    compare_whole: bool,
    shared: dict[str, Any],
    cache: Path | None,
    reporter: Reporter,
) -> list[tuple[str, _Subject]]:
    artifact = of if isinstance(of, Artifact) else None
    run_folder = source_folder(of) if isinstance(of, Artifact) else of
    found: list[tuple[str, _Subject]] = []
    spec = of.manifest.model if isinstance(of, Artifact) else finished_run(of).config.model
    if run_folder is not None:
        found.append((f"run {run_folder.resolve()}", _run_subject(run_folder, variants, shared)))
    if artifact:
        own = _artifact_subject(artifact, "own", runtimes, shared, reporter)
        found.append((f"artifact {artifact.folder.resolve()}", own))
    if compare_whole and not (spec.method == "ftl" and artifact):
        found += _whole_subjects(spec, runtimes, variants, shared, cache, reporter)
    return found


def _run_subject(folder: Path, variants: Sequence[str], shared: dict[str, Any]) -> _Subject:
    run = finished_run(folder)
    metrics = run.metrics()
    jobs = torch_jobs(describe(run.config.model), {"run": str(folder.resolve())}, variants, shared)
    return _Subject(run.config.model, "own", metrics["parameters"], metrics["macs"], jobs)


def _artifact_subject(
    artifact: Artifact, role: str, runtimes: Sequence[str] | None, shared: dict[str, Any], reporter: Reporter
) -> _Subject:
    manifest = artifact.manifest
    words = describe(manifest.model)
    jobs = tuple(
        Job(label=f"{words} {name}", **opened_again(artifact), **shared).on(runtime=name)
        for name in _engines(artifact, runtimes, shared["placement"].device, reporter)
    )
    return _Subject(manifest.model, role, manifest.parameters, manifest.macs, jobs)


def _whole_subjects(
    spec: ModelSpec,
    runtimes: Sequence[str] | None,
    variants: Sequence[str],
    shared: dict[str, Any],
    cache: Path | None,
    reporter: Reporter,
) -> list[tuple[str, _Subject]]:
    with reporter.task(f"exporting the whole {spec.backbone} for comparison", None):
        artifact = whole_network(spec, cache=cache)
    whole = artifact.manifest.model
    torch = torch_jobs(describe(whole), {"spec": whole.model_dump(mode="json")}, variants, shared)
    exported = _artifact_subject(artifact, WHOLE, runtimes, shared, reporter)
    key = f"whole {whole.digest()}"
    return [(key, _Subject(whole, WHOLE, exported.parameters, exported.macs, (*torch, *exported.jobs)))]


def torch_jobs(
    words: str, argument: dict[str, Any], variants: Sequence[str], shared: dict[str, Any]
) -> tuple[Job, ...]:
    """Jobs for a model in PyTorch.

    Args:
        words: What it is.
        argument: As `ttl_deploy.runtime.eager.bench_loader` takes it.
        variants: How PyTorch runs it.
        shared: Fields of every job, `placement` among them.
    """
    return tuple(
        Job(
            label=f"{words} {torch_variants.runtime_name(variant)}",
            loader=EAGER,
            argument={**argument, "device": shared["placement"].device, "variant": variant},
            precision=torch_variants.precision_of(variant),
            **shared,
        )
        for variant in variants
    )


def opened_again(artifact: Artifact) -> dict[str, Any]:
    """Fields of a `Job` whose process opens an artifact as this one did: with the same key, or the same trust."""
    trust = Trust(key=artifact.key, native_code=artifact.trusted)
    return {"artifact": str(artifact.folder.resolve()), "trust": trust}


def _engines(artifact: Artifact, wanted: Sequence[str] | None, device: str, reporter: Reporter) -> list[str]:
    valid = {engine.name for engine in RUNTIMES if artifact.manifest.format in engine.formats}
    for name in wanted or ():
        if RUNTIMES.get(name).name not in valid:
            raise BadInputError(
                f"runtime {name} runs no {artifact.manifest.format}",
                where=artifact.folder,
                fix=f"valid: {', '.join(sorted(valid))}; PyTorch is measured for an artifact in its run: --torch eager",
            )
    if wanted is not None:
        return [runtime_for(artifact, Placement(runtime=name)).name for name in wanted]
    here = [engine.name for engine in able(artifact, device)]
    refused = [] if artifact.trusted else [name for name in here if native_code(name)]
    kept = [name for name in here if name not in refused]
    if refused and not kept:
        runtime_for(artifact, Placement(runtime=refused[0]))  # which says why
    if refused:
        reporter.warn(f"{artifact.folder}: left out {', '.join(refused)}, native code; --key or --trust measures it")
    return kept


def _several(values: int | Sequence[int] | None) -> tuple[int | None, ...]:
    """One value or several as several, without repetition."""
    given = (values,) if values is None or isinstance(values, int) else tuple(values)
    return tuple(dict.fromkeys(given))


def _row(subject: _Subject, measured: Measurement) -> BenchRow:
    spec = subject.spec
    work = Work(
        macs=subject.macs,
        parameters=subject.parameters,
        precision=measured.precision,
        batch=measured.batch,
        input_shape=spec.input_shape,
        outputs=len(spec.classes),
    )
    return BenchRow(describe(spec), subject.role, subject.parameters, subject.macs, measured, work)


def _with_ratios(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """Speeds relative to the whole network in PyTorch eager, where exactly one was measured alike.

    A queue's latencies have no such ratio: they depend on the rate offered.
    """
    found = []
    for row in rows:
        bases = [r.measurement for r in rows if _is_base(r) and _alike(r.measurement, row.measurement)]
        if len(bases) != 1 or row.measurement.scenario == "server":
            found.append(row)
            continue
        ratio = bases[0].typical_ms / row.measurement.typical_ms
        noise = bases[0].inconclusive or row.measurement.inconclusive
        found.append(replace(row, ratio=ratio, ratio_noise=noise))
    return found


def _is_base(row: BenchRow) -> bool:
    return row.role == WHOLE and row.measurement.runtime == "pytorch"


def _alike(a: Measurement, b: Measurement) -> bool:
    return (a.batch, a.threads, a.scenario) == (b.batch, b.threads, b.scenario)


def _with_rooflines(rows: Sequence[BenchRow], cache: Path | None, reporter: Reporter) -> list[BenchRow]:
    ceilings: dict[tuple[int, str], Ceiling] = {}
    for m in (row.measurement for row in rows):
        if (m.threads, m.device) not in ceilings:
            ceilings[m.threads, m.device] = ceiling(threads=m.threads, device=m.device, cache=cache, reporter=reporter)
    for known in ceilings.values():
        if known.noise:
            reporter.warn(f"no per cent of the roofline: the machine's ceiling is inconclusive, {known.noise}")
            break
    told = {row.measurement.precision for row in rows}
    for what, reason in {what: why for known in ceilings.values() for what, why in known.refused.items()}.items():
        if what in told:
            reporter.warn(f"no per cent of the roofline for {what}: {reason}")
    return [_with_roofline(row, ceilings[row.measurement.threads, row.measurement.device]) for row in rows]


def _with_roofline(row: BenchRow, known: Ceiling) -> BenchRow:
    least = floor(row.work, known.peaks)
    m = row.measurement
    if least is None or known.noise or m.inconclusive or m.scenario == "server":
        return row
    return replace(row, roofline_percent=100 * least.ms / m.typical_ms)
