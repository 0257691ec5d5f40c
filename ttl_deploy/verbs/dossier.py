"""`dossier`: all that a model's acceptance stands on in one folder: verdict, criteria, evidence, hashes, materials.

The verdict comes first, whatever it is: a check that failed, or was never made, is told at the top and not left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ttl_deploy import __version__, files, hardware, signing
from ttl_deploy.artifact import MANIFEST
from ttl_deploy.errors import BadInputError
from ttl_deploy.pages import answer, model_report
from ttl_deploy.pages.document import Card, Document, Section, Table, to_markdown, to_page
from ttl_deploy.pages.subject import Subject, subject_of_artifact, subject_of_run
from ttl_deploy.parity.compare import Result
from ttl_deploy.parity.verify import Check, source_folder, verify
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import CriteriaFile, FileRecord, Placement, Reading, Trust, read_criteria
from ttl_deploy.verbs.acceptance import Acceptance, accept, section
from ttl_deploy.verbs.bench import provenance
from ttl_deploy.verbs.bom import model_bom, refuse_missing
from ttl_deploy.verbs.parity_report import as_dict, write_report

CRITERIA = "criteria.yaml"
HASHES = "hashes.json"
BOM = "bom.cdx.json"
MARKDOWN, PAGE = "dossier.md", "dossier.html"
VERIFY_JSON, VERIFY_PAGE = "verify.json", "verify.html"


@dataclass(frozen=True)
class Dossier:
    """What was written.

    Attributes:
        out: The folder.
        result: fail where the acceptance failed or the artifact was refused when it was exported.
        lead: The verdict in sentences.
        acceptance: The criteria.
        signature: File of the signature; None without a key.
    """

    out: Path
    result: Result
    lead: str
    acceptance: Acceptance
    signature: Path | None

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "out": str(self.out),
            "result": self.result,
            "verdict": self.lead,
            "criteria": self.acceptance.model_dump(mode="json"),
            "signature": None if self.signature is None else str(self.signature),
        }


@dataclass(frozen=True)
class _Found:
    """All that the folder is made of."""

    subject: Subject
    check: Check
    acceptance: Acceptance
    file: CriteriaFile
    hashes: dict[str, Any]
    signed: bool

    @property
    def recorded(self) -> str:
        """What the artifact's own record says of its check, a sentence."""
        parity = self.check.artifact.manifest.parity
        if parity is None:
            return "The artifact has no parity record: it was not held against its model when it was exported."
        if parity.verdict == "fail":
            return f"The artifact was REFUSED when it was exported: {parity.reason}."
        why = "" if parity.verdict == "pass" else f": {parity.reason}"
        return f"When it was exported its parity check gave {parity.verdict}{why}."

    @property
    def result(self) -> Result:
        parity = self.check.artifact.manifest.parity
        return "fail" if parity is not None and parity.verdict == "fail" else self.acceptance.result

    @property
    def lead(self) -> str:
        counted = self.acceptance.lead.partition(": ")[2].capitalize()
        return f"{self.result.upper()}. {counted} {self.recorded}"


