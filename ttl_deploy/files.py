"""Durable files: what this package writes is whole or absent, and the old version stays until the new one stands.

Atomic writes go through a temporary sibling, fsync and rename; folders likewise. The sibling's name says whose it is,
so that what a killed process left is known and put right by the next one (`recover`). Failures of the disk become
`StorageError`.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ttl_deploy.errors import BadInputError, StorageError

UNDECODED = "surrogateescape"
"""How text files are written and read that hold names of files: as Python holds names that are no UTF-8."""

_FORGOTTEN = 24 * 3600
"""Seconds after which a leftover of another machine, whose processes cannot be seen here, counts as abandoned."""


_SIBLING = re.compile(r"\.(?P<name>.+)\.(?:(?P<machine>\w+)-(?P<process>\d+)-)?[0-9a-f]{8}\.(?:tmp|old)", re.DOTALL)
"""Names that `_sibling` makes; those of earlier versions say no process."""

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""How a file system says that it has none."""

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""How text begins that a spreadsheet may take for a formula (OWASP, "CSV Injection"), after our own mark or not."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's write failures into a `StorageError` that names the path as the user knows it."""
    try:
        yield
    except OSError as error:
        if error.errno in StorageError.REASONS:
            raise StorageError.of(error, _failed(error, path)) from error
        if not _about(error, path):
            raise
        reason = (error.strerror or str(error)).lower()
        raise StorageError(
            f"cannot be written: {reason}", where=users_path(path), fix="choose another place"
        ) from error


def _about(error: OSError, path: Path) -> bool:
    """Whether an error is about a path, its temporary sibling, or a folder that it lies in."""
    names = [users_path(Path(name)) for name in (error.filename, error.filename2) if isinstance(name, str)]
    wanted = users_path(path)
    return any(name == wanted or name in wanted.parents for name in names)


def users_path(path: Path) -> Path:
    """A path without the temporary siblings in it: where the file shall be in the end."""
    return Path(*map(_users_name, path.parts))


def _users_name(name: str) -> str:
    """A sibling may be one of a sibling's."""
    while found := _SIBLING.fullmatch(name):
        name = found["name"]
    return name


def _failed(error: OSError, path: Path) -> Path:
    """What could not be written: the file itself, or `path` where the error names none or a folder on the way to it."""
    wanted = users_path(path)
    if not isinstance(error.filename, str | bytes):
        return wanted
    named = users_path(Path(os.fsdecode(error.filename)))
    return wanted if wanted.is_relative_to(named) else named


def open_alone(path: Path) -> IO[bytes] | None:
    """Opens a file to add to it, and makes it where there is none; None where another process holds it so.

    The lock is on the file itself and goes with the process, however that ends. A file system without locks gives none.
    """
    while True:
        handle = path.open("ab")
        if not _locked(handle):
            handle.close()
            return None
        # Between the two steps whoever had it may have removed it.
        if _is_at(handle, path):
            return handle
        handle.close()


