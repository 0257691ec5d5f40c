"""Is this artifact the model that was validated? Its logits against PyTorch's, on the run's own test split.

The reference is what PyTorch said when the run was evaluated, recorded in the run beside the hash of the weights, so
neither a deployment machine nor this check needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import runtime as runtimes
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.data.prepared import Prepared
from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.parity.compare import Bounds, Comparison, Verdict, compare, to_record, verdict
from ttl_deploy.parity.run_session import as_seen_through, logits_of
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.runtime import Session
from ttl_deploy.spec import ParityRecord
from ttl_deploy.training.run import CONFIG, Predictions, Run, finished_run, read_predictions, run_data

BATCH = 32


@dataclass(frozen=True)
class Check:
    """A finished comparison.

    Attributes:
        artifact: What was checked.
        runtime: The engine it ran in.
        comparison: The facts.
        verdict: The judgement.
        record: Both, in the form of the manifest.
        worst: Ids of the images on which the two differ most.
    """

    artifact: Artifact
    runtime: str
    comparison: Comparison
    verdict: Verdict
    record: ParityRecord
    worst: tuple[str, ...]


def verify(
    artifact: str | Path,
    *,
    against: str | Path | None = None,
    runtime: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    bounds: Bounds | None = None,
    cache: Path | None = None,
    reporter: Reporter = SILENT,
) -> Check:
    """Compares an artifact with the run it was exported from.

    Args:
        artifact: Folder of the artifact.
        against: Folder of the run; None: the folder around the artifact.
        runtime: Engine to run the artifact in; None: the first that can.
        device: `cpu` or `cuda`.
        threads: Threads for one batch.
        bounds: What is tolerated; None: the default of the artifact's precision.
        cache: Folder of the pixel cache.
        reporter: Told what happens.

    Raises:
        BadInputError: The run cannot be found or its images changed.
        IntegrityError: A file of the artifact or of the run is not the recorded one, or the artifact is of another run.
    """
    opened = open_artifact(Path(artifact))
    run = _source(opened, against)
    prepared = run_data(run, preprocess=opened.manifest.preprocess, cache=cache, reporter=reporter)
    reference = read_predictions(run).side("test")
    with runtimes.load(opened, runtime, threads=threads, device=device) as session:
        return check(opened, session, prepared, reference, bounds=bounds, reference_name=f"pytorch fp32 of {run.name}")


def check(
    artifact: Artifact,
    session: Session,
    prepared: Prepared,
    reference: Predictions,
    *,
    bounds: Bounds | None = None,
    reference_name: str,
) -> Check:
    """Runs the reference's images through a session and judges the difference.

    Args:
        artifact: What the session runs.
        session: An open session.
        prepared: Holds the images of `reference`, in the artifact's own preprocessing.
        reference: Ids, labels and logits.
        bounds: What is tolerated; None: the default of the artifact's precision.
        reference_name: What the reference is, for the record.

    Raises:
        IntegrityError: The artifact's classes are not the reference's.
    """
    if artifact.manifest.model.classes != prepared.classes:
        raise IntegrityError(
            f"its classes {', '.join(artifact.manifest.model.classes)} are not the run's {', '.join(prepared.classes)}",
            where=artifact.folder,
        )
    logits = logits_of(session, _batches(prepared, reference.ids), artifact.manifest.preprocess)
    expected = as_seen_through(session.activation, reference.logits)
    comparison = compare(reference.labels, expected, logits, prepared.classes)
    judged = verdict(comparison, bounds or Bounds.for_precision(artifact.manifest.precision))
    record = to_record(comparison, judged, reference=reference_name, split="test")
    return Check(
        artifact, session.runtime, comparison, judged, record, tuple(reference.ids[i] for i in comparison.worst)
    )


def source_folder(artifact: Artifact) -> Path | None:
    """The folder of the run an artifact lies in, or None."""
    parent = artifact.folder.resolve().parent
    return parent if (parent / CONFIG).exists() else None


def _source(artifact: Artifact, against: str | Path | None) -> Run:
    folder = Path(against) if against is not None else source_folder(artifact)
    if folder is None:
        raise BadInputError(
            f"does not lie in its run ({artifact.manifest.source.name})",
            where=artifact.folder,
            fix="pass the run with --against RUN",
        )
    run = finished_run(folder)
    if run.metrics()["weights_sha256"] != artifact.manifest.source.weights_sha256:
        raise IntegrityError(
            f"was exported from other weights than those of {folder}",
            where=artifact.folder,
            fix="pass the run it was exported from with --against RUN, or export again",
        )
    return run


def _batches(prepared: Prepared, ids: tuple[str, ...]) -> Iterator[NDArray[np.uint8]]:
    position = {image: i for i, image in enumerate(prepared.ids)}
    indices = np.array([position[image] for image in ids], dtype=np.int64)
    for start in range(0, len(indices), BATCH):
        yield prepared.pixels(indices[start : start + BATCH])
