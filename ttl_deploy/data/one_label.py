"""Settles the labels of images that have one class each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ttl_deploy.data.class_names import settle_names, task_of_names, writings
from ttl_deploy.data.listing import Entry, Labelled, Listing
from ttl_deploy.data.values import is_missing, same_value
from ttl_deploy.errors import BadInputError, near
from ttl_deploy.spec import TaskSpec


def settle_one(
    path: Path, listing: Listing, classes: Sequence[str] | None, task: TaskSpec, *, ignore: bool, options: bool
) -> Labelled:
    """The images with the number of their class.

    Args:
        path: For the error.
        listing: The images.
        classes: See `ttl_deploy.data.manifest.read_dataset`.
        task: What the labels mean.
        ignore: Leave out images whose label is not in `classes`.
        options: Whether the command has options for classes, so that an error may name them.

    Raises:
        BadInputError: A label is missing or no class, or a class has no images.
    """
    _refuse_unlabelled(listing, classes, ignore=ignore, options=options)
    listing, told = _one_writing(listing, classes)
    found = {entry.label for entry in listing.entries} | set(listing.empty)
    given = classes if classes is not None else listing.classes
    names = settle_names(path, found, given, fewest=task.fewest_classes, hint=listing.hint)
    entries, left_out = _of_classes(listing.entries, names, ignore=ignore, options=options)
    _refuse_unpopulated(path, listing, entries, names)
    meaning = task_of_names(task, names)
    numbers = {name: meaning.label(name) for name in names}
    return Labelled(meaning, entries, [numbers[entry.label] for entry in entries], left_out, told)


def _refuse_unlabelled(listing: Listing, classes: Sequence[str] | None, *, ignore: bool, options: bool) -> None:
    """A table's `nan` is no class, unless the user names one so."""
    if not listing.is_table or (ignore and classes is not None):
        return
    for entry in listing.entries:
        if is_missing(entry.label) and not any(same_value(name, entry.label) for name in classes or ()):
            how = f"is {entry.label!r}, which says that there is none" if entry.label else "is blank"
            way = "; where it is a class, list all classes with --classes" if entry.label and options else ""
            raise BadInputError(f"the label {how}", where=entry.place, fix=f"fill it in or remove the line{way}")


def _one_writing(listing: Listing, classes: Sequence[str] | None) -> tuple[Listing, tuple[str, ...]]:
    """The listing with one writing per class; and what was merged."""
    counts = Counter(entry.label for entry in listing.entries) + Counter(dict.fromkeys(listing.empty, 1))
    writing, told = writings(counts, classes)
    entries = [replace(e, label=writing[e.label]) if writing[e.label] != e.label else e for e in listing.entries]
    filled = {entry.label for entry in entries}
    empty = tuple(name for name in listing.empty if writing[name] not in filled)
    return replace(listing, entries=entries, empty=empty), told


def _of_classes(
    entries: list[Entry], names: Sequence[str], *, ignore: bool, options: bool
) -> tuple[list[Entry], dict[str, int]]:
    """The images of the classes, and how many of each other label there are."""
    valid = set(names)
    others = Counter(entry.label for entry in entries if entry.label not in valid)
    if others and not ignore:
        other = next(entry for entry in entries if entry.label not in valid)
        way = ", add it to --classes, or pass --ignore-other-labels to leave such images out"
        raise BadInputError(
            f"label {other.label!r} is not one of the classes ({', '.join(names)})",
            where=other.place,
            fix=f"correct it{way if options else ' or remove such images'}",
        )
    return [entry for entry in entries if entry.label in valid], dict(others)


def _refuse_unpopulated(path: Path, listing: Listing, entries: list[Entry], names: Sequence[str]) -> None:
    filled = {entry.label for entry in entries}
    for name in names:
        if name not in filled:
            raise BadInputError(
                f"class {name!r} has no images",
                where=path / name if name in listing.empty and (path / name).is_dir() else path,
                fix=f"add images, or leave the class out; {near(name, sorted({e.label for e in listing.entries}))}",
            )
