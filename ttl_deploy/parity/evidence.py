"""Is this the run that an artifact was exported from, and which hashes were recorded to tell?"""

from __future__ import annotations

from ttl_deploy import files
from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import IntegrityError
from ttl_deploy.training.operation import operating_point
from ttl_deploy.training.run import CONFIG, METRICS, Run, read_predictions

_LAST_DIGIT = 1e-9
"""Of a probability: another machine's exponential may round otherwise."""


def refuse_other_run(artifact: Artifact, run: Run) -> None:
    """Compares the run that an artifact names with one on disk: weights, configuration, evaluation.

    Raises:
        IntegrityError: One of them is another.
    """
    source = artifact.manifest.source
    if run.metrics().get("weights_sha256") != source.weights_sha256:
        raise _other(artifact, f"was exported from other weights than those of {run.folder}")
    # Versions before this one took the digest of the settings in memory, defaults of their own included.
    if source.config_digest not in (run.config_digest(), run.config.digest()):
        raise _other(artifact, f"was exported under another configuration than {run.folder / CONFIG}")
    if source.metrics_sha256 not in (None, files.sha256(run.folder / METRICS)):
        metrics = run.folder / METRICS
        raise _other(artifact, f"was exported when {metrics} was another file, which was edited or made anew")
    _refuse_other_point(artifact, run)


def _refuse_other_point(artifact: Artifact, run: Run) -> None:
    """The operating point is no number of the graph, so the parity check alone would not miss a changed one."""
    said = artifact.manifest.operating_point
    if said is None:
        return
    found = operating_point(read_predictions(run), said.rule, run.task)
    if abs(found.threshold - said.threshold) > _LAST_DIGIT:
        what = f"has the operating point {said.threshold:.6f}, {said.rule} gives {found.threshold:.6f} on {run.folder}"
        raise _other(artifact, what)


def unrecorded(artifact: Artifact, run: Run | None) -> tuple[str, ...]:
    """What an older version did not record, so that only contradictions between files could be looked for."""
    if run is None:
        return ()
    notes = []
    if not run.hashes_recorded:
        notes.append(f"the run {run.name} was trained by a version that recorded no hash of its predictions and split")
    if artifact.manifest.source.metrics_sha256 is None:
        notes.append("the artifact was exported by a version that did not record the hash of the run's metrics.json")
    return tuple(notes)


def _other(artifact: Artifact, what: str) -> IntegrityError:
    return IntegrityError(
        what, where=artifact.folder, fix="pass the run it was exported from with --against RUN, or export again"
    )
