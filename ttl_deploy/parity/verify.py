"""Is this artifact the model that was validated? Its logits against PyTorch's, or against another artifact's.

On a run's own test split the reference is what PyTorch said when the run was evaluated, recorded in the run beside the
hash of the weights, so neither a deployment machine nor this check needs torch. Only a run on other images has to
compute again, and only then torch is imported. Each side sees the images in its own preprocessing, as in use.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import files
from ttl_deploy import runtime as runtimes
from ttl_deploy.artifact import MANIFEST, Artifact, open_artifact
from ttl_deploy.data import divided
from ttl_deploy.data.divided import ImageTable, Part
from ttl_deploy.data.items import Dataset
from ttl_deploy.data.prepared import Prepared, read_split
from ttl_deploy.data.understood import understand
from ttl_deploy.errors import BadInputError, IntegrityError, near
from ttl_deploy.kept_memory import freed_memory_kept
from ttl_deploy.parity.compare import Comparison, Verdict, to_record, verdict
from ttl_deploy.parity.evidence import refuse_other_run, unrecorded
from ttl_deploy.parity.images import prepare_items, read_items
from ttl_deploy.parity.masks import drawn_dice, masks_said
from ttl_deploy.parity.precision import judged_precision
from ttl_deploy.parity.run_session import logits_of, without_constant
from ttl_deploy.parity.sides import Sides
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.runtime import Session
from ttl_deploy.runtime.trt_rtx import DETAILS
from ttl_deploy.spec import Bounds, InputSpec, OperatingPoint, ParityRecord, Placement, PreprocessSpec, Reading, Trust
from ttl_deploy.tasks import Task, task_of
from ttl_deploy.training import operation
from ttl_deploy.training.measures.overlap import overlap_of
from ttl_deploy.training.run import (
    CONFIG,
    Predictions,
    Run,
    finished_run,
    holds_images_of,
    read_predictions,
    run_data,
    table_of,
)

BATCH = 32


@dataclass(frozen=True)
class Example:
    """One image in the eyes of both.

    Attributes:
        id: The image.
        label: Its class; None where not known.
        reference: Probabilities by class; empty where a logit is not finite.
        candidate: Probabilities by class; empty likewise.
        difference: Largest difference of a logit; None where one is not finite.
    """

    id: str
    label: str | None
    reference: dict[str, float]
    candidate: dict[str, float]
    difference: float | None


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
        examples: The same images, with what both said of them.
        prepared: The images, in the artifact's preprocessing.
        sides: What both said of the images, as they were compared.
        masks: Of the same images where masks are said, packed: (reference, candidate).
        notes: What differs between the two sides, or between the graph and its manifest, before any number is computed.
        parts: The images divided by each column that was asked for.
    """

    artifact: Artifact
    runtime: str
    comparison: Comparison
    verdict: Verdict
    record: ParityRecord
    worst: tuple[str, ...]
    examples: tuple[Example, ...]
    prepared: Prepared
    sides: Sides
    notes: tuple[str, ...] = ()
    masks: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)

    @property
    def acceptable(self) -> bool:
        """Whether an export may be kept: passed, or undecided on few images while no number breaks its bound."""
        return self.verdict.result == "pass" or (self.verdict.result == "inconclusive" and self.verdict.within)


@dataclass(frozen=True)
class Source:
    """What an artifact is held against: a run or another artifact.

    Attributes:
        run: The run, or the one the other artifact lies in; None where an artifact stands alone.
        artifact: The other artifact; None where the run itself is the reference.
        task: What its logits mean, and where it decides.
        preprocess: What its input goes through.
        words: What it is, for the record.
    """

    run: Run | None
    artifact: Artifact | None
    task: Task
    preprocess: PreprocessSpec
    words: str

    def session(self, *, threads: int | None = None) -> Session:
        """The reference, ready to run: an artifact in its first engine on the CPU, a run in PyTorch (imports torch)."""
        if self.artifact is not None:
            return runtimes.load(self.artifact, Placement(threads=threads))
        from ttl_deploy.runtime.eager import load_run

        assert self.run is not None
        return load_run(self.run.folder, threads=threads)


