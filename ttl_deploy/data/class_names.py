"""The names of classes: found or given, in their order, each in one writing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ttl_deploy.data.values import merged, one_writing, same_value, whole_number
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import TaskSpec
from ttl_deploy.tasks import TASKS, Task, make_task


def task_of_names(task: TaskSpec, names: Sequence[str]) -> Task:
    """The task with its classes.

    Raises:
        BadInputError: It cannot have these classes, or the positive ones do not begin with one of them.
    """
    refuse_positive_from(task)
    try:
        return make_task(task, names)
    except ValueError as error:
        if task.positive_from is not None:
            fix = "name one of those, or give their order with --classes"
            raise BadInputError(str(error), where="--positive-from", fix=fix) from error
        raise BadInputError(str(error), where="--classes", fix="give it another name, in the data too") from error


def refuse_positive_from(task: TaskSpec) -> None:
    """Raises `BadInputError` where the positive grades are said of a task without grades."""
    if task.positive_from is not None and not TASKS.get(task.kind).GRADED:
        raise BadInputError(f"--task {task.kind} has no grades", where="--positive-from", fix="leave it out")


def settle_names(
    path: Path, found: Iterable[str], given: Sequence[str] | None, *, fewest: int, hint: str
) -> tuple[str, ...]:
    """The names of the classes: those that the user gives, else those found, numbers by value.

    Args:
        path: For the error.
        found: Names in the data.
        given: Names that the user gives.
        fewest: How many there have to be.
        hint: What to do where there are fewer.

    Raises:
        BadInputError: They are too few, one is given twice, or one is no text.
    """
    names = tuple(sorted(found, key=_by_value)) if given is None else tuple(given)
    undecoded = [name for name in names if not name.isascii() and _is_undecoded(name)]
    if undecoded:
        raise BadInputError(
            f"class {undecoded[0]!r} is not UTF-8 text",
            where=path,
            fix="rename its folder, or pass a CSV with the columns path and label",
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadInputError(f"class {twice[0]!r} is given twice", where="--classes", fix="name each class once")
    if len(names) < fewest:
        found_line = f"has {len(names)} class{'' if len(names) == 1 else 'es'} ({', '.join(names) or 'none'})"
        raise BadInputError(found_line, where=path, fix=hint)
    return names


def writings(counts: Mapping[str, int], given: Sequence[str] | None) -> tuple[dict[str, str], tuple[str, ...]]:
    """The writing to use for each writing of a class, that of the user where classes are given; and what was merged."""
    writing = one_writing(counts) if given is None else _as_named(counts, given)
    told = tuple(
        f"class {name} is written in {len(group)} ways: {', '.join(f'{text} ({counts[text]:,})' for text in group)}"
        for name, group in merged(writing).items()
    )
    return writing, told


def _as_named(counts: Mapping[str, int], classes: Sequence[str]) -> dict[str, str]:
    """Each label as the user writes it; a label that two of the user's classes may mean stays as it is."""
    exact = set(classes)
    found = {}
    for label in counts:
        same = [label] if label in exact else [name for name in classes if same_value(name, label)]
        found[label] = same[0] if len(same) == 1 else label
    return found


def _is_undecoded(name: str) -> bool:
    """Whether a name holds bytes that are no text; it then cannot be written into a model."""
    return any("\udc80" <= letter <= "\udcff" for letter in name)


def _by_value(name: str) -> tuple[tuple[int, int, str, str], ...]:
    """Sort key that puts grade 2 before grade 10."""
    parts = [(part, whole_number(part) if part.isdecimal() else "") for part in re.split(r"(\d+)", name) if part]
    # Of two whole numbers the shorter is the smaller.
    return tuple((0, len(digits), digits, part) if digits else (1, 0, "", part) for part, digits in parts)
