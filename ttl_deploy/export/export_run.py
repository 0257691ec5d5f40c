"""From a finished run to an artifact whose predictions on the run's own test split equal PyTorch's.

The artifact takes its place only after the parity check: one that fails, or is undecided while a number breaks its
bound, leaves what was there; one that is undecided only because the test split is small is kept, with that verdict.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ttl_deploy import artifact as artifacts
from ttl_deploy import files, hardware, runtime
from ttl_deploy.artifact import Artifact
from ttl_deploy.complexity import count
from ttl_deploy.errors import BadInputError, CheckFailedError
from ttl_deploy.export.exporter import EXPORTERS, ExportJob
from ttl_deploy.export.model_card import write_model_card
from ttl_deploy.parity.compare import Bounds
from ttl_deploy.parity.verify import check
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import SourceRun
from ttl_deploy.training.run import Run, finished_run, run_data
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
    cache: Path | None = None,
    reporter: Reporter = SILENT,
) -> Artifact:
    """Exports a run's best model and checks it against PyTorch on the run's test split.

    Args:
        run: Folder of a finished run.
        format: Name of an exporter.
        precision: One of the exporter's precisions; None: its first.
        out: Folder of the artifact; None: `RUN/FORMAT-PRECISION`.
        bounds: What the parity check tolerates; None: the default of the precision.
        overwrite: Replace an artifact that is there.
        cache: Folder of the pixel cache.
        reporter: Told what happens.

    Returns:
        The artifact, with its parity result in the manifest.

    Raises:
        BadInputError: Not a finished run, unknown format or precision, or the place is taken.
        CheckFailedError: The exported model does not predict what PyTorch predicts; nothing was kept.
    """
    source = finished_run(Path(run))
    exporter = EXPORTERS.get(format)
    chosen = precision or exporter.precisions[0]
    if chosen not in exporter.precisions:
        raise BadInputError(
            f"format {format} has no precision {chosen!r}", fix=f"valid: {', '.join(exporter.precisions)}"
        )
    place = Path(out) if out is not None else source.folder / f"{format}-{chosen}"
    files.refuse_existing(place, overwrite=overwrite)
    job = ExportJob(load_model(source), source.config.preprocess, chosen)
    staged = place.with_name(f".{place.name}.staged")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        made = _write(staged, source, job, format, reporter)
        made = _checked(made, source, job.model, bounds, cache, reporter)
        with files.disk_errors(place):
            files.replace_folder(staged, place)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Artifact(place, made.manifest)


def _write(folder: Path, run: Run, job: ExportJob, format: str, reporter: Reporter) -> Artifact:
    exporter = EXPORTERS.get(format)
    spec = job.model.spec
    cost = count(job.model, spec.input_shape)
    fields = {
        "format": format,
        "precision": job.precision,
        "model": spec,
        "preprocess": job.preprocess,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "source": SourceRun(name=run.name, weights_sha256=files.sha256(run.weights), config_digest=run.config.digest()),
        "tools": hardware.library_versions(),
    }

    def build(target: Path) -> str:
        write_model_card(
            target, run, format=format, precision=job.precision, parameters=cost.parameters, macs=cost.macs
        )
        return exporter.write(job, target)

    with reporter.task(f"exporting to {format} {job.precision}", None):
        return artifacts.write_artifact(folder, fields, build)


def _checked(
    made: Artifact, run: Run, model: TransferModel, bounds: Bounds | None, cache: Path | None, reporter: Reporter
) -> Artifact:
    prepared = run_data(run, cache=cache, reporter=reporter)
    with reporter.task("predicting the test split with PyTorch", None):
        reference = predict_fp32(model, prepared, "test", run.config)
    with runtime.load(made) as session:
        result = check(made, session, prepared, reference, bounds=bounds, reference_name="pytorch fp32")
    record = result.record
    if not result.acceptable:
        raise CheckFailedError(
            f"the exported model is not the validated one: {record.reason}",
            where=run.folder,
            fix="nothing was written; see `ttl-deploy verify --help` for the bounds",
        )
    return artifacts.update_manifest(made, parity=record)
