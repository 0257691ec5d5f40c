"""Why a run is as it is: what its layers kept, how far they moved, what they tell, and how runs differ.

Every analysis is a file of `ttl_deploy.analysis.analyses`. Everything that can be refused is refused before the first
begins; the folder is there when all is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttl_deploy import __version__, files, hardware
from ttl_deploy.analysis.analyses import ANALYSES, Analysis, Need
from ttl_deploy.analysis.finding import Finding
from ttl_deploy.analysis.subject import IMAGES, Asked, Subject
from ttl_deploy.errors import BadInputError, StorageError, TtlDeployError
from ttl_deploy.pages.analysed import Told, page, picture
from ttl_deploy.pages.looks import PAGE
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.training.engine import resolve_device
from ttl_deploy.training.run import finished_run

OUT = Path("analysis")
ALL = "all"


@dataclass(frozen=True)
class Job:
    """An analysis of some of the runs.

    Attributes:
        name: Of the analysis.
        analysis: What it does.
        subjects: The runs.
        folder: Of its files in the folder; empty: that itself.
    """

    name: str
    analysis: Analysis
    subjects: tuple[Subject, ...]
    folder: str = ""


@dataclass(frozen=True)
class Analysed:
    """What was written.

    Attributes:
        out: The folder.
        found: What was found, by analysis; of several runs behind the run's name and a slash.
        left_out: Why the others say nothing, likewise.
    """

    out: Path
    found: dict[str, Finding]
    left_out: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "out": str(self.out),
            "found": {name: finding.sentence for name, finding in self.found.items()},
            "left_out": self.left_out,
        }


def analyze(
    runs: str | Path | Sequence[str | Path],
    *,
    what: str | Sequence[str] = ALL,
    out: str | Path = OUT,
    images: int = IMAGES,
    seed: int = 0,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Analysed:
    """Writes a folder of figures, their numbers as CSV and JSON, and a page of a sentence for each.

    Args:
        runs: Folders of finished runs. What looks at one run looks at each; what compares runs, at all.
        what: Names of analyses, or `all`: every one that applies, and a line for each that does not.
        out: The folder.
        images: Most images of a side, or of a comparison.
        seed: Of drawn images, positions and channels.
        data: Where the images of the runs are now; None: where they were.
        cache: Folder of the pixel cache; None: the user's.
        device: `auto`, `cpu` or `cuda`.
        overwrite: Replace the folder.
        reporter: Told of progress, and of what is left out.

    Raises:
        BadInputError: No such analysis, or one that was named does not apply; a run is not finished; `out` is taken.
        WeightsError: A named analysis needs starting weights that are gone.
        IntegrityError: A file of a run changed since it was evaluated.
        StorageError: The disk is full, read-only or failing.
    """
    place, chosen = Path(out), _chosen([what] if isinstance(what, str) else what)
    files.refuse_existing(place, overwrite=overwrite)
    asked = Asked(images, seed, files.as_path(data), files.as_path(cache), resolve_device(device))
    given = [runs] if isinstance(runs, str | Path) else runs
    if not given:
        raise BadInputError("no run to look at", fix="pass a folder made by `ttl-deploy train`")
    opened = [finished_run(Path(run)) for run in given]
    names = _names([run.name for run in opened])
    subjects = [Subject(run, asked, reporter, name) for run, name in zip(opened, names, strict=True)]
    jobs = _jobs(chosen or ANALYSES.names(), subjects)
    unfit = _unfit(jobs, tolerant=not chosen)
    with files.atomic_folder(place, overwrite=overwrite) as folder:
        return _written(folder, place, jobs, unfit, subjects, tolerant=not chosen)


def _chosen(what: Sequence[str]) -> list[str]:
    """The names of analyses, each once; none where all are meant.

    Raises:
        BadInputError: One of them is none.
    """
    words = [word.strip().lower() for part in what for word in part.split(",")]
    for word in words:
        if word != ALL:
            ANALYSES.get(word)
    return [] if ALL in words else list(dict.fromkeys(words))


def _jobs(names: Sequence[str], subjects: Sequence[Subject]) -> list[Job]:
    jobs = []
    for name in names:
        analysis = ANALYSES.get(name)
        if analysis.together:
            jobs.append(Job(name, analysis, tuple(subjects)))
        else:
            several = len(subjects) > 1
            jobs += [Job(name, analysis, (subject,), subject.name if several else "") for subject in subjects]
    return jobs


def _names(names: Sequence[str]) -> list[str]:
    """A name for each of several runs; numbered where two have the same."""
    return [name if names.count(name) == 1 else f"{number}-{name}" for number, name in enumerate(names, 1)]


def _key(job: Job) -> str:
    return f"{job.folder}/{job.name}" if job.folder else job.name


def _unfit(jobs: Sequence[Job], *, tolerant: bool) -> dict[str, str]:
    """Why some say nothing, found before any begins; what is cheap to ask is asked of all first, and once.

    Raises:
        TtlDeployError: One says nothing, and is not tolerated.
    """
    wanted = [(need, job) for job in jobs for need in job.analysis.needs]
    unfit: dict[str, str] = {}
    answers: dict[tuple[Need, tuple[Subject, ...]], str | None] = {}
    for need, job in sorted(wanted, key=lambda pair: pair[0].order):
        if _key(job) in unfit:
            continue
        if (need, job.subjects) not in answers:
            answers[need, job.subjects] = _why_not(need, job.subjects, tolerant)
        reason = answers[need, job.subjects]
        if reason is not None:
            unfit[_key(job)] = reason
    return unfit


def _why_not(need: Need, subjects: Sequence[Subject], tolerant: bool) -> str | None:
    try:
        need.check(subjects)
    except TtlDeployError as error:
        if not tolerant or isinstance(error, StorageError):
            raise
        return str(error)
    return None


def _written(
    folder: Path, place: Path, jobs: Sequence[Job], unfit: dict[str, str], subjects: Sequence[Subject], tolerant: bool
) -> Analysed:
    found: dict[str, Finding] = {}
    left, told = dict(unfit), {}
    for job in jobs:
        key = _key(job)
        if key not in left:
            try:
                found[key] = _looked(job)
            except BadInputError as error:
                if not tolerant:
                    raise
                left[key] = str(error)
        told[key] = _files(folder, job, found[key]) if key in found else Told(job.name, f"Left out: {left[key]}")
        if key in left:
            job.subjects[0].reporter.info(f"{key} left out: {left[key]}")
    files.write_text(folder / PAGE, _page(jobs, told, subjects))
    return Analysed(place, found, left)


def _looked(job: Job) -> Finding:
    """What is found.

    Raises:
        BadInputError: The runs allow no such number, as features that are all alike or not finite do.
    """
    first = job.subjects[0]
    first.reporter.info(f"{job.name} of {', '.join(subject.name for subject in job.subjects)}")
    try:
        return job.analysis.look(job.subjects)
    except ValueError as error:
        what = f"{job.name} finds no number: {error}"
        raise BadInputError(what, where=first.run.folder, fix="look at another run") from error


def _files(folder: Path, job: Job, finding: Finding) -> Told:
    """Writes a finding's files and says what they are."""
    inside = folder / job.folder
    tables = {_named(job.name, part, "csv"): table for part, table in finding.tables.items()}
    for file, table in tables.items():
        files.write_text(inside / file, "".join(map(files.csv_row, (table.columns, *table.rows))))
    pictures = {_named(job.name, part, "png"): picture(figure) for part, figure in finding.figures.items()}
    titles = {_named(job.name, part, "png"): finding.titles.get(part, "") for part in finding.figures}
    record = {
        "analysis": job.name,
        "runs": [str(subject.run.folder) for subject in job.subjects],
        "weights": [subject.run.metrics()["weights_sha256"] for subject in job.subjects],
        "pictures": {name: _numbers_of(name, list(tables)) for name in pictures},
        "titles": titles,
        "sentence": finding.sentence,
        "seed": job.subjects[0].asked.seed,
        **finding.facts,
        "tables": {file.removesuffix(".csv"): table.as_dicts() for file, table in tables.items()},
    }
    files.write_json(inside / f"{job.name}.json", record)
    for file, content in pictures.items():
        files.write_bytes(inside / file, content)
    before = f"{job.folder}/" if job.folder else ""
    numbers = tuple(before + file for file in (*tables, f"{job.name}.json"))
    return Told(job.name, finding.sentence, {before + file: title for file, title in titles.items()}, numbers)


