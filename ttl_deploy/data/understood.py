"""What was understood of a data set, told before anything is trained: classes, sides, patients, columns, oddities.

A wrong column, a lost side or a copied image is seen at a glance here and nowhere later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict

from ttl_deploy import documents, files
from ttl_deploy.data.cache import Cached
from ttl_deploy.data.items import Dataset, Interpretation, Item
from ttl_deploy.progress import Reporter
from ttl_deploy.spec import Record, read_record
from ttl_deploy.tasks import UNKNOWN

_SHOWN = 3
"""How many images a line names."""

_RECORDED = 20
"""How many images the record names."""

_CLASSES_SHOWN = 20
"""How many classes the table has; the record has all."""

ALL = ""
"""In place of a class: all of them."""

_NO_LABEL = "no label"
"""In place of the label of an image of which nobody said one."""

_SIDES = ("train", "val", "test")


class _Columns(Record):
    """What is read back of a record of `Understood`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    columns: dict[Literal["path", "label", "patient", "split", "slices"], str]


@dataclass(frozen=True)
class Understood:
    """A data set as it was understood.

    Attributes:
        path: What was read.
        images: By class and side; one with several labels counts for each of them, and once for `ALL`.
        patients: Different patients by class and side. The class `ALL` is every class, the side `all` every side.
        unknown: Images without a patient.
        reading: Columns, files passed over, labels left out, writings merged.
        unreadable: How many images were left out because they cannot be read.
        constant: Ids of the images whose pixels are all the same.
        identical: Ids of images with the same pixels, a group each.
        contradicting: Of these the groups that are labelled differently, as (id, label).
        doubtful: Of how many images a label is not known, by label.
    """

    path: Path
    images: Mapping[str, Mapping[str, int]]
    patients: Mapping[str, Mapping[str, int]]
    unknown: int
    reading: Interpretation
    unreadable: int
    constant: tuple[str, ...]
    identical: tuple[tuple[str, ...], ...]
    contradicting: tuple[tuple[tuple[str, str], ...], ...]
    doubtful: Mapping[str, int] = field(default_factory=dict)

    def tell(self, reporter: Reporter) -> None:
        """Says it: a table, then what may be wrong."""
        reporter.info("\n".join(self.lines()))
        for warning in self.warnings():
            reporter.warn(warning)

    def lines(self) -> Iterator[str]:
        """The table, as lines of text."""
        total = self.images[ALL]["all"]
        yield f"understood {self.path}: {total:,} images, {_classes(len(self.images) - 1)}"
        yield from _aligned(self._rows())
        reading = self.reading
        if reading.columns:
            used = ", ".join(f"{role} from {name}" for role, name in reading.columns.items())
            yield f"  columns: {used}" + (f"; not used: {', '.join(reading.unused)}" if reading.unused else "")
        elif reading.unused:
            yield f"  not used: {', '.join(reading.unused)}"
        yield from (f"  {note}" for note in reading.notes)
        if reading.passed_over:
            yield f"  passed over: {_counted(reading.passed_over)}"
        if reading.left_out:
            yield f"  left out by their label: {_counted(reading.left_out)}"
        if self.unreadable:
            yield f"  left out as unreadable: {self.unreadable:,}"
        if self.identical:
            copies = sum(len(group) for group in self.identical)
            some = _named(self.identical, lambda group: " = ".join(group[:_SHOWN]))
            yield f"  identical: {copies:,} images, {len(self.identical):,} contents ({some})"

    def warnings(self) -> Iterator[str]:
        """What may be wrong, a sentence each."""
        yield from self.reading.merged
        if self.constant:
            named = _named(self.constant, str)
            yield f"{len(self.constant):,} of {self.images[ALL]['all']:,} images are one colour all over: {named}"
        if self.contradicting:
            count = sum(len(group) for group in self.contradicting)
            pairs = _named(self.contradicting, _with_labels)
            yield f"{count:,} images are the same as one with another label: {pairs}"

    def record(self) -> dict[str, Any]:
        """The same for machines; long lists of images are cut and counted."""
        return {
            "path": str(self.path),
            "classes": {
                name: {"images": dict(sides), "patients": dict(self.patients[name])}
                for name, sides in self.images.items()
                if name != ALL
            },
            "images": dict(self.images[ALL]),
            "patients": dict(self.patients[ALL]),
            "without_patient": self.unknown,
            "columns": dict(self.reading.columns),
            "columns_not_used": list(self.reading.unused),
            "passed_over": dict(self.reading.passed_over),
            "other_labels": dict(self.reading.left_out),
            "merged": list(self.reading.merged),
            **({"notes": list(self.reading.notes)} if self.reading.notes else {}),
            **({"unknown_labels": dict(self.doubtful)} if self.doubtful else {}),
            "unreadable": self.unreadable,
            "constant": {"images": len(self.constant), "some": list(self.constant[:_RECORDED])},
            "identical": {
                "images": sum(len(group) for group in self.identical),
                "contents": len(self.identical),
                "some": [list(group[:_RECORDED]) for group in self.identical[:_RECORDED]],
            },
            "contradicting": {
                "images": sum(len(group) for group in self.contradicting),
                "contents": len(self.contradicting),
                "some": [[list(pair) for pair in group[:_RECORDED]] for group in self.contradicting[:_RECORDED]],
            },
        }

    def _rows(self) -> Iterator[tuple[str, ...]]:
        """Images by class and side; patients, and how often a label is unknown, beside them where there are any."""
        sides = [side for side in _SIDES if self.images[ALL].get(side)]
        known = self.patients[ALL]["all"] > 0
        unknown = ("unknown",) if self.doubtful else ()
        yield ("class", "images", *(("patients",) if known else ()), *sides, *unknown)
        names = [name for name in self.images if name != ALL]
        for name in [*names[:_CLASSES_SHOWN], ALL]:
            counts, owners = self.images[name], self.patients[name]
            patients = (f"{owners['all']:,}",) if known else ()
            doubt = (f"{self.doubtful.get(name, 0):,}" if name else "",) if unknown else ()
            by_side = (f"{counts.get(side, 0):,}" for side in sides)
            yield (name or "all", f"{counts['all']:,}", *patients, *by_side, *doubt)
        if known:
            nothing = ("",) if unknown else ()
            yield ("patients", "", f"{owners['all']:,}", *(f"{owners.get(side, 0):,}" for side in sides), *nothing)


