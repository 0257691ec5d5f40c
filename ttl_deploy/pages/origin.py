"""What a model's numbers stand on, as sections of a report: paper, data, division, training, machines, commands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from ttl_deploy import documents
from ttl_deploy.hardware import library_words
from ttl_deploy.pages import figures
from ttl_deploy.pages.document import Figure, Section, Table
from ttl_deploy.pages.subject import Evidence, Subject
from ttl_deploy.pages.words import NOTHING, millions, title_of
from ttl_deploy.training.run import DATA, SIDES

_MOST_LABELS = 40
"""Rows of the table of images: an image's labels together may be one of very many."""
_ODD = {
    "constant": "{} images are one colour all over.",
    "identical": "{} images have the same pixels as another.",
    "contradicting": "{} images are the same as one with another label.",
}
"""What `data.json` may have found."""


def paper(evidence: Evidence, level: int) -> Iterator[Section]:
    """The rows that a paper prints for the same network; nothing where there are none."""
    beside = evidence.record.paper
    if beside is None:
        return
    rows = tuple((row.title, title_of(row.metric), row.paper_text, row.ours_text) for row in beside.rows)
    columns = ("printed row", "metric", "paper", "here, test")
    table = Table(columns, rows, "The paper's rows of this network", (0, 1), sortable=True)
    differs = f"{beside.differs[:1].upper()}{beside.differs[1:]}."
    yield Section("Beside the paper", (differs, *(f"* {slip}" for slip in beside.slips)), (table,), level=level)


def data(evidence: Evidence, level: int) -> Section:
    """Images and patients by label and side, as `split.csv` has them, and what was odd."""
    rows = evidence.division
    total = ("all images", *(f"{sum(row.side == side for row in rows):,}" for side in SIDES), f"{len(rows):,}")
    people = [len({row.patient for row in rows if row.patient and row.side in sides}) for sides in (*zip(SIDES), SIDES)]
    patients = [("patients", *map("{:,}".format, people))] if any(people) else []
    columns = ("images", "training", "validation", "test", "all")
    table = Table(columns, (*_by_label(evidence), total, *patients), "Images by label and side")
    text = (_said(evidence), _crossing(evidence), *_oddities(evidence))
    return Section("Data and split", (" ".join(text),), (table,), level=level)


def _by_label(evidence: Evidence) -> list[tuple[str, ...]]:
    found: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(SIDES, 0))
    for row in evidence.division:
        found[row.label or "none of the labels"][row.side] += 1
    if evidence.run.task.DENSE or len(found) > _MOST_LABELS:
        return []
    return [
        (name, *(f"{counts[side]:,}" for side in SIDES), f"{sum(counts.values()):,}")
        for name, counts in sorted(found.items())
    ]


def _said(evidence: Evidence) -> str:
    config = evidence.run.config
    return f"Read from {config.data}; divided by seed {config.split.seed}."


def _crossing(evidence: Evidence) -> str:
    sides: dict[str, set[str]] = defaultdict(set)
    for row in evidence.division:
        if row.patient:
            sides[row.patient].add(row.side)
    if not sides:
        return "Patients are not known, so images of one may be on two sides."
    several = sum(len(found) > 1 for found in sides.values())
    return f"{several} patients are on more than one side." if several else "No patient is on two sides."


def _oddities(evidence: Evidence) -> Iterator[str]:
    path = evidence.run.folder / DATA
    found = documents.read_object(path, "record of the data") if path.is_file() else {}
    if evidence.record.unreadable:
        yield f"{evidence.record.unreadable:,} images cannot be read and were left out."
    unused = [str(name) for name in found.get("columns_not_used") or ()]
    if unused:
        yield f"Columns of the table that say more, and may tell groups apart (--subgroup): {', '.join(unused[:8])}."
    for key, words in _ODD.items():
        counted = found.get(key)
        if isinstance(counted, dict) and counted.get("images"):
            yield words.format(counted["images"])


def training(evidence: Evidence, prefix: str, level: int) -> Section:
    """How it was trained.

    Args:
        evidence: The run.
        prefix: Of the figure's name.
        level: Of the heading.
    """
    record, config = evidence.record, evidence.run.config
    count = f"{record.epochs} epoch{'' if record.epochs == 1 else 's'}"
    text = (
        f"{count} in {record.seconds / 60:.1f} minutes, seed {config.seed} ({record.stopped or 'ended'}); "
        f"the weights of epoch {record.best_epoch} were kept, the best on the validation side."
    )
    facts = (
        ("backbone, method, cut", config.model.words),
        ("parameters", f"{record.parameters:,}, of which {record.trainable:,} were trained"),
        ("multiply-adds of an image", f"{millions(record.macs)} million"),
        ("input", " x ".join(map(str, config.model.input.shape))),
        ("starting weights", str(_more(evidence).get("weights", config.weights))),
        *([("their SHA-256", _start_hash(evidence))] if record.start_sha256 else []),
        ("SHA-256 of the weights", record.weights_sha256),
    )
    table = Table(("model", ""), facts, words=(0, 1))
    return Section("Training", (text,), (table,), tuple(_history(evidence, prefix)), level=level)


def _start_hash(evidence: Evidence) -> str:
    of = "of ImageNet's tensors" if evidence.run.config.weights == "imagenet" else "of the file"
    return f"{evidence.record.start_sha256} ({of})"


def _history(evidence: Evidence, prefix: str) -> Iterator[Figure]:
    rows, best = evidence.run.history(), evidence.record.best_epoch
    if rows:
        says = f"The dotted line marks epoch {best}, whose weights were kept."
        yield figures.history_figure(f"{prefix}-history", "Losses and validation by epoch", says, rows, best)


def _more(evidence: Evidence) -> Mapping[str, Any]:
    """What `metrics.json` has besides the record."""
    return evidence.record.model_extra or {}


def machines(subject: Subject, level: int) -> Section:
    """Hardware, versions and commands of training, export and measurement."""
    rows: list[tuple[str, str, str]] = []
    text = []
    if subject.evidence is not None:
        record = subject.evidence.record
        rows.append(("training", _machine(record.hardware), library_words(record.libraries)))
        text.append(f"Trained by: {_more(subject.evidence).get('command', 'a version that kept no command')}")
    for export in subject.exports:
        source = export.manifest.source
        rows.append((f"export {export.name}", NOTHING, library_words(export.manifest.tools)))
        text.append(f"{export.name} was made on {export.manifest.created} from the run {source.name}.")
    measured = [row.measurement for row in subject.speeds]
    rows += sorted({("latency", _machine(m.hardware), library_words(m.libraries)) for m in measured})
    table = Table(("what", "machine", "versions"), tuple(rows), words=(0, 1, 2))
    return Section("Hardware, versions, commands", tuple(text), (table,), level=level)


def _machine(hardware: Mapping[str, Any]) -> str:
    gpus = [str(gpu.get("name", "GPU")) for gpu in hardware.get("gpus", ()) if isinstance(gpu, dict)]
    cores, memory = hardware.get("usable_cores", "?"), hardware.get("memory_gib", "?")
    cpu = f"{hardware.get('cpu', 'unknown processor')}, {cores} cores, {memory} GiB"
    return "; ".join((cpu, *gpus, str(hardware.get("system", ""))))
