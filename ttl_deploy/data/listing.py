"""What a reader finds before the classes are settled: one entry per image, with its label as written.

A reader turns one kind of input into a `Listing`; `ttl_deploy.data.manifest` does everything that is common to all.
"""

from __future__ import annotations

from dataclasses import dataclass

from ttl_deploy.data.items import ImageSource

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""What data sets call the sides of their own division, and what they are called here."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An image as a reader found it.

    Attributes:
        id, patient, split, source: See `ttl_deploy.data.items.Item`.
        label: Class name.
        place: What an error about the label names: a file and line, or the image.
    """

    id: str
    label: str
    patient: str | None
    split: str | None
    source: ImageSource
    place: str


@dataclass(frozen=True)
class Listing:
    """All images of an input.

    Attributes:
        entries: The images.
        empty: Classes that the input names but has no images of.
        has_patients: Whether the input has a place for patients, filled or not.
        hint: What to do when it has fewer than two classes.
    """

    entries: list[Entry]
    empty: tuple[str, ...] = ()
    has_patients: bool = False
    hint: str = "a classifier needs at least two classes"
