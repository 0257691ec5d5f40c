"""From a finished run to an artifact whose predictions on the run's own test split equal PyTorch's.

The artifact takes its place only after the parity check: one that fails, or is undecided while a number breaks its
bound, leaves what was there; one that is undecided only because the test split is small is kept, with that verdict.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ttl_deploy import artifact as artifacts
from ttl_deploy import files, hardware, runtime
from ttl_deploy.aliases import PRECISIONS, meant
from ttl_deploy.artifact import Artifact
from ttl_deploy.complexity import count
from ttl_deploy.data.prepared import Prepared, read_split
from ttl_deploy.errors import BadInputError, CheckFailedError, MissingDependencyError
from ttl_deploy.formats.exporter import EXPORTERS, Exporter, ExportJob, Written, make_options
from ttl_deploy.formats.images import RunImages
from ttl_deploy.formats.model_card import write_model_card
from ttl_deploy.formats.options import ExportOptions
from ttl_deploy.parity.verify import Check, check
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import (
    OPERATING_POINT_VERSION,
    TASK_VERSION,
    Bounds,
    OperatingPoint,
    Placement,
    SourceRun,
    TaskSpec,
    make_record,
    version_of,
)
from ttl_deploy.tasks import Task
from ttl_deploy.tasks.operating_point import Operation
from ttl_deploy.training.operation import operation, refuse_point
from ttl_deploy.training.run import METRICS, Predictions, Run, finished_run, read_predictions, run_data
from ttl_deploy.training.train import load_model, predict_fp32
from ttl_deploy.transfer import TransferModel


def export_run(
    run: str | Path,
    *,
    format: str = "onnx",
    precision: str | None = None,
    out: str | Path | None = None,
    bounds: Bounds | None = None,
    overwrite: bool = False,
    defer_build: bool = False,
    operating_point: str | None = None,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    reporter: Reporter = SILENT,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Artifact:
    """Exports a run's best model and checks it against PyTorch on the run's test split.

    Args:
        run: Folder of a finished run.
        format: Name of an exporter.
        precision: One of the exporter's precisions; None: its first.
        out: Folder of the artifact; None: `RUN/FORMAT-PRECISION`.
        bounds: What the parity check tolerates; None: the default of the precision.
        overwrite: Replace an artifact that is there.
        defer_build: Write a kit that builds the artifact on another machine; for formats that know one (trt).
        operating_point: Rule by which the second of two classes is said, as `OperatingPoint.rule`, chosen on the run's
            validation images; None: the run's own.
        data: Where the run's images are now; None: where they were.
        cache: Folder of the pixel cache.
        reporter: Told what happens.
        settings: The format's own options by name; also those with the name of an argument here.
        options: The same as arguments, such as `opset`; None stands for the default.

    Returns:
        The artifact, with its parity result in the manifest.

    Raises:
        BadInputError: Not a finished run, unknown format, precision or option, or the place is taken.
        MissingDependencyError: The format or the precision needs what is not here.
        CheckFailedError: The exported model does not predict what PyTorch predicts; nothing was kept.
    """
    source = Exported(finished_run(Path(run)), files.as_path(cache), reporter, files.as_path(data), operating_point)
    given = {**(settings or {}), **options}
    wanted = _deferred(format) if defer_build else _writable(format, given, reporter)
    exporter, chosen = choose(wanted, precision)
    chosen_options = make_options(exporter, given)
    exporter.check(chosen, chosen_options)
    _refuse_activation(source, chosen_options)
    _refuse_windows(source, chosen_options, defer_build=defer_build)
    place = Path(out) if out is not None else source.run.folder / f"{exporter.name}-{chosen}"
    files.refuse_existing(place, overwrite=overwrite)
    artifacts.refuse_foreign(place)
    return export_one(source, exporter, chosen, place, settings=chosen_options, bounds=bounds)


def _refuse_maps(task: Task, exporter: Exporter, settings: ExportOptions) -> None:
    """Raises `BadInputError` where a model of pixels is to go into what was never tried with one."""
    if not task.DENSE:
        return
    if not exporter.maps:
        able = sorted(each.name for each in EXPORTERS if each.maps)
        what = f"format {exporter.name} is not written of {task.KIND} models"
        raise BadInputError(what, fix=f"pass --format {' or '.join(able)}")
    for name, option in (("int8_auto", "--int8-auto"), ("qat", "--qat")):
        if getattr(settings, name, None):
            raise BadInputError(f"{option} weighs classes, and a {task.KIND} model has none", fix=f"leave {option} out")


def _refuse_windows(source: Exported, settings: ExportOptions, *, defer_build: bool) -> None:
    """Raises `BadInputError` for what judges each input by itself, where those of a study belong together."""
    asked = {"--int8-auto": bool(getattr(settings, "int8_auto", None)), "--defer-build": defer_build}
    option = next((name for name, given in asked.items() if given), None)
    if source.run.config.preprocess.windows is not None and option is not None:
        what = "judges windows by themselves, and the run says something of studies"
        raise BadInputError(what, where=option, fix="leave it out")


def _refuse_activation(source: Exported, settings: ExportOptions) -> None:
    """Exclusive classes may end in a sigmoid where the most probable one is said all the same."""
    asked, task = getattr(settings, "activation", "none"), source.run.task
    if asked in ("none", task.ACTIVATION):
        return
    if source.operation is not None:
        whose = "the operating point was chosen on"
    elif task.ACTIVATION == "sigmoid" or task.GRADED:
        whose = f"a {task.KIND} model was trained for"
    else:
        return
    raise BadInputError(
        f"a {asked} gives other probabilities than those that {whose}",
        where="--activation",
        fix=f"pass {task.ACTIVATION}, or leave it out",
    )


@dataclass(frozen=True, eq=False)
class Exported:
    """A run to be exported, once or in many ways, and what every export of it needs: computed when asked for, and kept.

    Attributes:
        run: Finished.
        cache: Folder of the pixel cache.
        reporter: Told what happens.
        data: Where the run's images are now; None: where they were.
        rule: Another operating point than the run's; None: the run's.

    Raises:
        BadInputError: A rule that is none, or for a run of more than two classes.
    """

    run: Run
    cache: Path | None = None
    reporter: Reporter = SILENT
    data: Path | None = None
    rule: str | None = None

    def __post_init__(self) -> None:
        refuse_point(self.rule, self.run.task)
        _ = self.operation  # a wrong rule is told before anything is decoded

    @functools.cached_property
    def operation(self) -> Operation | None:
        """The operating point and what it does on both sides; None where the more probable class is said."""
        if self.rule is None:
            recorded = self.run.metrics().get("operating_point")
            return None if recorded is None else Operation.model_validate(recorded)
        asked = make_record(OperatingPoint, rule=self.rule, threshold=0)
        patients = {row.id: row.patient for row in read_split(self.run.split)}
        return operation(read_predictions(self.run), asked.rule, patients, self.run.task)

    @functools.cached_property
    def prepared(self) -> Prepared:
        """The run's images."""
        return run_data(self.run, data=self.data, cache=self.cache, reporter=self.reporter)

    @functools.cached_property
    def model(self) -> TransferModel:
        """The best model."""
        return load_model(self.run)

    @functools.cached_property
    def record(self) -> SourceRun:
        """The run in the form of the manifest."""
        return source_record(self.run)

    @functools.cached_property
    def reference(self) -> Predictions:
        """What PyTorch says of the test split in float32."""
        with self.reporter.task("predicting the test split with PyTorch", None):
            return predict_fp32(self.model, self.prepared, "test", self.run.config)


