"""Durable files: what this package writes is whole or absent, and the old version stays until the new one stands.

Atomic writes go through a temporary sibling, fsync and rename; folders likewise. Failures of the disk become
`StorageError`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ttl_deploy.errors import BadInputError, StorageError


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's write failures into a `StorageError` that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno not in StorageError.REASONS:
            raise
        raise StorageError.of(error, path) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary sibling to write; renames it over `path` when the block succeeds, removes it when not.

    Raises:
        StorageError: The disk is full, read-only or failing; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
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
    """Writes a UTF-8 text file atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Writes JSON with sorted keys, atomically."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary sibling folder to fill; it takes the place of `path` only when the block succeeds.

    Raises:
        BadInputError: `path` exists and `overwrite` is false.
        StorageError: The disk is full, read-only or failing; what was at `path` is still there.
    """
    refuse_existing(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with disk_errors(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            _sync_tree(temporary)
            replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path, *, overwrite: bool, option: str = "--out") -> None:
    """Raises `BadInputError` where `path` holds something and `overwrite` is false; `option` is what named it."""
    if overwrite or not path.exists():
        return
    if path.is_dir() and not any(path.iterdir()):
        return
    raise BadInputError("exists already", where=path, fix=f"choose another {option}, or pass --overwrite to replace it")


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files that a killed process left in a folder."""
    for entry in folder.glob(".*.tmp"):
        entry.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def replace_folder(new: Path, path: Path) -> None:
    """Puts the folder `new` at `path`; what was there is removed only after the new one stands."""
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    moved = path.exists()
    if moved:
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if moved:
            old.rename(path)
        raise
    _sync_folder(path.parent)
    if moved:
        shutil.rmtree(old) if old.is_dir() else old.unlink()


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