@dataclass(frozen=True)
class Pictures:
    """The images that both sides are shown.

    Attributes:
        name: `test`, the run's test split, or the name of the data set.
        run: Whose test split; None for a data set.
        dataset: The data set; None for a run.
        moved: Where the run's images are now; None: where they were.
        reading: How the data set was read.
    """

    name: str
    run: Run | None
    dataset: Dataset | None
    moved: Path | None = None
    reading: Reading = Reading()

    @property
    def ids(self) -> tuple[str, ...]:
        """The images to use; none of them was read."""
        if self.run is not None:
            return tuple(row.id for row in read_split(self.run.split) if row.side == "test")
        assert self.dataset is not None
        return tuple(item.id for item in self.dataset.items)

    @property
    def table(self) -> ImageTable:
        """What they were listed from, as a table."""
        if self.run is not None:
            return table_of(self.run, self.moved)
        assert self.dataset is not None
        column = self.dataset.reading.columns.get("path", self.reading.path_column or "path")
        return ImageTable(self.dataset.path, column, self.reading.path_template)

    def divided(self, columns: Mapping[str, Collection[str]], ids: Sequence[str]) -> dict[str, tuple[Part, ...]]:
        """Some of the images by columns of the table, with the groups that have to be there.

        Raises:
            BadInputError: There is no such column or group; see `ttl_deploy.data.divided.parts`.
        """
        found = {column: tuple(divided.parts(self.table, column, ids)) for column in columns}
        for column, groups in columns.items():
            known = [part.name for part in found[column]]
            for group in groups:
                if group not in known:
                    what = f"has no image of the test side whose {column} is {group!r:.80}"
                    raise BadInputError(what, where=self.table.path, fix=near(group, known))
        return found

    def prepared(self, preprocess: PreprocessSpec, *, cache: Path | None, reporter: Reporter) -> Prepared:
        """The pixels in one side's preprocessing; the images to use are on the side `test`."""
        if self.run is not None:
            return run_data(self.run, preprocess=preprocess, data=self.moved, cache=cache, reporter=reporter)
        assert self.dataset is not None
        return prepare_items(self.dataset.items, self.dataset.task, preprocess, cache=cache, reporter=reporter)


