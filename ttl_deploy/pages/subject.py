"""What a report is about: runs and artifacts, opened and held against their hashes. No torch.

Nothing here is computed anew but what decides whether the files are still those that were evaluated and exported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ttl_deploy.artifact import MANIFEST, Artifact, open_artifact
from ttl_deploy.data.prepared import SplitRow, read_split
from ttl_deploy.errors import BadInputError, IntegrityError, TtlDeployError
from ttl_deploy.pages.curves import accuracy
from ttl_deploy.pages.looks import Look
from ttl_deploy.pages.speeds import Speed
from ttl_deploy.parity.evidence import refuse_other_run, unrecorded
from ttl_deploy.parity.verify import source_folder
from ttl_deploy.progress import Reporter
from ttl_deploy.spec import ArtifactManifest, ModelSpec, OperatingPoint, Trust, read_record
from ttl_deploy.tasks import Task, task_of
from ttl_deploy.training.operation import patient_groups
from ttl_deploy.training.resampling import numbered
from ttl_deploy.training.run import CONFIG, METRICS, SERIES, Predictions, Run, RunRecord, finished_run, read_predictions


@dataclass(frozen=True)
class Evidence:
    """A finished run, and what it says.

    Attributes:
        run: The run.
        record: Its `metrics.json`.
        test: What was said of the test side.
        patients: The patient of each of its images; None where none is known.
        division: Its `split.csv`.
        intervals: Those of 95 % that `metrics.json` has not, by name.
    """

    run: Run
    record: RunRecord
    test: Predictions
    patients: list[str] | None
    division: tuple[SplitRow, ...]
    intervals: dict[str, tuple[float, float] | None]


@dataclass(frozen=True)
class Export:
    """An artifact, whose files are those of its manifest.

    Attributes:
        artifact: The artifact.
        foreign: Why the run that it lies in is not the one that it comes from; None where it is, or lies in none.
        notes: What older versions did not record.
    """

    artifact: Artifact
    foreign: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder's."""
        return self.artifact.folder.resolve().name

    @property
    def manifest(self) -> ArtifactManifest:
        """What it holds."""
        return self.artifact.manifest

    @property
    def verdict(self) -> str:
        """Is it the validated model? `pass`, `fail`, `inconclusive`, or `not checked`."""
        if self.foreign is not None:
            return "fail"
        return self.manifest.parity.verdict if self.manifest.parity else "not checked"

    @property
    def size(self) -> int:
        """Bytes of all that is deployed: its files without texts for people."""
        return sum(record.size for name, record in self.manifest.files.items() if not name.endswith(".md"))


@dataclass(frozen=True)
class Subject:
    """A model.

    Attributes:
        name: Of its folder; no other subject of the report has it.
        spec: The model.
        point: Where the second of two sides begins to be said.
        parameters: Of the model.
        macs: Multiply-adds for one image.
        evidence: Of its run; None where only an artifact is there.
        exports: The artifacts.
        speeds: What was measured of it, and of the whole network beside it.
        looks: What was found of it by analysis.
    """

    name: str
    spec: ModelSpec
    point: OperatingPoint | None
    parameters: int
    macs: int
    evidence: Evidence | None
    exports: tuple[Export, ...] = ()
    speeds: tuple[Speed, ...] = ()
    looks: tuple[Look, ...] = ()

    @cached_property
    def task(self) -> Task:
        """What its outputs mean, with the operating point."""
        return task_of(self.spec, self.point)

    @property
    def words(self) -> str:
        """The model in words."""
        return self.spec.words

    @cached_property
    def test(self) -> dict[str, Any]:
        """The metrics of its test side and their intervals by name; empty without a run."""
        found = self.evidence
        return {} if found is None else {**found.record.test.model_dump(), **found.intervals}

    def with_speeds(self, speeds: Sequence[Speed]) -> Subject:
        """With the rows of this very model, and those of the whole network that they stand beside."""
        own = [row for row in speeds if row.role == "own" and self._is_of(row)]
        whole = [row for row in speeds if row.role != "own" and row.model.startswith(f"{self.spec.backbone} ")]
        return replace(self, speeds=(*self.speeds, *own, *whole)) if own else self

    @property
    def weights(self) -> str | None:
        """SHA-256 of the run's weights; None where only an artifact is there."""
        return None if self.evidence is None else self.evidence.record.weights_sha256

    def with_looks(self, looks: Sequence[Look]) -> Subject:
        """With the analyses of this very model alone."""
        own = tuple(look for look in looks if look.found.weights == (self.weights,))
        return replace(self, looks=(*self.looks, *own))

    def _is_of(self, row: Speed) -> bool:
        return (row.model, row.parameters, row.macs) == (self.words, self.parameters, self.macs)


