"""What a reader finds before the classes are settled: one entry per image, with its label as written.

A reader turns one kind of input into a `Listing`; `ttl_deploy.data.manifest` does everything that is common to all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ttl_deploy.data.items import ImageSource, MaskSource
from ttl_deploy.tasks import Label, Task

SIDE_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "devel": "val",
    "development": "val",
    "test": "test",
    "testing": "test",
}
"""What data sets call the sides of their own division, and what they are called here."""

_OF_WHAT = ("", "set", "data", "split", "images", "imgs")


@dataclass(frozen=True, slots=True)
class Entry:
    """An image as a reader found it.

    Attributes:
        id, patient, split, source, slices: See `ttl_deploy.data.items.Item`.
        label: Class name; of a task with several, their names as `ttl_deploy.tasks.multilabel` writes them.
        place: What an error about the label names: a file and line, or the image.
        mask: Where its label is a mask, that.
    """

    id: str
    label: str
    patient: str | None
    split: str | None
    source: ImageSource
    place: str
    mask: MaskSource | None = None
    slices: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Listing:
    """All images of an input.

    Attributes:
        entries: The images.
        empty: Classes that the input names but has no images of.
        hint: What to do when it has fewer than two classes.
        columns: The column of a table that each role (`path`, `label`, `patient`, `split`) was read from.
        unused: The other columns.
        passed_over: What else lies in a folder, by kind, and how many.
        told: What else was understood, a sentence each.
        notes: See `ttl_deploy.data.items.Interpretation`.
        classes: The labels, where the input has them all, such as in a column each.
        separator: What stands between labels, where the user says it.
        is_table: Whether labels are cells, where `nan` means that there is none.
    """

    entries: list[Entry]
    empty: tuple[str, ...] = ()
    hint: str = "a classifier needs at least two classes"
    columns: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    separator: str | None = None
    is_table: bool = False


@dataclass(frozen=True)
class Labelled:
    """The images of a listing that are used, with their labels settled.

    Attributes:
        task: What the labels mean.
        entries: The images.
        labels: The label of each, as the task has it.
        left_out: Images left out by their label, by label.
        told: What was merged or left out, a sentence each.
        notes: See `ttl_deploy.data.items.Interpretation`.
    """

    task: Task
    entries: list[Entry]
    labels: list[Label]
    left_out: Mapping[str, int] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def side_of(name: str) -> str | None:
    """The side that a folder or a cell names, such as `Training`, `test_set` or `DEV`; None where it names none."""
    word, *rest = re.split(r"[\s_-]+", name.strip().casefold(), maxsplit=1)
    if not rest:
        whole = next((w for w in SIDE_WORDS for more in _OF_WHAT if word == w + more), word)
        return SIDE_WORDS.get(whole)
    return SIDE_WORDS.get(word) if rest[0] in _OF_WHAT else None