def verify(
    artifact: str | Path,
    *,
    against: str | Path | None = None,
    data: str | Path | None = None,
    reading: Reading = Reading(),
    placement: Placement = Placement(),
    bounds: Bounds | None = None,
    allow_other_preprocessing: bool = False,
    subgroups: Mapping[str, Collection[str]] = {},
    trust: Trust = Trust(),
    cache: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> Check:
    """Compares an artifact with the run it was exported from, or with another artifact.

    Preprocessing that differs from the reference's fails whatever the numbers, because the images at hand may happen
    not to show it: a square image loses nothing to another crop.

    Args:
        artifact: Folder of the artifact.
        against: Folder of the run or of another artifact; None: the run around the artifact.
        data: Images to compare on, a folder, CSV or .npz; None: the run's own test split. Images that are the run's
            own, at another place, stand for its test split too. Without labels only logits and labels are compared.
        reading: How a table of such images is read.
        placement: Where the artifact runs.
        bounds: What is tolerated; what is not given, or None: the default of what the artifact's graph is.
        allow_other_preprocessing: Preprocessing that differs is meant, and the numbers alone decide.
        subgroups: Columns of the table of the images that divide them, for `Check.parts`; of each the groups that have
            to be there.
        trust: Whose artifact it may be, and the other one where it is held against one.
        cache: Folder of the pixel cache.
        reporter: Told what happens.

    Raises:
        BadInputError: The reference or the images cannot be found, images changed, or a column or group is not there.
        IntegrityError: A file of the artifact or of the run is not the recorded one, the artifact is of another run or
            not signed by the key, or it holds native code that nobody answers for.
    """
    opened = open_artifact(Path(artifact), trust=trust)
    source = open_source(opened, against, trust=trust)
    refuse_other_classes(opened, source)
    runtimes.refuse_unbound(opened)
    runtimes.runtime_for(opened, placement)
    pictures = open_pictures(opened, source, data, reading)
    # Before anything slow: a column that is not there is told at once.
    pictures.divided(subgroups, pictures.ids if subgroups else ())
    kept = files.as_path(cache)
    prepared = pictures.prepared(opened.manifest.preprocess, cache=kept, reporter=reporter)
    if pictures.dataset is not None:
        understand(pictures.dataset, prepared.sides.tolist(), prepared.cached).tell(reporter)
    if pictures.run is None and source.run is not None:
        _warn_of_training_images(source.run, prepared, reporter)
    with freed_memory_kept():
        reference = _reference(source, pictures, threads=placement.threads, cache=kept, reporter=reporter)
    with runtimes.load(opened, placement) as session:
        result = check(
            opened,
            session,
            prepared,
            reference,
            bounds=bounds,
            reference_name=source.words,
            reference_activation=source.artifact.manifest.activation if source.artifact else "none",
            split=pictures.name,
        )
    parts = pictures.divided(subgroups, reference.ids)
    result = replace(result, notes=(*result.notes, *unrecorded(opened, source.run)), parts=parts)
    result = _with_point(result, point_notes(opened, source))
    result = _with_preprocessing(result, preprocess_notes(opened, source), meant=allow_other_preprocessing)
    return replace(result, notes=(*result.notes, *_engine_notes(result)))


def check(
    artifact: Artifact,
    session: Session,
    prepared: Prepared,
    reference: Predictions,
    *,
    bounds: Bounds | None = None,
    reference_name: str,
    reference_activation: str = "none",
    split: str = "test",
) -> Check:
    """Runs the reference's images through a session and judges the difference.

    Args:
        artifact: What the session runs.
        session: An open session.
        prepared: Holds the images of `reference`, in the artifact's own preprocessing.
        reference: Ids, labels and logits; labels are used where something is known of every image.
        bounds: What is tolerated; what is not given, or None: the default of what the artifact's graph is.
        reference_name: What the reference is, for the record.
        reference_activation: What the reference model ends in.
        split: Which images they are, for the record.

    Raises:
        IntegrityError: The artifact's classes are not the reference's.
    """
    _refuse_other_task(artifact, prepared.task, "the run's")
    said = _said(session, prepared, reference.ids, artifact.manifest.preprocess)
    sides = _sides(reference, said, session, prepared, reference_activation)
    comparison, reference, said = sides.compare(), sides.reference, sides.said
    precision, note = judged_precision(artifact)
    judged = verdict(comparison, (bounds or Bounds()).filled(precision))
    if note is not None:
        judged = judged.model_copy(update={"reason": f"{judged.reason}; {note}"})
    worst = tuple(reference.ids[i] for i in comparison.worst)
    engine = None if runtimes.is_first(session, artifact) else session.runtime
    record = to_record(
        comparison, judged, reference=reference_name, split=split, worst=worst, precision=precision, runtime=engine
    )
    show = _mask_example if prepared.task.DENSE else _example
    examples = tuple(show(i, reference, said, session.task) for i in comparison.worst)
    notes = () if note is None else (note,)
    masks = None
    if reference.masks is not None and said.masks is not None:
        masks = reference.masks[list(comparison.worst)], said.masks[list(comparison.worst)]
    return Check(artifact, session.runtime, comparison, judged, record, worst, examples, prepared, sides, notes, masks)


def _sides(
    reference: Predictions, said: Predictions, session: Session, prepared: Prepared, reference_activation: str
) -> Sides:
    """Both as they are compared."""
    activations = (session.activation, reference_activation)
    if "softmax" in activations and not prepared.task.DENSE:
        said, reference = (replace(side, logits=without_constant(side.logits)) for side in (said, reference))
    return Sides(
        reference,
        said,
        session.task,
        groups=patient_groups(prepared, reference.ids),
        sigmoid="sigmoid" in activations,
        drawn=prepared.masks is not None,
        pixels=math.prod(session.size),
    )


def _said(session: Session, prepared: Prepared, ids: Sequence[str], preprocess: PreprocessSpec) -> Predictions:
    """What a session says of some images."""
    if prepared.task.DENSE:
        return masks_said(session, prepared, ids, preprocess)
    indices = prepared.positions(ids)
    if len(indices) >= BATCH:
        session.expect(BATCH)
    each = logits_of(session, _batches(prepared, indices), preprocess)
    logits = prepared.task.gather(each, prepared.counts(indices))
    return Predictions(tuple(ids), ("test",) * len(ids), prepared.labels[indices], logits)


def _with_preprocessing(result: Check, differences: tuple[str, ...], *, meant: bool) -> Check:
    """The check with what is known of the preprocessing: it fails where that differs and is not meant."""
    if not differences:
        return result
    if meant:
        said = "; ".join(differences)
        judged = result.verdict.model_copy(update={"reason": f"{result.verdict.reason}; {said}, which is meant"})
        result = _judged(result, judged, differences)
    else:
        result = _failed(result, "preprocessing", differences, " (if that is meant: --allow-other-preprocessing)")
    return replace(result, record=result.record.model_copy(update={"preprocessing": differences}))


def _with_point(result: Check, differences: tuple[str, ...]) -> Check:
    """The check with what is known of the operating points: it fails where they differ."""
    return _failed(result, "operating point", differences) if differences else result


def _failed(result: Check, measure: str, differences: tuple[str, ...], way_out: str = "") -> Check:
    """A check that fails by what is known without any number."""
    reason = f"{'; '.join(differences)}{way_out}; {result.verdict.reason}"
    judged = Verdict(result="fail", measure=measure, number=None, bound=None, reason=reason, within=False)
    return _judged(result, judged, differences)


def _judged(result: Check, judged: Verdict, differences: tuple[str, ...]) -> Check:
    record = result.record.model_copy(update={"verdict": judged.result, "reason": judged.reason})
    return replace(result, verdict=judged, record=record, notes=(*result.notes, *differences))


def source_folder(artifact: Artifact) -> Path | None:
    """The folder of the run an artifact lies in, or None."""
    parent = artifact.folder.resolve().parent
    return parent if (parent / CONFIG).exists() else None


def open_source(artifact: Artifact, against: str | Path | None, *, trust: Trust = Trust()) -> Source:
    """Opens what an artifact is held against.

    Args:
        artifact: The artifact.
        against: Folder of a run or of another artifact; None: the run around the artifact.
        trust: Whose the other artifact may be.

    Raises:
        BadInputError: There is neither.
        IntegrityError: The run's weights are not those the artifact was exported from, or the other artifact is not
            signed by the key.
    """
    if against is not None and ((Path(against) / MANIFEST).exists() or Path(against).is_file()):
        other = open_artifact(Path(against), trust=trust)
        runtimes.refuse_unbound(other)
        folder = source_folder(other) or source_folder(artifact)
        manifest = other.manifest
        words = f"{manifest.format} {manifest.precision} artifact {other.folder.resolve().name}"
        run = finished_run(folder) if folder else None
        return Source(run, other, task_of(manifest.model, manifest.operating_point), manifest.preprocess, words)
    run = _source_run(artifact, against)
    words = f"pytorch fp32 of {run.name}"
    return Source(run, None, task_of(run.config.model, run.operating_point), run.config.preprocess, words)


def open_pictures(
    artifact: Artifact, source: Source, data: str | Path | None, reading: Reading = Reading()
) -> Pictures:
    """Opens the images to compare on.

    Raises:
        BadInputError: No data was given and there is no run, or the data cannot be read.
    """
    if data is None and reading != Reading():
        said = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(reading.model_fields_set))
        raise BadInputError(
            "says how --data is read, which is not given", where=said, fix="pass --data, or leave it out"
        )
    if data is not None and source.run is not None and holds_images_of(source.run, Path(data)):
        return Pictures("test", source.run, None, Path(data))
    if data is not None:
        return Pictures(
            Path(data).name,
            None,
            read_items(Path(data), source.task, reading, source.preprocess.input.kind),
            reading=reading,
        )
    if source.run is None:
        raise BadInputError(
            "lies in no run, so there is no test split to compare on", where=artifact.folder, fix="pass images: --data"
        )
    return Pictures("test", source.run, None)


