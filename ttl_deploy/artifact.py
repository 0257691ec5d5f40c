"""An artifact's folder: a manifest, the model's files and their hashes, written whole or not at all.

Nothing of an artifact is used before every file is there, of the recorded size and, unless asked otherwise, of the
recorded hash. Hashes in a manifest find damage; who can write a file can write its hash too. Against that there is a
signature (`ttl_deploy.signing`), which covers the manifest and is checked before the manifest is parsed. No torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from shlex import quote
from typing import Any

from ttl_deploy import documents, files, signing
from ttl_deploy.errors import BadInputError, DamagedError, IntegrityError, about
from ttl_deploy.onnx_parts import outside_files
from ttl_deploy.spec import ArtifactManifest, FileRecord, Trust, make_record, read_record
from ttl_deploy.tasks import possible_task

MANIFEST = "manifest.json"

_OF_FILE_MANAGERS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_LEFTOVER = re.compile(rf"\.({re.escape(MANIFEST)}|{re.escape(signing.SIGNATURE)})\.(\w+-\d+-)?[0-9a-f]+\.tmp")
"""What a killed `update_manifest` or `sign` leaves."""

_RUN_CONFIG = "config.yaml"
_AGAIN = "export the run again with `ttl-deploy export`"


@dataclass(frozen=True)
class Artifact:
    """An exported model's folder.

    Attributes:
        folder: Where it is.
        manifest: What it holds.
        trusted: Whether native code in it may run: a key that the user gave has signed it, the user said so, or this
            process made it. See `ttl_deploy.runtime.native`.
        key: Public key that was found to have signed every file; None where none was given.
        identities: What tells the files that were signed from any others; empty without a key.
    """

    folder: Path
    manifest: ArtifactManifest
    trusted: bool = field(default=False, compare=False)
    key: Path | None = field(default=None, compare=False)
    identities: Mapping[str, tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def model_path(self) -> Path:
        """The file a runtime opens."""
        return self.folder / self.manifest.model_file

    def refuse_changed(self) -> None:
        """Raises `IntegrityError` where a signed artifact's files are not those any more whose signature was checked.

        An engine opens files by their names, so between the check and the engine somebody could exchange one.
        """
        if self.identities and self.identities != _identities(self.folder):
            raise IntegrityError("was changed while it was being opened", where=self.folder, fix="run again")


def open_artifact(path: Path, *, verify: bool = True, trust: Trust = Trust()) -> Artifact:
    """Opens an artifact and checks it against its manifest.

    Args:
        path: The folder, or a file of the artifact inside it.
        verify: Whether to hash the files; without, only their presence and size are checked.
        trust: Public key that must have signed every file in the folder, checked before any of them is parsed; and
            whether native code in it may run, whoever made it.

    Raises:
        BadInputError: There is no such folder, it is not an artifact, or the key cannot be used.
        IntegrityError: It is not signed by the key, the manifest is damaged or of a newer schema, a file is missing or
            has changed, or there is a file that the manifest does not list, or that its model reads without that.
        MissingDependencyError: A key was given and the extra `signing` is not installed.
    """
    try:
        folder = _folder_of(path)
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=path) from error
    signer = None if trust.key is None else trust.key.resolve()
    identities = {} if signer is None else _identities(folder)
    signed = None if signer is None else signing.signed_files(folder, signer)
    manifest = _read_manifest(folder / MANIFEST, signed)
    if manifest.model_file not in manifest.files:
        raise IntegrityError(f"does not list its model file {manifest.model_file!r}", where=folder / MANIFEST)
    for name, record in manifest.files.items():
        if signed is not None and signed.get(name) != record.sha256:
            raise IntegrityError(f"lists another {name} than was signed", where=folder / MANIFEST, fix=_AGAIN)
        _check_file(folder, name, record, verify=verify and signed is None)
    _refuse_unlisted(folder, manifest, exactly=signed is not None)
    _refuse_unlisted_weights(folder, manifest)
    return Artifact(folder, manifest, trust.native_code or signed is not None, signer, identities)


def sign(artifact: str | Path, *, key: str | Path, overwrite: bool = False) -> Path:
    """Signs an artifact, manifest and all, so that `open_artifact` with the public key refuses any other.

    Sign last: whatever is written into the folder afterwards, an export over it included, ends the signature.

    Args:
        artifact: The folder. It is checked against its manifest first.
        key: Private elliptic-curve key, PEM.
        overwrite: Whether a signature that is there is replaced.

    Returns:
        The signature's file, `model.sig` in the folder.

    Raises:
        BadInputError: It is signed already, holds a file that belongs to no artifact, or the key cannot be used.
        IntegrityError: The artifact is damaged.
        MissingDependencyError: The extra `signing` is not installed.
        StorageError: The disk is full, read-only or failing; the artifact is as it was.
    """
    opened = open_artifact(Path(artifact))
    for name in (MANIFEST, signing.SIGNATURE):
        files.recover(opened.folder / name)
    _refuse_unlisted(opened.folder, opened.manifest, exactly=True)
    if (opened.folder / signing.SIGNATURE).exists() and not overwrite:
        raise BadInputError("is signed already", where=opened.folder, fix="pass --overwrite to sign it again")
    return signing.sign(opened.folder, Path(key))


def write_artifact(
    folder: Path, fields: Mapping[str, Any], build: Callable[[Path], str], *, overwrite: bool = False
) -> Artifact:
    """Writes an artifact: the folder appears whole, with hashes and manifest, or not at all.

    Args:
        folder: Where it shall be.
        fields: Fields of `ArtifactManifest`; `model_file`, `files` and, if not given, `created` are filled in here.
        build: Writes the model's files into the empty folder it is given; returns the name of the one to open.
        overwrite: Whether an artifact that is there already is replaced. Other folders never are.

    Raises:
        BadInputError: The place is taken, or a field is wrong.
        StorageError: The disk is full, read-only or failing; what was there is still there.
    """
    files.refuse_existing(folder, overwrite=overwrite)
    refuse_foreign(folder)
    with files.atomic_folder(folder, overwrite=overwrite) as temporary:
        model_file = build(temporary)
        manifest = make_record(
            ArtifactManifest,
            **{"created": datetime.now(UTC).isoformat(timespec="seconds"), **fields},
            model_file=model_file,
            files=_records(temporary),
        )
        files.write_json(temporary / MANIFEST, manifest.model_dump(mode="json"))
    return Artifact(folder, manifest, trusted=True)


def update_manifest(artifact: Artifact, **changes: Any) -> Artifact:
    """Replaces fields of the manifest on disk, such as `parity`, atomically; a signature holds no more after that.

    Raises:
        BadInputError: A field is unknown or its value is wrong.
        StorageError: The disk is full, read-only or failing; the old manifest stands.
    """
    manifest = make_record(ArtifactManifest, **{**artifact.manifest.model_dump(), **changes})
    files.write_json(artifact.folder / MANIFEST, manifest.model_dump(mode="json"))
    return replace(artifact, manifest=manifest)


def _folder_of(path: Path) -> Path:
    """The artifact's folder for the folder itself or a file in it."""
    if not path.exists():
        files.recover(path)
    if not path.exists():
        raise BadInputError("no such artifact", where=path, fix="make one with `ttl-deploy export`")
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST).is_file():
        return folder
    if (folder / _RUN_CONFIG).is_file():
        raise BadInputError(
            "is a run", where=folder, fix=f"export it first with `ttl-deploy export {quote(str(folder))}`"
        )
    raise BadInputError(f"is not an artifact (no {MANIFEST})", where=path, fix="make one with `ttl-deploy export`")