def _numbers_of(picture: str, tables: Sequence[str]) -> str:
    """The table of a picture's name, else the analysis' first."""
    own = str(Path(picture).with_suffix(".csv"))
    return own if own in tables else tables[0]


def _named(name: str, part: str, ending: str) -> str:
    return f"{name}-{part}.{ending}" if part else f"{name}.{ending}"


def _page(jobs: Sequence[Job], told: dict[str, Told], subjects: Sequence[Subject]) -> str:
    asked = subjects[0].asked
    names = ", ".join(subject.name for subject in subjects)
    facts = [
        *(f"{subject.name}: {subject.run.config.model.backbone}, {_kept(subject)}" for subject in subjects),
        f"At most {asked.images} images of a side or of a comparison, drawn with seed {asked.seed}.",
        f"ttl-deploy {__version__} on {hardware.describe().name}: `{hardware.command()}`",
    ]
    parts = [("", [told[_key(job)] for job in jobs if not job.folder])]
    folders = dict.fromkeys(job.folder for job in jobs if job.folder)
    parts += [(folder, [told[_key(job)] for job in jobs if job.folder == folder]) for folder in folders]
    return page(f"Analysis of {names}", facts, parts)


def _kept(subject: Subject) -> str:
    model = subject.run.config.model
    return model.method + (f" cut after {model.cut}" if model.cut else "")
