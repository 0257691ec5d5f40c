"""The analyses, one file each: what it needs, and what it finds of one run or of several together.

What an analysis needs is asked of all of them before any of them begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ttl_deploy.analysis.finding import Finding
from ttl_deploy.analysis.subject import Subject
from ttl_deploy.errors import BadInputError
from ttl_deploy.registry import Registry


@dataclass(frozen=True)
class Need:
    """Something without which an analysis says nothing.

    Attributes:
        check: Raises a `TtlDeployError` where it is not there.
        order: What costs more to ask for has a higher one, and is asked later.
    """

    check: Callable[[Sequence[Subject]], None]
    order: int


def _several(subjects: Sequence[Subject]) -> None:
    if len(subjects) < 2:
        raise BadInputError("runs are compared, and only one was given", fix="pass more of the same test side")


def _same_side(subjects: Sequence[Subject]) -> None:
    first, *others = subjects
    for subject in others:
        if subject.test_side != first.test_side or subject.run.config.model.classes != first.run.config.model.classes:
            what = f"has another test side than {first.name}, or other classes"
            raise BadInputError(what, where=subject.run.folder, fix="pass runs of one division of the same data")


def _answers(subjects: Sequence[Subject]) -> None:
    for subject in subjects:
        if subject.run.task.DENSE:
            what = "draws masks, and what was asked for takes a label for each image"
            raise BadInputError(what, where=subject.run.folder, fix="pass a run that classifies")


def _history(subjects: Sequence[Subject]) -> None:
    for subject in subjects:
        if not subject.run.history():
            raise BadInputError("has no epoch in its history", where=subject.run.folder, fix="train the run again")


def _start(subjects: Sequence[Subject]) -> None:
    for subject in subjects:
        _ = subject.start


def _images(subjects: Sequence[Subject]) -> None:
    for subject in subjects:
        _ = subject.prepared


SEVERAL = Need(_several, 0)
"""Two runs or more."""
ANSWERS = Need(_answers, 1)
"""A task with a label for each image."""
SAME_SIDE = Need(_same_side, 2)
"""The same images on the test side, and the same classes."""
HISTORY = Need(_history, 2)
"""Epochs that were written down."""
START = Need(_start, 3)
"""The starting weights, so that the network can be rebuilt as it was before training."""
IMAGES = Need(_images, 4)
"""The images."""


@dataclass(frozen=True)
class Analysis:
    """A way to look at runs.

    Attributes:
        look: Of one run, or of all where `together`.
        needs: Without which it says nothing.
        together: Whether it looks at all runs at once.
    """

    look: Callable[[Sequence[Subject]], Finding]
    needs: tuple[Need, ...]
    together: bool = False


def of_a_run(look: Callable[[Subject], Finding], *needs: Need) -> Analysis:
    """An analysis that looks at one run at a time."""
    return Analysis(lambda subjects: look(subjects[0]), needs)


def of_all_runs(look: Callable[[Sequence[Subject]], Finding], *needs: Need) -> Analysis:
    """An analysis that looks at all runs at once."""
    return Analysis(look, needs, together=True)


ANALYSES: Registry[Analysis] = Registry("analysis", "ttl_deploy.analysis.analyses", entry_points="ttl_deploy.analyses")