def understand(dataset: Dataset, sides: Sequence[str], cached: Cached) -> Understood:
    """Counts a data set and looks for what may be wrong in it.

    Args:
        dataset: The images that could be read; of some nobody may have said a label.
        sides: The side of each.
        cached: Their pixels and contents.
    """
    items = dataset.items
    task, labels = dataset.task, dataset.labels
    unlabelled = [item.label == task.unlabelled for item in items]
    texts = [_NO_LABEL if no else task.text(item.label) or "none" for item, no in zip(items, unlabelled, strict=True)]
    names = [
        [_NO_LABEL] if no else [task.classes[k] for k in np.flatnonzero(row)]
        for row, no in zip(task.members(labels), unlabelled, strict=True)
    ]
    groups = _identical(items, texts, cached.contents())
    return Understood(
        path=dataset.path,
        images=_count(dataset.classes, names, sides, items, len),
        patients=_count(dataset.classes, names, sides, items, _patients),
        unknown=sum(item.patient is None for item in items),
        reading=dataset.reading,
        unreadable=len(cached.unreadable),
        constant=tuple(items[i].id for i in np.flatnonzero(cached.constant())),
        identical=tuple(tuple(name for name, _ in group) for group in groups),
        contradicting=tuple(group for group in groups if len({label for _, label in group}) > 1),
        doubtful=_doubtful(dataset),
    )


def write_understood(path: Path, understood: Understood) -> None:
    """Writes the record.

    Raises:
        StorageError: The disk is full, read-only or failing.
    """
    files.write_json(path, understood.record())


def read_columns(path: Path) -> dict[str, str]:
    """The column of each role in a record; nothing where there is no record, as in runs of earlier versions.

    Raises:
        DamagedError: The record is damaged.
    """
    if not path.exists() and not path.is_symlink():
        return {}
    fix = "restore it, or remove it: the columns are then found by their names"
    content = documents.read_object(path, "record of the data", fix=fix)
    return {str(role): name for role, name in read_record(_Columns, content, path, fix=fix).columns.items()}


def _classes(count: int) -> str:
    return f"{count} class{'' if count == 1 else 'es'}"


def _doubtful(dataset: Dataset) -> dict[str, int]:
    """Of how many images that have a known label another is not known, by label."""
    if not dataset.task.SEVERAL:
        return {}
    labels = dataset.labels
    unknown = (labels[dataset.task.known(labels)] == UNKNOWN).sum(axis=0)
    return {name: int(count) for name, count in zip(dataset.classes, unknown, strict=True) if count}


def _count(
    classes: Sequence[str],
    names: Sequence[Sequence[str]],
    sides: Sequence[str],
    items: Sequence[Item],
    count: Callable[[Sequence[Item]], int],
) -> dict[str, dict[str, int]]:
    members: dict[str, dict[str, list[Item]]] = {name: defaultdict(list) for name in (*classes, ALL)}
    for of_image, side, item in zip(names, sides, items, strict=True):
        for row in (*(members.setdefault(name, defaultdict(list)) for name in of_image), members[ALL]):
            row[side].append(item)
            row["all"].append(item)
    return {name: {"all": 0, **{side: count(found) for side, found in row.items()}} for name, row in members.items()}


def _patients(items: Sequence[Item]) -> int:
    return len({item.patient for item in items if item.patient is not None})


def _identical(
    items: Sequence[Item], texts: Sequence[str], contents: Sequence[str]
) -> list[tuple[tuple[str, str], ...]]:
    """(id, label) of the images that share their pixels with another."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for item, text, content in zip(items, texts, contents, strict=True):
        found[content].append((item.id, text))
    return [tuple(group) for group in found.values() if len(group) > 1]


def _aligned(rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    cells = list(rows)
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for first, *numbers in cells:
        right = "  ".join(number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True))
        yield f"  {first.ljust(widths[0])}  {right}".rstrip()


def _counted(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind or 'blank'}" for kind, count in sorted(kinds.items(), key=lambda kind: -kind[1]))


def _with_labels(group: Sequence[tuple[str, str]]) -> str:
    """An image of each label."""
    first: dict[str, str] = {}
    for name, label in group:
        first.setdefault(label, name)
    return " = ".join(f"{name} ({label})" for label, name in first.items())


def _named(groups: Sequence[Any], word: Callable[[Any], str]) -> str:
    more = f" and {len(groups) - _SHOWN:,} more" if len(groups) > _SHOWN else ""
    return "; ".join(word(group) for group in groups[:_SHOWN]) + more
