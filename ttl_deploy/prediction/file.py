"""A file of predictions that grows row by row and can be gone on with after a crash.

CSV or JSON lines. A last row that was cut short is removed; rows that are whole are kept, checked, and their images
not predicted again. `FILE.meta.json` beside it says what made the rows; another model is refused. One process writes at
a time: the file itself is locked as long as that process lives.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ttl_deploy import documents, files
from ttl_deploy.errors import BadInputError, IntegrityError, TtlDeployError, near, printable
from ttl_deploy.spec import SCHEMA_VERSION, OperatingPoint, PathText, Record, read_record

LINES = ("csv", "jsonl")
_ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl"}
_FLUSH_ROWS = 64
_DECISIVE = (
    *("model_sha256", "files", "preprocess", "classes", "precision"),
    *("activation", "operating_point", "runtime", "device"),
)
"""Fields of `Provenance` that decide a prediction."""

_DOCUMENTS = (".md", ".json")
_ANOTHER = "choose another --out, or pass --overwrite to replace it"


class Writer(Record):
    """A process that adds rows.

    Attributes:
        machine: Its name.
        process: Its number there.
    """

    machine: PathText
    process: int

    @classmethod
    def here(cls) -> Writer:
        """This process."""
        return cls(machine=platform.node(), process=os.getpid())

    def __str__(self) -> str:
        there = f" on {self.machine}" if self.machine != platform.node() else ""
        return f"process {self.process}{there}"

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended; of another machine's nothing is known."""
        import psutil

        return self.machine == platform.node() and not psutil.pid_exists(self.process)


class Provenance(Record):
    """What made the rows of a file.

    Attributes:
        model_sha256: Of the model file.
        files: SHA-256 of every file of the artifact by name: an IR's weights are not in its model file. Empty in files
            of older versions.
        preprocess: Digest of the preprocessing.
        classes: In the order of the columns.
        precision: Of the artifact.
        activation: What its graph ends in; None in files of older versions.
        operating_point: Of the artifact; None where the more probable class is said.
        runtime: The engine.
        device: `cpu` or `cuda`.
        artifact: The artifact's folder when the file was begun.
        hardware: The machine.
        libraries: Versions in use.
        writer: Who added rows last, and may still do so; None in files of older versions.
    """

    schema_version: int = SCHEMA_VERSION
    model_sha256: str
    files: dict[str, str] = Field(default_factory=dict)
    preprocess: str
    classes: tuple[str, ...]
    precision: str
    activation: str | None = None
    operating_point: OperatingPoint | None = Field(default=None, exclude_if=lambda point: point is None)
    runtime: str
    device: str
    artifact: PathText
    hardware: dict[str, Any]
    libraries: dict[str, str]
    writer: Writer | None = None

    def differences(self, other: Provenance) -> list[str]:
        """The fields in which another differs, so that rows of both may not stand in one file.

        Args:
            other: Of this version. What this one, of an older version, did not record is not compared, unless the
                model file alone does not tell the weights.
        """
        names = [name for name in _DECISIVE if getattr(self, name) != getattr(other, name)]
        if self.activation is None:
            names = [name for name in names if name != "activation"]
        if not self.files and not other.weights_elsewhere:
            names = [name for name in names if name != "files"]
        return names

    @property
    def weights_elsewhere(self) -> bool:
        """Whether the artifact keeps more than its model file and documents: an IR's or external weights."""
        parts = [digest for name, digest in self.files.items() if not name.endswith(_DOCUMENTS)]
        return parts != [self.model_sha256]


