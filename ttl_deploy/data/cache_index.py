"""The index of a pixel cache: which content is in which row, and which file had which content when it was last seen.

An SQLite file; what it says is committed only after the rows it names are on disk. Used under the cache's lock.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ttl_deploy.errors import IntegrityError

_VERSION = 1

_TABLES = f"""
CREATE TABLE IF NOT EXISTS pixels (digest TEXT PRIMARY KEY, position INTEGER NOT NULL UNIQUE) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""

_DISK_FAILURES = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_BUSY: errno.EACCES,
    sqlite3.SQLITE_LOCKED: errno.EACCES,
    sqlite3.SQLITE_IOERR: errno.EIO,
}
"""The operating system's number for SQLite's failures that are no damage of the file."""


class CacheIndex:
    """An open index.

    Args:
        path: The SQLite file; made where it is missing.

    Raises:
        IntegrityError: From any method: the file is damaged or of another version.
        OSError: From any method: the disk is full, read-only or failing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._told():
            self._connection = sqlite3.connect(path)
        try:
            self._check()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Closes the file; what was not committed is dropped."""
        self._connection.close()

    def digest(self, path: str, stamp: str) -> str | None:
        """Content digest of a file, unless it changed since it was last seen."""
        with self._told():
            query = "SELECT digest FROM files WHERE path = ? AND stamp = ?"
            found = self._connection.execute(query, (_stored(path), stamp)).fetchone()
        return None if found is None else str(found[0])

    def row(self, digest: str) -> int | None:
        """Row of a content, if it is there."""
        with self._told():
            found = self._connection.execute("SELECT position FROM pixels WHERE digest = ?", (digest,)).fetchone()
        return None if found is None else int(found[0])

    def next_row(self) -> int:
        """The first row after all that are named."""
        with self._told():
            found = self._connection.execute("SELECT max(position) FROM pixels").fetchone()
        return 0 if found[0] is None else int(found[0]) + 1

    def commit(self, rows: Mapping[str, int], files: Iterable[tuple[str, str, str]]) -> None:
        """Adds rows by digest, and files as (path, stamp, digest), all or none of them.

        Of a study whose end was lost, the beginning may be named still: it is named anew.
        """
        with self._told(), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO pixels VALUES (?, ?)", rows.items())
            stored = ((_stored(path), stamp, digest) for path, stamp, digest in files)
            self._connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", stored)

    def forget_from(self, row: int) -> int:
        """Drops the rows from one on; gives how many there were."""
        with self._told(), self._connection:
            return self._connection.execute("DELETE FROM pixels WHERE position >= ?", (row,)).rowcount

    def _check(self) -> None:
        with self._told():
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise IntegrityError(f"is of version {version}, not {_VERSION}", where=self._path)
            if version == 0:
                self._connection.executescript(_TABLES)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Sorts SQLite's failures into those of the disk and damage."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            # Extended codes keep the primary code in their low byte.
            number = _DISK_FAILURES.get((getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF)
            if number is not None:
                raise OSError(number, os.strerror(number), str(self._path)) from error
            raise IntegrityError(f"is damaged ({error})", where=self._path, fix="delete its folder") from error


def _stored(path: str) -> str | bytes:
    """A path as SQLite can hold it: text, or its bytes where they are no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path