def _read_manifest(path: Path, signed: Mapping[str, str] | None) -> ArtifactManifest:
    text = documents.read_bytes(path, most=documents.DATA.bytes, fix=_AGAIN)
    if signed is not None and signed.get(MANIFEST) != hashlib.sha256(text).hexdigest():
        raise IntegrityError("is not the one that was signed", where=path, fix=_AGAIN)
    manifest = read_record(ArtifactManifest, documents.parse_json(text, path, fix=_AGAIN), path, fix=_AGAIN)
    with about(path):
        possible_task(manifest.model, manifest.operating_point)
    return manifest


def _check_file(folder: Path, name: str, record: FileRecord, *, verify: bool) -> None:
    path = folder / name
    try:
        if _escapes(folder, name):
            raise IntegrityError(f"names a file outside the artifact: {name!r:.200}", where=folder / MANIFEST)
        _compare_file(path, record, verify=verify)
    except (OSError, RuntimeError) as error:
        # Of a link to itself Python 3.11 says so in a RuntimeError, later versions in an OSError.
        reason = getattr(error, "strerror", None) or "a link that leads to itself"
        raise DamagedError(f"cannot be read: {reason}", where=f"{path!s:.1000}") from error


def _compare_file(path: Path, record: FileRecord, *, verify: bool) -> None:
    if not path.is_file():
        raise IntegrityError("is missing", where=path, fix=_AGAIN)
    size = path.stat().st_size
    if size != record.size:
        raise IntegrityError(f"has {size} bytes, the manifest says {record.size}", where=path, fix=_AGAIN)
    if verify and files.sha256(path) != record.sha256:
        raise IntegrityError("has changed since the export (its SHA-256 differs)", where=path, fix=_AGAIN)


