"""Reads a folder with one folder per class, on its own, below folders for the sides, or with those inside.

Images are found (`ttl_deploy.inputs.reading`) at any depth inside a class, through links too: a linked folder is
read once, and a link to a folder around it not at all. What systems and tools leave behind is no class and no image.
Where volumes are read, a folder that holds the slices of a series is one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ttl_deploy.data.items import source_at
from ttl_deploy.data.listing import Entry, Listing, side_of
from ttl_deploy.errors import BadInputError
from ttl_deploy.inputs.image_kinds import kind_of
from ttl_deploy.inputs.reading import READERS, Reader

_LEFTOVERS = frozenset(
    {
        "__macosx",
        "__pycache__",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "#recycle",
        "#snapshot",
        "~snapshot",
        "thumbs.db",
        "desktop.ini",
        "icon\r",
    }
)
"""What Windows, macOS, Linux and network disks leave in folders, in lower case; names with a dot or an @ in front
(`.DS_Store`, `.ipynb_checkpoints`, Synology's `@eaDir`) besides."""


class _ClassFolder(NamedTuple):
    """A folder with the images of one class, of one side where the input has sides."""

    label: str
    split: str | None
    path: Path


def read_folder(folder: Path, kind: str = "image") -> Listing:
    """Lists the images of a folder.

    Args:
        folder: The folder.
        kind: Of the inputs that are sought, as in `InputSpec`.

    Raises:
        BadInputError: There are no class folders, or folders of sides lie beside others.
    """
    top, reader = _subfolders(folder), READERS[kind]
    if not top:
        raise BadInputError(_nothing(folder, reader), where=folder, fix=_way_out(folder))
    sides = [entry for entry in top if side_of(entry.name)]
    if sides and len(sides) < len(top):
        raise _question(folder, sides, [entry for entry in top if entry not in sides])
    if sides:
        # Training images alone are no division yet.
        divided = any(side_of(entry.name) != "train" for entry in sides)
        groups = [
            _ClassFolder(c.name, side_of(s.name) if divided else None, c) for s in sides for c in _classes_of(s, reader)
        ]
        return _listing(folder, groups, kind)
    inside = [_ClassFolder(c.name, side_of(s.name), s) for c in top for s in _subfolders(c)]
    if len(top) > 1 and all(c.split for c in inside) and {c.label for c in inside} == {c.name for c in top}:
        return _listing(folder, inside, kind)
    return _listing(folder, [_ClassFolder(c.name, None, c) for c in top], kind)


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden, or what systems and tools leave behind, and so no part of a data set."""
    return name.startswith((".", "@")) or name.casefold() in _LEFTOVERS


def real_folder(path: str | Path) -> tuple[int, int]:
    """What tells a folder from others, however it is reached."""
    facts = os.stat(path)  # noqa: PTH116 - a million Path objects are slow
    return facts.st_dev, facts.st_ino


def _listing(folder: Path, groups: Sequence[_ClassFolder], kind: str) -> Listing:
    reader = READERS[kind]
    passed: Counter[str] = Counter(_kind(entry) for entry in folder.iterdir() if not entry.is_dir())
    passed.update("system folder" for entry in folder.iterdir() if entry.is_dir() and is_leftover(entry.name))
    entries = [
        Entry(
            id=path.relative_to(folder).as_posix(),
            label=group.label,
            patient=None,
            split=group.split,
            source=source_at(path, kind),
            place=str(path),
        )
        for group in groups
        for path in _images(group.path, passed, reader)
    ]
    if not entries and passed:
        what = f"has no {reader.called}: passed over, {', '.join(f'{n} {kind}' for kind, n in sorted(passed.items()))}"
        raise BadInputError(what, where=folder, fix=reader.given)
    filled = {entry.label for entry in entries}
    empty = tuple(sorted({group.label for group in groups} - filled))
    return Listing(entries, empty=empty, hint=_inside(groups) or _way_out(folder), passed_over=dict(passed))


def _classes_of(side: Path, reader: Reader) -> list[Path]:
    class_folders = _subfolders(side)
    if not class_folders:
        alone = next((e for e in _subfolders(side.parent) if side_of(e.name) == "train" and e != side), None)
        instead = f", or pass {alone} alone and let it be divided" if alone is not None else ""
        raise BadInputError(_nothing(side, reader), where=side, fix=f"give each side one folder per class{instead}")
    return class_folders


def _question(folder: Path, sides: Sequence[Path], others: Sequence[Path]) -> BadInputError:
    """Whether `test` beside `lesion` is a class or a side only the user knows."""
    named, besides = (", ".join(entry.name for entry in some[:5]) for some in (sides, others))
    return BadInputError(
        f"{named} {'is a side' if len(sides) == 1 else 'are sides'} of a division, {besides} beside "
        f"{'it is' if len(sides) == 1 else 'them'} not",
        where=folder,
        fix=f"move {besides} elsewhere where the sides are meant; where all are classes, pass a CSV with the columns "
        "path and label",
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_leftover(entry.name))


def _images(folder: Path, passed: Counter[str], reader: Reader) -> Iterator[Path]:
    """The images of a class in the order of their names; counts what is passed over."""
    around = {real_folder(above) for above in (folder.absolute(), *folder.absolute().parents)}
    seen = {real_folder(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        whole, kept = reader.is_folder(Path(parent)), []
        if whole:
            yield Path(parent)
        for name in sorted(folders):
            identity = real_folder(Path(parent, name))
            if is_leftover(name):
                passed["system folder"] += 1
            elif identity in seen or identity in around:
                passed["folder linked twice or around itself"] += 1
            else:
                seen.add(identity)
                kept.append(name)
        folders[:] = kept
        for name in sorted(names):
            path = Path(parent, name)
            if _is_image(path, reader):
                yield path
            elif not whole:
                passed[_kind(path)] += 1


def _refuse(error: OSError) -> None:
    reason = f"cannot be read: {(error.strerror or str(error)).lower()}"
    raise BadInputError(reason, where=error.filename, fix="give it back or move it elsewhere") from error


def _is_image(path: Path, reader: Reader) -> bool:
    return not is_leftover(path.name) and path.is_file() and reader.is_file(path)


def _kind(path: Path) -> str:
    """What a file that is no image of the set is called when it is passed over."""
    if not path.exists():
        return "broken link"
    if is_leftover(path.name):
        return "hidden or system file"
    return kind_of(path)


def _nothing(folder: Path, reader: Reader) -> str:
    loose = sum(_is_image(entry, reader) for entry in folder.iterdir())
    return f"has {loose} images but no class folders" if loose else "has no class folders"


def _inside(groups: Sequence[_ClassFolder]) -> str:
    """The way out where the set lies one folder deeper."""
    if len(groups) == 1 and len(_subfolders(groups[0].path)) > 1:
        return f"where the classes lie inside, pass {groups[0].path}"
    return ""


def _way_out(folder: Path) -> str:
    tables = sorted(entry.name for entry in folder.glob("*.csv"))
    if tables:
        return f"pass the table instead: {folder / tables[0]}"
    return "put the images of each class into a folder of its name, or pass a CSV with the columns path and label"