def subject_of_run(folder: Path, reporter: Reporter) -> Subject:
    """A finished run with the artifacts inside it; one of those that is damaged is told and left out.

    Raises:
        BadInputError: It is no run, or not finished.
        IntegrityError: Its files are not those that were evaluated.
    """
    found = []
    subject = _of_run(finished_run(folder))
    for entry in sorted(folder.iterdir()):
        if (entry / MANIFEST).is_file():
            try:
                found.append(_export(open_artifact(entry), subject.evidence))
            except TtlDeployError as error:
                reporter.warn(f"left out: {error}")
    return replace(subject, exports=tuple(found))


def subject_of_artifact(path: Path, trust: Trust = Trust()) -> Subject:
    """An artifact, with the run that it lies in where it comes from that.

    Raises:
        BadInputError: It is no artifact.
        IntegrityError: Its files are not those of its manifest, or the run's are not those that were evaluated.
    """
    artifact = open_artifact(path, trust=trust)
    folder = source_folder(artifact)
    evidence = None
    if folder is not None and (folder / METRICS).is_file():
        evidence = _of_run(finished_run(folder)).evidence
    export, manifest = _export(artifact, evidence), artifact.manifest
    return Subject(
        name=evidence.run.name if evidence is not None and export.foreign is None else export.name,
        spec=manifest.model,
        point=manifest.operating_point,
        parameters=manifest.parameters,
        macs=manifest.macs,
        evidence=evidence if export.foreign is None else None,
        exports=(export,),
    )


def subjects_at(path: Path, reporter: Reporter) -> list[Subject]:
    """What a path names: an artifact, a run, or a folder of those, in which what is unfinished is told and left out.

    Raises:
        BadInputError: It is none of these.
        IntegrityError: What it names is damaged.
    """
    if path.is_file() or (path / MANIFEST).exists():
        return [subject_of_artifact(path)]
    if (path / CONFIG).exists() or not path.is_dir():
        return [subject_of_run(path, reporter)]
    found = list(_inside(path, reporter))
    if not found:
        raise BadInputError(
            "is no run and no artifact, and holds no finished one", where=path, fix="pass what `ttl-deploy train` made"
        )
    return found


def _inside(folder: Path, reporter: Reporter) -> Iterator[Subject]:
    for entry in sorted(folder.iterdir()):
        if (entry / MANIFEST).is_file():
            yield subject_of_artifact(entry)
        elif (entry / METRICS).is_file():
            yield subject_of_run(entry, reporter)
        elif (entry / SERIES).is_file():
            yield from _inside(entry, reporter)
        elif (entry / CONFIG).is_file():
            reporter.warn(f"left out: {entry} is not finished")


def merged(subjects: Sequence[Subject]) -> list[Subject]:
    """One subject for each model, each with a name of its own: a run and its artifacts may have been named apart."""
    found: dict[Path, Subject] = {}
    for subject in subjects:
        place = (subject.evidence.run if subject.evidence else subject.exports[0].artifact).folder.resolve()
        before = found.get(place)
        found[place] = subject if before is None else _together(before, subject)
    names = [subject.name for subject in found.values()]
    apart = [f"{name} ({n})" if n else name for n, name in ((names[:i].count(k), k) for i, k in enumerate(names))]
    return [replace(subject, name=name) for subject, name in zip(found.values(), apart, strict=True)]


def _together(one: Subject, other: Subject) -> Subject:
    exports = {export.artifact.folder.resolve(): export for export in (*one.exports, *other.exports)}
    return replace(one, exports=tuple(exports.values()))


def _of_run(run: Run) -> Subject:
    record = read_record(RunRecord, run.metrics(), run.folder / METRICS)
    division, test = read_split(run.split), read_predictions(run).side("test")
    patients = patient_groups({row.id: row.patient for row in division}, test.ids)
    intervals = accuracy(run.task, test.labels, test.logits, numbered(patients, len(test.ids)))
    return Subject(
        name=run.name,
        spec=run.config.model,
        point=run.operating_point,
        parameters=record.parameters,
        macs=record.macs,
        evidence=Evidence(run, record, test, patients, division, intervals),
    )


def _export(artifact: Artifact, evidence: Evidence | None) -> Export:
    if evidence is None:
        return Export(artifact)
    try:
        refuse_other_run(artifact, evidence.run)
    except IntegrityError as error:
        return Export(artifact, foreign=error.what)
    return Export(artifact, notes=unrecorded(artifact, evidence.run))