def _refuse_unlisted(folder: Path, manifest: ArtifactManifest, *, exactly: bool = False) -> None:
    """A file that nothing describes could be one that an engine reads, such as external weights.

    `exactly` tolerates nothing besides the manifest and the signature: what is signed is what was made.
    """
    kit = "kit" in manifest.details
    own = {*manifest.files, MANIFEST, signing.SIGNATURE}
    unlisted = [name for name in _files_in(folder) if name not in own and (exactly or not _tolerated(name, kit=kit))]
    if unlisted:
        more = f" and {len(unlisted) - 1} more" if len(unlisted) > 1 else ""
        raise IntegrityError(
            f"holds {unlisted[0]}{more}, which its manifest does not list",
            where=folder,
            fix="move it out of the artifact's folder",
        )


def _refuse_unlisted_weights(folder: Path, manifest: ArtifactManifest) -> None:
    """An ONNX graph may keep its weights in any file, among them those that are tolerated unlisted or lie elsewhere."""
    for name in manifest.files:
        if not name.endswith(".onnx"):
            continue
        beside = PurePosixPath(name).parent
        for place in outside_files(folder / name):
            if str(beside / place) not in manifest.files:
                raise IntegrityError(
                    f"reads {place!r}, which the manifest does not list", where=folder / name, fix=_AGAIN
                )


def _tolerated(name: str, *, kit: bool) -> bool:
    """Whether a file may lie in an artifact unlisted: file managers leave theirs, and a build kit what it built."""
    path = PurePosixPath(name)
    if path.name in _OF_FILE_MANAGERS or _LEFTOVER.fullmatch(name):
        return True
    return kit and (path.parts[0] in ("artifact", "__pycache__") or name == "timing.cache")


def _files_in(folder: Path) -> list[str]:
    try:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=folder) from error


def _identities(folder: Path) -> dict[str, tuple[int, ...]]:
    """Inode, size and times of change of every file: the last of them cannot be set back by who writes a file."""
    found: dict[str, tuple[int, ...]] = {}
    for name in _files_in(folder):
        try:
            state = (folder / name).stat()
        except OSError as error:
            raise BadInputError(f"cannot be read: {error.strerror}", where=folder / name) from error
        found[name] = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return found


def _escapes(folder: Path, name: str) -> bool:
    """Whether a manifest's path leaves the folder, by its words on any system or through a link."""
    words = (PurePosixPath(name), PureWindowsPath(name))
    if not name or "\0" in name or any(word.anchor or ".." in word.parts for word in words):
        return True
    return not (folder / name).resolve().is_relative_to(folder.resolve())


def refuse_foreign(folder: Path) -> None:
    """`--overwrite` on a mistyped path must not cost a folder that never was an artifact.

    Raises:
        BadInputError: The folder holds something, and no artifact.
    """
    if folder.exists() and not (folder / MANIFEST).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadInputError(
            "is not an artifact and is left alone", where=folder, fix="choose another --out, or remove it yourself"
        )


def record_of(path: Path) -> FileRecord:
    """A file as a manifest lists it."""
    return FileRecord(sha256=files.sha256(path), size=path.stat().st_size)


def _records(folder: Path) -> dict[str, FileRecord]:
    return {
        path.relative_to(folder).as_posix(): record_of(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