def export_one(
    source: Exported,
    exporter: Exporter,
    precision: str,
    place: Path,
    *,
    settings: ExportOptions | None = None,
    bounds: Bounds | None = None,
) -> Artifact:
    """Exports in one way; see `export_run`, which checks what is asked.

    Args:
        source: The run.
        exporter: Of the format.
        precision: One of the exporter's.
        place: Folder of the artifact; what is there is replaced once the check has passed.
        settings: The exporter's options; None: its defaults.
        bounds: What the parity check tolerates; None: the default of the precision.
    """
    _refuse_maps(source.run.task, exporter, settings or exporter.options())
    with files.staged_folder(place, overwrite=True) as staged:
        made, engine = write_one(source, exporter, precision, staged, settings=settings, bounds=bounds)
        made = _checked(made, engine, source, bounds)
    return replace(made, folder=place)


def write_one(
    source: Exported,
    exporter: Exporter,
    precision: str,
    folder: Path,
    *,
    settings: ExportOptions | None = None,
    bounds: Bounds | None = None,
) -> tuple[Artifact, str | None]:
    """The artifact that `export_one` checks, not checked yet; nobody but who measures what exports do wants it so.

    Args:
        source: The run.
        exporter: Of the format.
        precision: One of the exporter's.
        folder: Where it goes.
        settings: The exporter's options; None: its defaults.
        bounds: What an export that tries several ways tolerates; None: the default of the precision.

    Returns:
        The artifact, and the engine to check it in; None: the format's first.
    """
    preprocess = source.run.config.preprocess
    job = ExportJob(
        source.model,
        preprocess,
        precision,
        settings or exporter.options(),
        RunImages(source.prepared, preprocess),
        bounds,
        source.reporter,
        source.record,
        count(source.model, source.model.spec.input_shape),
        source.operation.point if source.operation is not None else None,
    )
    return _write(folder, source, job, exporter)