def refuse_other_classes(artifact: Artifact, source: Source) -> None:
    """Raises `IntegrityError` unless both have the same task, with the same classes in the same order."""
    _refuse_other_task(artifact, source.task, "the run's" if source.artifact is None else "the other artifact's")


def preprocess_notes(artifact: Artifact, source: Source) -> tuple[str, ...]:
    """What differs between the preprocessing of the two, a sentence each."""
    own, other = artifact.manifest.preprocess, source.preprocess
    return tuple(
        f"preprocessing differs: {name} is {_words(getattr(own, name))} in the artifact and "
        f"{_words(getattr(other, name))} in the reference"
        for name in PreprocessSpec.model_fields
        if getattr(own, name) != getattr(other, name)
    )


def _engine_notes(result: Check) -> tuple[str, ...]:
    """Where an artifact holds engines beside its graph, and its graph was what was judged."""
    held = result.artifact.manifest.details.get(DETAILS)
    if held is None or runtimes.RUNTIMES.get(result.runtime).part is not None:
        return ()
    targets = ", ".join(held.get("targets", ()))
    return (
        f"the graph was judged; its engines for {targets} are judged on such a card: verify --device cuda --trust "
        "there",
    )


def point_notes(artifact: Artifact, source: Source) -> tuple[str, ...]:
    """That the two decide otherwise, in a sentence, where they do.

    An artifact may have another operating point than its run, chosen when it was exported; that it is the one which its
    rule gives on the run's validation images was checked when the run was opened.
    """
    own, other = artifact.manifest.operating_point, source.task.point
    chosen_at_export = source.artifact is None and own is not None
    if own == other or chosen_at_export:
        return ()
    said = f"{source.task.positive} is said {_from(own)} in the artifact and {_from(other)} in the reference"
    return (f"decides otherwise: {said}",)