def dossier(
    artifact: str | Path,
    *,
    criteria: str | Path,
    out: str | Path,
    run: str | Path | None = None,
    data: str | Path | None = None,
    reading: Reading = Reading(),
    placement: Placement = Placement(),
    trust: Trust = Trust(),
    sign_key: str | Path | None = None,
    cache: str | Path | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Dossier:
    """Checks an artifact by acceptance criteria and writes the folder, whole or not at all.

    Args:
        artifact: Folder of the artifact.
        criteria: File of the criteria; a copy goes into the folder.
        out: The folder.
        run: The run that the artifact comes from; None: the one that it lies in.
        data: Images to check on, as `verify` takes them; None: the run's test side.
        reading: How a table of such images is read.
        placement: Where the artifact runs.
        trust: Whose artifact it may be.
        sign_key: Private elliptic-curve key, PEM, that signs the folder; None: it is not signed.
        cache: Folder of the pixel cache.
        overwrite: Replace the dossier at `out`; another folder never is.
        reporter: Told what happens.

    Raises:
        BadInputError: There is no run, a file cannot be used, or `out` is taken.
        IntegrityError: A file of the artifact or the run is not the recorded one.
        MissingDependencyError: The extra `dossier` is not installed, or with a key the extra `signing`.
        StorageError: The disk is full, read-only or failing; what was at `out` is still there.
    """
    refuse_missing()
    place, file = Path(out), read_criteria(criteria)
    files.refuse_existing(place, overwrite=overwrite)
    _refuse_foreign(place)
    shared: dict[str, Any] = {"placement": placement, "trust": trust, "reporter": reporter}
    subject = _subject(Path(artifact), files.as_path(run), trust, reporter)
    judged_by: dict[str, Any] = {"bounds": file.criteria.bounds, "subgroups": file.subgroups}
    check = verify(artifact, against=run, data=data, reading=reading, cache=cache, **judged_by, **shared)
    found = _Found(
        subject, check, accept(check, file, **shared), file, _hashes(subject, check, file), sign_key is not None
    )
    with files.atomic_folder(place, overwrite=overwrite) as folder:
        _write(found, folder)
        if sign_key is not None:
            signing.sign(folder, Path(sign_key))
    return Dossier(
        out=place,
        result=found.result,
        lead=found.lead,
        acceptance=found.acceptance,
        signature=None if sign_key is None else place / signing.SIGNATURE,
    )


def _refuse_foreign(place: Path) -> None:
    """`--overwrite` on a mistyped path must not cost a folder that never was a dossier."""
    if place.exists() and not (place / MARKDOWN).is_file() and not (place.is_dir() and not any(place.iterdir())):
        raise BadInputError("is no dossier and is left alone", where=place, fix="choose another --out")


def _subject(artifact: Path, run: Path | None, trust: Trust, reporter: Reporter) -> Subject:
    subject = subject_of_artifact(artifact, trust)
    if run is None and source_folder(subject.exports[0].artifact) is None:
        raise BadInputError("does not lie in its run", where=artifact, fix="pass the run it comes from with --run")
    if run is None or subject.evidence is not None:
        return subject
    return replace(subject_of_run(run, reporter), exports=subject.exports)


def _hashes(subject: Subject, check: Check, file: CriteriaFile) -> dict[str, Any]:
    """SHA-256 of everything that the verdict stands on, and what made it."""
    artifact, evidence = check.artifact, subject.evidence
    run = {} if evidence is None else _files_of(evidence.run.folder)
    data = {"checked images": check.prepared.data_digest()}
    if evidence is not None:
        data["images of the run"] = evidence.run.config.data_digest
    return {
        "criteria": file.sha256,
        "data": data,
        "run": run,
        **({} if evidence is None or evidence.record.start_sha256 is None else {"start": evidence.record.start_sha256}),
        "artifact": {**_files_of(artifact.folder), **_plain(artifact.manifest.files)},
        "environment": {name: value for name, value in provenance().items() if name != "finished"},
        "commands": dict(_commands(subject)),
    }


def _files_of(folder: Path) -> dict[str, Any]:
    """The files right in a folder."""
    found = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    return _plain({path.name: FileRecord(sha256=files.sha256(path), size=path.stat().st_size) for path in found})


def _plain(records: dict[str, FileRecord]) -> dict[str, Any]:
    return {name: record.model_dump() for name, record in records.items()}


def _commands(subject: Subject) -> Iterator[tuple[str, str]]:
    if subject.evidence is not None:
        more = subject.evidence.record.model_extra or {}
        yield "train", str(more.get("command", "not recorded"))
    yield "dossier", hardware.command()


def _write(found: _Found, folder: Path) -> None:
    files.write_bytes(folder / CRITERIA, found.file.content)
    files.write_json(folder / VERIFY_JSON, as_dict(found.check, acceptance=found.acceptance))
    write_report(found.check, folder / VERIFY_PAGE, acceptance=found.acceptance)
    files.write_json(folder / HASHES, found.hashes)
    files.write_text(folder / BOM, model_bom(found.subject, _facts(found)))
    document = _document(found)
    files.write_text(folder / MARKDOWN, to_markdown(document))
    files.write_text(folder / PAGE, to_page(document))


def _facts(found: _Found) -> dict[str, str]:
    data = {f"data:{name}": digest for name, digest in found.hashes["data"].items()}
    source = found.check.artifact.manifest.source
    return {
        "result": found.result,
        "criteria-sha256": found.file.sha256,
        "weights-sha256": source.weights_sha256,
        "config-digest": source.config_digest,
        **({"start-sha256": found.hashes["start"]} if "start" in found.hashes else {}),
        **data,
    }


def _document(found: _Found) -> Document:
    subject = found.subject
    return Document(
        title=f"Dossier of {subject.name}: {subject.words}",
        lead=found.lead,
        command=hardware.command(),
        facts=f"ttl-deploy {__version__}, {hardware.library_words()}, on {hardware.describe().name}",
        sections=(
            section(found.acceptance),
            _contents(signed=found.signed),
            *model_report.sections(subject, prefix="m1", level=2),
            *_evidence(found),
        ),
        cards=(Card("Verdict", found.result, "by the criteria"), *answer.cards(subject)),
    )


def _contents(*, signed: bool) -> Section:
    rows = [
        (CRITERIA, "the criteria, byte for byte"),
        (VERIFY_PAGE, f"the check itself; {VERIFY_JSON} has the same for programs"),
        (HASHES, "SHA-256 of data, run and artifact; machine, versions and commands"),
        (BOM, "bill of materials, CycloneDX 1.6: the model with its card, and every package with version and licence"),
    ]
    if signed:
        rows.append((signing.SIGNATURE, "signature over all files of this folder, in OpenSSF's model-signing format"))
    return Section("What is in this folder", (), (Table(("file", "what"), tuple(rows), words=(0, 1)),))


def _evidence(found: _Found) -> Iterator[Section]:
    hashes = found.hashes
    data = tuple((name, digest) for name, digest in hashes["data"].items())
    kept = tuple(
        (where, name, f"{record['size']:,}", record["sha256"])
        for where in ("run", "artifact")
        for name, record in sorted(hashes[where].items())
    )
    tables = (
        Table(("images", "SHA-256 over contents, labels and patients"), data, words=(0, 1)),
        Table(
            ("of", "file", "bytes", "SHA-256"),
            kept,
            f"Files as they are now; {MANIFEST} is the artifact's own",
            (0, 1, 3),
        ),
    )
    commands = tuple(hashes["commands"].items())
    made = Table(("step", "command"), commands, "The commands that made them", (0, 1))
    yield Section("Hashes and commands", (), (*tables, made))
