"""Reads a folder with one folder per class, on its own or below `train`, `val` and `test`.

Images are found (`ttl_deploy.image_kinds`) at any depth inside a class; hidden files and folders are ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ttl_deploy.data.items import FileSource
from ttl_deploy.data.listing import SPLIT_NAMES, Entry, Listing
from ttl_deploy.errors import BadInputError
from ttl_deploy.image_kinds import is_image


def read_folder(folder: Path) -> Listing:
    """Lists the images of a folder.

    Raises:
        BadInputError: There are no class folders.
    """
    top = _subfolders(folder)
    if not top:
        raise BadInputError(_nothing(folder), where=folder, fix=_way_out(folder))
    if all(entry.name.lower() in SPLIT_NAMES for entry in top):
        return _listing(folder, [(SPLIT_NAMES[side.name.lower()], _classes_of(side)) for side in top])
    return _listing(folder, [(None, top)])


def _listing(folder: Path, groups: Sequence[tuple[str | None, list[Path]]]) -> Listing:
    entries = [
        Entry(
            id=path.relative_to(folder).as_posix(),
            label=class_folder.name,
            patient=None,
            split=split,
            source=FileSource(path),
            place=str(path),
        )
        for split, class_folders in groups
        for class_folder in class_folders
        for path in _images(class_folder)
    ]
    filled = {entry.label for entry in entries}
    named = {class_folder.name for _, class_folders in groups for class_folder in class_folders}
    return Listing(entries, empty=tuple(sorted(named - filled)), hint=_way_out(folder))


def _classes_of(side: Path) -> list[Path]:
    class_folders = _subfolders(side)
    if not class_folders:
        raise BadInputError(_nothing(side), where=side, fix="give each side one folder per class")
    return class_folders


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and is_image(path):
                yield path


def _nothing(folder: Path) -> str:
    loose = sum(not entry.name.startswith(".") and entry.is_file() and is_image(entry) for entry in folder.iterdir())
    return f"has {loose} images but no class folders" if loose else "has no class folders"


def _way_out(folder: Path) -> str:
    tables = sorted(entry.name for entry in folder.glob("*.csv"))
    if tables:
        return f"pass the table instead: {folder / tables[0]}"
    return "put the images of each class into a folder of its name, or pass a CSV with the columns path and label"