def source_record(run: Run) -> SourceRun:
    """What an artifact remembers of the run it comes from."""
    return SourceRun(
        name=run.name,
        weights_sha256=files.sha256(run.weights),
        config_digest=run.config_digest(),
        metrics_sha256=files.sha256(run.folder / METRICS),
    )


def _deferred(format: str) -> str:
    """The exporter that writes a format's build kit."""
    kit = EXPORTERS.get(format).deferred
    if kit is None:
        able = [exporter.name for exporter in EXPORTERS if exporter.deferred]
        raise BadInputError(f"format {format} has no build kit", fix=f"--defer-build is for {', '.join(able)}")
    return kit


def _writable(format: str, given: Mapping[str, Any], reporter: Reporter) -> str:
    """The format, or the one that stands in for it here, which is told."""
    other = EXPORTERS.get(format).stand_in(given)
    if other is None:
        return format
    reporter.info(other.reason)
    return other.name


def choose(format: str, precision: str | None) -> tuple[Exporter, str]:
    """The exporter of a format and the precision to write, checked to be possible here.

    Raises:
        BadInputError: Unknown format or precision; the error lists the valid ones.
        MissingDependencyError: It needs what is not here; the error says what to install.
    """
    exporter = EXPORTERS.get(format)
    chosen = meant(precision, PRECISIONS, exporter.precisions) if precision else exporter.precisions[0]
    if chosen not in exporter.precisions:
        raise BadInputError(
            f"format {exporter.name} has no precision {chosen!r}", fix=f"valid: {', '.join(exporter.precisions)}"
        )
    reason = exporter.available(chosen)
    if reason is not None:
        raise MissingDependencyError(f"{format} {chosen} cannot be exported here: {reason}")
    return exporter, chosen


def _write(folder: Path, source: Exported, job: ExportJob, exporter: Exporter) -> tuple[Artifact, str | None]:
    """The artifact without its parity result, and the engine to check it in."""
    run = source.run
    spec = job.model.spec
    cost = job.cost or count(job.model, spec.input_shape)
    fields = {
        "format": exporter.name,
        "precision": job.precision,
        "model": spec,
        "preprocess": job.preprocess,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "source": job.source or source_record(run),
        "tools": hardware.library_versions(),
    }
    versions = [version_of(spec.input)]
    if job.point is not None:
        fields["operating_point"] = job.point
        versions.append(OPERATING_POINT_VERSION)
    if spec.task != TaskSpec():
        versions.append(TASK_VERSION)
    fields["schema_version"] = max(versions)
    results: list[Written] = []

    def build(target: Path) -> str:
        write_model_card(
            target,
            run,
            format=exporter.name,
            precision=job.precision,
            parameters=cost.parameters,
            macs=cost.macs,
            operation=source.operation,
        )
        results.append(exporter.write(job, target))
        return results[0].model_file

    with source.reporter.task(f"exporting to {exporter.name} {job.precision}", None):
        made = artifacts.write_artifact(folder, fields, build)
    written = results[0]
    return artifacts.update_manifest(made, details=dict(written.details), **written.fields), written.runtime


_WIDEN = "`ttl-deploy export --help` lists the bounds"
_WAY_OUT = {"int8": f"--int8-auto leaves the layers that hurt in float, --qat 3 finetunes, {_WIDEN}"}


def _checked(made: Artifact, engine: str | None, source: Exported, bounds: Bounds | None) -> Artifact:
    runtime.refuse_unbound(made)
    device = runtime.home_device(made)
    quick = runtime.quickest(made, device) if engine is None else None
    result = _check_in(quick or engine, made, device, source, bounds)
    if quick is not None and not result.acceptable:
        source.reporter.info(f"{quick} would be the faster engine here, but {result.record.reason}")
        result = _check_in(engine, made, device, source, bounds)
    record = result.record
    if not result.acceptable:
        raise CheckFailedError(
            f"the exported model is not the validated one: {record.reason}",
            where=source.run.folder,
            fix=f"nothing was written; {_WAY_OUT.get(made.manifest.precision, _WIDEN)}",
        )
    return artifacts.update_manifest(made, parity=record)


def _check_in(engine: str | None, made: Artifact, device: str, source: Exported, bounds: Bounds | None) -> Check:
    with runtime.load(made, Placement(runtime=engine, device=device)) as session:
        return check(made, session, source.prepared, source.reference, bounds=bounds, reference_name="pytorch fp32")
