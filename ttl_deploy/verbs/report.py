"""One file that tells a model to who was not there: accuracy, speed, size, parity and all that they stand on.

Nothing is measured or computed anew that could differ from what was recorded: the page is made of the files of runs
and artifacts, which are held against their hashes first. PyTorch is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ttl_deploy import __version__, files, hardware
from ttl_deploy.artifact import MANIFEST
from ttl_deploy.errors import BadInputError
from ttl_deploy.pages import answer, comparison, model_report
from ttl_deploy.pages.document import Document, Section, to_markdown, to_page
from ttl_deploy.pages.looks import Look, is_analysis, read_looks, section
from ttl_deploy.pages.speeds import Speed, read_speeds
from ttl_deploy.pages.subject import Subject, merged, subjects_at
from ttl_deploy.progress import SILENT, Reporter

OUT = Path("report.html")
MOST_TOLD = 20
"""Models that have a part of their own; of models with very many classes fewer."""
LARGEST = 5_000_000
"""Bytes of a file that opens everywhere."""
_WRITERS: dict[str, Callable[[Document], str]] = {
    **dict.fromkeys((".html", ".htm"), to_page),
    **dict.fromkeys((".md", ".markdown"), to_markdown),
}
"""By the ending of the file."""


@dataclass(frozen=True)
class Reported:
    """What was written.

    Attributes:
        out: The file.
        lead: Its answer.
        subjects: The models, in its order.
    """

    out: Path
    lead: str
    subjects: tuple[Subject, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {"out": str(self.out), "answer": self.lead, "models": [_plain(subject) for subject in self.subjects]}


def report(
    paths: str | Path | Sequence[str | Path],
    *,
    out: str | Path = OUT,
    subgroup: Sequence[str] = (),
    data: str | Path | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Reported:
    """Writes the report.

    Args:
        paths: Folders of runs or artifacts, folders of those, and files of `ttl-deploy bench --out` and folders of
            `ttl-deploy analyze`, whose latencies and analyses are told of the models that they are of.
        out: The file: a page that needs nothing else where it ends in `.html`, Markdown where it ends in `.md`.
        subgroup: Columns of the table that the runs were read from, each of which divides their test side.
        data: Where that table is now, or the folder that it lies in; None: where it was.
        overwrite: Replace it.
        reporter: Told what is left out.

    Raises:
        BadInputError: A path is none of these, a run is not finished, or `out` is taken or ends otherwise.
        IntegrityError: A file is not the one that was evaluated or exported.
        StorageError: The disk is full, read-only or failing; what was at `out` is still there.
    """
    place = Path(out)
    write = _writer(place)
    files.refuse_existing(place, overwrite=overwrite)
    given = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    looked = [path for path in given if is_analysis(path)]
    subjects = _subjects([path for path in given if path not in looked], reporter)
    subjects, between = _with_looks(subjects, looked)
    _refuse_idle(subjects, subgroup, data)
    asked = {"subgroup": tuple(subgroup), "data": files.as_path(data)}
    document, text = _fitting(subjects, between, asked, write)
    files.write_text(place, text)
    return Reported(place, document.lead, tuple(subjects))


def _writer(out: Path) -> Callable[[Document], str]:
    if out.suffix.lower() not in _WRITERS:
        raise BadInputError("is neither a page nor Markdown", where=out, fix="name a file that ends in .html or .md")
    return _WRITERS[out.suffix.lower()]


def _subjects(paths: Sequence[Path], reporter: Reporter) -> list[Subject]:
    measured = [
        path for path in paths if path.suffix.lower() == ".json" and path.name != MANIFEST and not path.is_dir()
    ]
    found = merged([subject for path in paths if path not in measured for subject in subjects_at(path, reporter)])
    if not found:
        raise BadInputError("nothing to report on", fix="pass a run, an artifact, or a folder of those")
    for path in measured:
        found = _with_speeds(found, path, read_speeds(path))
    return found


def _with_speeds(subjects: Sequence[Subject], path: Path, speeds: Sequence[Speed]) -> list[Subject]:
    told = [subject.with_speeds(speeds) for subject in subjects]
    if told == list(subjects):
        models = ", ".join(dict.fromkeys(row.model for row in speeds))
        way_out = "pass the run or the artifact that was measured"
        raise BadInputError(f"measured none of these models but {models}", where=path, fix=way_out)
    return told


def _with_looks(subjects: Sequence[Subject], folders: Sequence[Path]) -> tuple[list[Subject], list[Look]]:
    """The models with what was found of each, and what was found of several of them together."""
    told, between, known = list(subjects), list[Look](), {subject.weights for subject in subjects}
    for folder in folders:
        looks = read_looks(folder)
        if not any(set(look.found.weights) <= known for look in looks):
            some = any(known.intersection(look.found.weights) for look in looks)
            what = "compares these models with others that are not here" if some else "looked at none of these models"
            way_out = f"pass {'all ' * some}the runs that were analysed, or analyse these again"
            raise BadInputError(what, where=folder, fix=way_out)
        told = [subject.with_looks(looks) for subject in told]
        between += [look for look in looks if len(look.found.weights) > 1 and set(look.found.weights) <= known]
    return told, between


def _refuse_idle(subjects: Sequence[Subject], subgroup: Sequence[str], data: str | Path | None) -> None:
    """What was said and would change nothing."""
    if data is not None and not subgroup:
        raise BadInputError("is read for --subgroup alone", where="--data", fix="name a column with --subgroup")
    if subgroup and all(subject.evidence is None for subject in subjects):
        raise BadInputError("needs a run, and none is here", where="--subgroup", fix="pass the run, or leave it out")


def _fitting(
    subjects: Sequence[Subject], between: Sequence[Look], asked: dict[str, Any], write: Callable[[Document], str]
) -> tuple[Document, str]:
    """The document with as many models told as a file may have, and its text."""
    told = min(MOST_TOLD, len(subjects))
    while True:
        document = _document(subjects, between, asked, told)
        text = write(document)
        if told == 1 or len(text) <= LARGEST:
            return document, text
        told //= 2


def _document(subjects: Sequence[Subject], between: Sequence[Look], asked: dict[str, Any], most: int) -> Document:
    one = subjects[0] if len(subjects) == 1 else None
    return Document(
        title=f"{one.name}: {one.words}" if one else f"{len(subjects)} models",
        lead=answer.lead(one) if one else comparison.lead(subjects),
        command=hardware.command(),
        facts=f"ttl-deploy {__version__}, from the files of the runs and artifacts alone",
        sections=_of_one(one, asked) if one else _of_several(subjects, between, asked, most),
        cards=tuple(answer.cards(one)) if one else (),
    )


def _of_one(subject: Subject, asked: dict[str, Any]) -> tuple[Section, ...]:
    return tuple(model_report.sections(subject, prefix="m1", level=2, **asked))


def _of_several(
    subjects: Sequence[Subject], between: Sequence[Look], asked: dict[str, Any], most: int
) -> tuple[Section, ...]:
    told = _told(subjects, most)
    parts = [comparison.comparison(subjects)]
    if len(told) < len(subjects):
        which = "most accurate is" if most == 1 else f"{most} most accurate are"
        note = f"The {which} told below; pass fewer to have the others told."
        parts[0] = replace(parts[0], paragraphs=(*parts[0].paragraphs, note))
    parts += section(between, "How the models differ", "between", 2)
    for place, subject in told:
        parts.append(Section(f"{place}. {subject.name}", (answer.lead(subject),)))
        parts += model_report.sections(subject, prefix=f"m{place}", level=3, share=len(told), **asked)
    return tuple(parts)


def _told(subjects: Sequence[Subject], most: int) -> list[tuple[int, Subject]]:
    """The most accurate with their places, in the order of the table."""
    metric = comparison.shared_metric(subjects) or ""
    ranked = sorted(enumerate(subjects, 1), key=lambda pair: -(pair[1].test.get(metric) or 0.0))
    return sorted(ranked[:most], key=lambda pair: pair[0])


def _plain(subject: Subject) -> dict[str, Any]:
    return {
        "name": subject.name,
        "model": subject.words,
        "parameters": subject.parameters,
        "macs": subject.macs,
        "test": {name: subject.test[name] for name in subject.task.METRICS if name in subject.test},
        "exports": {export.name: export.verdict for export in subject.exports},
        "latency_ms": [row.measurement.typical_ms for row in subject.speeds if row.role == "own"],
    }