class PredictionFile:
    """Opens a file to add predictions; use it in `with`.

    Args:
        path: The file.
        lines: `csv` or `jsonl`; None: by the file's ending.
        classes: Class names in the order of the columns.
        has_ids: Whether rows have an id.
        provenance: What makes the rows.
        overwrite: Begin again.

    Raises:
        BadInputError: The file was made by something else, or another process writes to it.
        IntegrityError: A row in it is damaged.
        StorageError: The disk is full, read-only or failing.
    """

    def __init__(
        self,
        path: Path,
        lines: str | None,
        classes: tuple[str, ...],
        has_ids: bool,
        provenance: Provenance,
        *,
        overwrite: bool = False,
    ) -> None:
        self.path = path
        self._meta = path.with_name(f"{path.name}.meta.json")
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no ordinary file"
            raise BadInputError(f"is {kind}", where=path, fix="give --out a file")
        kind = lines or _ENDINGS.get(path.suffix.lower(), "csv")
        if kind not in LINES:
            raise BadInputError(f"a file of predictions cannot be {kind}", where=path, fix=near(kind, LINES))
        self._form: _Csv | _JsonLines = _Csv(classes, has_ids) if kind == "csv" else _JsonLines(classes)
        with files.disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not path.exists()
            self._handle = self._held()
            try:
                self._begin(provenance, overwrite)
            except BaseException:
                if is_new and not path.stat().st_size:
                    path.unlink()
                self._handle.close()
                raise
        self._unflushed = 0

    def take(self, key: str) -> bool:
        """Whether a row of this image is there already; each row answers for one image."""
        return self._done.take(key)

    def write(self, image: str, id: str | None, label: str, probabilities: dict[str, float]) -> None:
        """Adds a row.

        Raises:
            StorageError: The disk is full or failing; the rows before this one stay.
        """
        with files.disk_errors(self.path):
            self._handle.write(self._form.row(image, id, label, probabilities))
            self._unflushed += 1
            if self._unflushed >= _FLUSH_ROWS:
                self._handle.flush()
                self._unflushed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with files.disk_errors(self.path):
            try:
                self._handle.flush()
                os.fsync(self._handle.fileno())
            finally:
                self._handle.close()

    def _held(self) -> IO[bytes]:
        """The file, which no other process adds to while this one has it.

        Raises:
            BadInputError: One does so already.
        """
        handle = files.open_alone(self.path)
        if handle is None:
            raise BadInputError(
                f"{self._holder()} is writing to it", where=self.path, fix="wait for it, or choose another --out"
            )
        return handle

    def _holder(self) -> str:
        try:
            writer = self._recorded().writer
        except (OSError, TtlDeployError):
            writer = None
        return "another process" if writer is None or writer.is_gone else str(writer)

    def _begin(self, provenance: Provenance, overwrite: bool) -> None:
        """Checks what is there and brings it to the end of its last whole row."""
        if overwrite:
            self._handle.truncate(0)
        is_empty = not self.path.stat().st_size
        made_by = provenance if is_empty else self._checked(provenance)
        own = made_by.model_copy(update={"writer": Writer.here()})
        files.recover(self._meta)
        files.write_json(self._meta, own.model_dump(mode="json"))
        self._handle.truncate(_whole(self.path, self._form.quoted))
        is_empty = not self.path.stat().st_size
        self._done = _Done([] if is_empty else self._form.keys(self.path))
        if is_empty:
            self._handle.write(self._form.header())

    def _recorded(self) -> Provenance:
        """What made the rows that are there.

        Raises:
            BadInputError: Nothing says so.
            DamagedError: The record is damaged.
        """
        return read_record(Provenance, documents.read_json(self._meta, fix=_ANOTHER), self._meta, fix=_ANOTHER)

    def _checked(self, provenance: Provenance) -> Provenance:
        """What made the rows that are there, which is the same that makes those to come."""
        if not self._meta.is_file():
            raise BadInputError("exists and was not written by `predict`", where=self.path, fix=_ANOTHER)
        before = self._recorded()
        differing = before.differences(provenance)
        if differing:
            raise BadInputError(
                f"was begun with another model or engine ({before.artifact} in {before.runtime} on {before.device}; "
                f"{', '.join(differing)} differ)",
                where=self.path,
                fix=_ANOTHER,
            )
        return before