def _is_at(handle: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _locked(handle: IO[bytes]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            handle.close()
            raise
    return True


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary sibling to write; renames it over `path` when the block succeeds, removes it when not.

    Raises:
        StorageError: The disk is full, read-only or failing; `path` is as it was.
    """
    temporary = _sibling(path, "tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Writes a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Writes a UTF-8 text file atomically; file names in it that are no UTF-8 keep their bytes."""
    write_bytes(path, content.encode("utf-8", UNDECODED))


def csv_row(cells: Iterable[object]) -> str:
    r"""One row of a CSV that ends in `\n`, quoted where needed, be it a line end of any kind.

    Text that a spreadsheet would run as a formula gets an apostrophe in front, which `plain_cells` takes away again.
    """
    buffer = io.StringIO()
    # Python quotes a carriage return only where the row's own end has one.
    csv.writer(buffer, lineterminator="\r\n").writerow(map(_inert, cells))
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def plain_cells(cells: Iterable[str]) -> list[str]:
    """The cells of a row that `csv_row` made, as they were given."""
    return [cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell for cell in cells]


def _inert(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not _is_number(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()


def write_json(path: Path, content: Any) -> None:
    """Writes JSON with sorted keys, atomically."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False, fix: str | None = None) -> Iterator[Path]:
    """Gives a temporary sibling folder to fill; it takes the place of `path` only when the block succeeds.

    Of two that write to one place with `overwrite`, the later to finish stands, whole; without, the later is refused.

    Raises:
        BadInputError: `path` exists and `overwrite` is false.
        StorageError: The disk is full, read-only or failing; what was at `path` is still there.
    """
    with staged_folder(path, overwrite=overwrite, fix=fix) as temporary:
        temporary.mkdir(parents=True)
        yield temporary


@contextmanager
def staged_folder(path: Path, *, overwrite: bool = False, fix: str | None = None) -> Iterator[Path]:
    """As `atomic_folder`, for a block that makes the folder itself."""
    refuse_existing(path, overwrite=overwrite, fix=fix)
    temporary = _sibling(path, "tmp")
    with disk_errors(path):
        try:
            yield temporary
            _sync_tree(temporary)
            replace_folder(temporary, path, overwrite=overwrite)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path, *, overwrite: bool, option: str = "--out", fix: str | None = None) -> None:
    """Raises `BadInputError` where `path` holds something and `overwrite` is false.

    Args:
        path: A file or folder.
        overwrite: Whether it may be replaced.
        option: What named it.
        fix: The way out, for commands without --overwrite.
    """
    with disk_errors(path):
        recover(path)
        _refuse(path, overwrite=overwrite, option=option, fix=fix)


def _refuse(path: Path, *, overwrite: bool, option: str = "--out", fix: str | None = None) -> None:
    if overwrite or not path.exists():
        return
    if path.is_dir() and not any(path.iterdir()):
        return
    way_out = fix or f"choose another {option}, or pass --overwrite to replace it"
    raise BadInputError("exists already", where=path, fix=way_out)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files that a killed process left in a folder."""
    for entry in folder.glob(".*.tmp"):
        entry.unlink(missing_ok=True)


def as_path(path: str | Path | None) -> Path | None:
    """What a user of the functions names, as a path."""
    return None if path is None else Path(path)


def exists(path: Path) -> bool:
    """Whether something is there; no path that the system cannot have, such as one too long, is."""
    try:
        return path.exists()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """As `Path.is_file`, of any path; see `exists`."""
    return exists(path) and path.is_file()


def is_folder(path: Path) -> bool:
    """As `Path.is_dir`, of any path; see `exists`."""
    return exists(path) and path.is_dir()


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def replace_folder(new: Path, path: Path, *, overwrite: bool = True) -> None:
    """Puts the folder `new` at `path`; what was there is removed only after the new one stands.

    Raises:
        BadInputError: Something is at `path`, perhaps since a moment ago, and `overwrite` is false.
    """
    old = _sibling(path, "old")
    while True:
        _refuse(path, overwrite=overwrite)
        moved = _moved(path, old)
        try:
            new.rename(path)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                if moved:
                    old.rename(path)
                raise
            # Another process put its own there since: the next round takes that away.
            _remove(old)
    _sync_folder(path.parent)
    _remove(old)


def recover(path: Path) -> None:
    """Puts right what processes that are gone left beside `path`: half-written siblings, and a replacement cut short.

    Between its two renames a replacement has nothing at `path`; what was there before is put back.
    """
    if not path.parent.is_dir():
        return
    for entry in sorted(_leftovers(path), key=_age):
        # A sibling of a sibling begins with two dots; it never stood at `path`.
        if entry.name.startswith(f".{path.name}.") and entry.suffix == ".old" and not path.exists():
            entry.rename(path)
        else:
            _remove(entry)


def recover_within(folder: Path) -> None:
    """Removes what processes that are gone left half-written in a folder, and in the folders in it."""
    for entry in list(folder.rglob(".*.tmp")):
        match = _SIBLING.fullmatch(entry.name)
        if match and _abandoned(entry, match["machine"], match["process"]):
            _remove(entry)


def _sibling(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.{ending}")


def _machine() -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", platform.node())[:32] or "_"


def _leftovers(path: Path) -> list[Path]:
    """Siblings made for `path`, or for one of them, whose process is gone; older versions name no process."""
    found = []
    for entry in path.parent.iterdir():
        match = _SIBLING.fullmatch(entry.name)
        if match and _users_name(entry.name) == path.name and _abandoned(entry, match["machine"], match["process"]):
            found.append(entry)
    return found


def _abandoned(entry: Path, machine: str | None, process: str | None) -> bool:
    import psutil

    if machine != _machine() or process is None:
        return _age(entry) > _FORGOTTEN
    try:
        started: float = psutil.Process(int(process)).create_time()
    except psutil.Error:
        return True
    # A process that started after the entry was last touched only has the number of the one that made it.
    return time.time() - started < _age(entry) - 1


def _age(entry: Path) -> float:
    """Seconds since the entry was last touched; 0 where it has gone meanwhile."""
    try:
        return time.time() - entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _moved(path: Path, old: Path) -> bool:
    try:
        path.rename(old)
        os.utime(old)
    except FileNotFoundError:
        return False
    return True


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    for entry in folder.rglob("*"):
        if entry.is_file():
            with entry.open("rb") as handle:
                os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