def _from(point: OperatingPoint | None) -> str:
    return "where it is the more probable" if point is None else f"from {point.threshold:.4f} on ({point.rule})"


def _words(value: object) -> str:
    if isinstance(value, InputSpec):
        return value.told
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def _refuse_other_task(artifact: Artifact, task: Task, whose: str) -> None:
    found, expected = artifact.manifest.model.classes, task.classes
    if artifact.manifest.model.task != task.spec:
        raise IntegrityError(
            f"its task, {artifact.manifest.model.task}, is not {whose}, {task.spec}",
            where=artifact.folder,
            fix="export the run again",
        )
    if found == expected:
        return
    what = f"its classes {', '.join(found)} are not {whose} {', '.join(expected)}"
    swapped = sorted(found) == sorted(expected)
    raise IntegrityError(
        f"{what}: the same names in another order, so its outputs are swapped" if swapped else what,
        where=artifact.folder,
        fix="export the run again",
    )


def _source_run(artifact: Artifact, against: str | Path | None) -> Run:
    folder = Path(against) if against is not None else source_folder(artifact)
    if folder is None:
        raise BadInputError(
            f"does not lie in its run ({artifact.manifest.source.name})",
            where=artifact.folder,
            fix="pass the run, or another artifact, with --against",
        )
    run = finished_run(folder)
    refuse_other_run(artifact, run)
    return run


def _reference(
    source: Source, pictures: Pictures, *, threads: int | None, cache: Path | None, reporter: Reporter
) -> Predictions:
    """What the reference says of the images: recorded, where the run was evaluated on them, else computed now."""
    if source.artifact is None and pictures.run is not None:
        return read_predictions(pictures.run).side("test")
    prepared = pictures.prepared(source.preprocess, cache=cache, reporter=reporter)
    chosen = prepared.indices("test")
    ids = tuple(prepared.ids[i] for i in chosen)
    with source.session(threads=threads) as session, reporter.task(f"running {source.words}", None):
        return _said(session, prepared, ids, source.preprocess)


def _warn_of_training_images(run: Run, prepared: Prepared, reporter: Reporter) -> None:
    seen = {row.digest for row in read_split(run.split) if row.side == "train"}
    count = sum(digest in seen for digest in prepared.digests)
    if count:
        reporter.warn(f"{count} of {len(prepared.ids)} images are among those the run was trained on")


def patient_groups(prepared: Prepared, ids: Sequence[str]) -> list[str] | None:
    """The patient of each image, as `ttl_deploy.training.operation.patient_groups` has them."""
    return operation.patient_groups(dict(zip(prepared.ids, prepared.patients, strict=True)), ids)


def _mask_example(position: int, reference: Predictions, candidate: Predictions, task: Task) -> Example:
    """Dice with the drawn mask in place of probabilities, and in place of the difference what the two lack of 1."""
    assert reference.masks is not None and candidate.masks is not None
    known = task.known(reference.labels[position : position + 1]).all()
    here = slice(position, position + 1)
    first, second = ({"Dice": float(drawn_dice(said)[position])} if known else {} for said in (reference, candidate))
    difference = 1 - float(overlap_of(reference.masks[here], candidate.masks[here])[0])
    return Example(reference.ids[position], None, first, second, difference)


def _example(position: int, reference: Predictions, candidate: Predictions, task: Task) -> Example:
    rows = reference.logits[position].astype(np.float64), candidate.logits[position].astype(np.float64)
    finite = bool(np.isfinite(rows).all())
    label = reference.labels[position : position + 1]
    first, second = (
        dict(zip(task.classes, map(float, task.probabilities(row[None])[0]), strict=True)) if finite else {}
        for row in rows
    )
    return Example(
        id=reference.ids[position],
        label=task.text(task.rows(label)[0]) if task.known(label).all() else None,
        reference=first,
        candidate=second,
        difference=float(np.abs(rows[0] - rows[1]).max()) if finite else None,
    )


def _batches(prepared: Prepared, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    inputs = prepared.inputs(indices)
    for start in range(0, len(inputs), BATCH):
        yield prepared.input_pixels(inputs[start : start + BATCH])