class _Csv:
    """A header, then `[id,]image,label` and a probability per class."""

    quoted = True

    def __init__(self, classes: tuple[str, ...], has_ids: bool) -> None:
        self.columns = columns_of(classes, has_ids=has_ids)

    def header(self) -> bytes:
        return csv_line(self.columns)

    def row(self, image: str, id: str | None, label: str, probabilities: dict[str, float]) -> bytes:
        first = (id or "",) if self.columns[0] == "id" else ()
        return csv_line((*first, image, printable(label), *(f"{p:.6f}" for p in probabilities.values())))

    def keys(self, path: Path) -> Iterator[str]:
        with path.open(newline="", encoding="utf-8", errors=files.UNDECODED) as handle:
            reader = csv.reader(handle)
            found = tuple(files.plain_cells(next(reader, ())))
            if found != self.columns:
                raise BadInputError(
                    f"has the columns {','.join(found)}, this command writes {','.join(self.columns)}",
                    where=path,
                    fix=_ANOTHER,
                )
            image = self.columns.index("image")
            for cells in reader:
                if len(cells) != len(self.columns):
                    raise _damaged(path, reader.line_num)
                yield next(filter(None, files.plain_cells((cells[0], cells[image]))), "")


class _JsonLines:
    """An object per line: `id` where there is one, `image`, `label` and `probabilities`."""

    quoted = False

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes

    def header(self) -> bytes:
        return b""

    def row(self, image: str, id: str | None, label: str, probabilities: dict[str, float]) -> bytes:
        return json.dumps(json_record(image, id, label, probabilities)).encode() + b"\n"

    def keys(self, path: Path) -> Iterator[str]:
        with path.open("rb") as handle:
            for number, line in enumerate(handle, 1):
                try:
                    record = json.loads(line)
                    key = record.get("id") or record["image"]
                    good = isinstance(key, str) and tuple(record["probabilities"]) == self._classes
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise _damaged(path, number) from error
                if not good:
                    raise _damaged(path, number)
                yield key


class _Done:
    """Keys of finished rows as 12 bytes each, with how often each may still be skipped."""

    def __init__(self, keys: Iterable[str]) -> None:
        hashes = np.fromiter((_hash(key) for key in keys), dtype=np.uint64)
        self._hashes: NDArray[np.uint64]
        self._hashes, self._left = np.unique(hashes, return_counts=True)
        self._left = self._left.astype(np.int32)

    def take(self, key: str) -> bool:
        if not len(self._hashes):
            return False
        wanted = np.uint64(_hash(key))
        place = int(np.searchsorted(self._hashes, wanted))
        if place == len(self._hashes) or self._hashes[place] != wanted or not self._left[place]:
            return False
        self._left[place] -= 1
        return True


def columns_of(classes: Iterable[str], *, has_ids: bool) -> tuple[str, ...]:
    """Names of the columns of predictions, each once: a class called `id`, `image` or `label` gets `probability_…`."""
    first = (*(("id",) if has_ids else ()), "image", "label")
    columns: list[str] = []
    for name in map(printable, classes):
        while name in ("id", "image", "label", *columns):
            name = f"probability_{name}"
        columns.append(name)
    return (*first, *columns)


def csv_line(cells: Iterable[str]) -> bytes:
    """One row of a CSV, quoted where needed; names that are no UTF-8 keep their bytes."""
    return files.csv_row(cells).encode("utf-8", files.UNDECODED)


def json_record(image: str, id: str | None, label: str, probabilities: dict[str, float]) -> dict[str, Any]:
    """A prediction as it is written in JSON."""
    first = {"id": id} if id is not None else {}
    return {**first, "image": image, "label": label, "probabilities": probabilities}


def _hash(key: str) -> int:
    """64 bits: among a million rows two are equal by chance about once in twenty million files."""
    digest = hashlib.blake2b(key.encode("utf-8", files.UNDECODED), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _whole(path: Path, quoted: bool) -> int:
    """Bytes up to the end of the last row that is whole. A line end inside quotes, where there are any, ends no row."""
    end = position = quotes = 0
    with path.open("rb") as handle:
        for line in handle:
            position += len(line)
            quotes += line.count(b'"') if quoted else 0
            if line.endswith(b"\n") and quotes % 2 == 0:
                end = position
    return end


def _damaged(path: Path, line: int) -> IntegrityError:
    return IntegrityError(
        "the row is damaged", where=f"{path}:{line}", fix="remove the line, or pass --overwrite to begin again"
    )
