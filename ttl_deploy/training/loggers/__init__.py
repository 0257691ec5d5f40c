"""Where a training is told besides its own folder's files, one file for each: tables and trackers that others read.

A run is whole without them: they change no byte of it and are no part of what it is, so that it goes on with others.
A log is always given all epochs so far, and holds each of them once, whatever a killed process left in it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ttl_deploy.errors import one_line
from ttl_deploy.registry import Registry

Row = Mapping[str, Any]
"""An epoch as `history.jsonl` has it."""

Ending = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True)
class Entry:
    """What is told of.

    Attributes:
        folder: Of the run, or of a search.
        params: All that was asked for, by dotted name.
        tags: What it is known by: version, backbone, method, cut.
        parent: Folder of the search that it is a trial of.
    """

    folder: Path
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    parent: Path | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name


class Log(ABC):
    """An entry that is open. Its methods may raise anything: the training then goes on without it."""

    @abstractmethod
    def update(self, rows: Sequence[Row]) -> None:
        """Tells the epochs that are not told yet.

        Args:
            rows: All epochs so far; of one that is told already the values are the same.
        """

    def result(self, measured: Mapping[str, float], epoch: int) -> None:  # noqa: B027 - a log may have no place for it
        """Tells what the model of the best epoch does on the test side."""

    def close(self, ending: Ending) -> None:  # noqa: B027 - likewise
        """Ends the telling."""


@dataclass(frozen=True)
class Logger:
    """A kind of log.

    Attributes:
        open: Goes on with the log of an entry, or begins it; nothing need be written before its first epoch.
        check: Raises a `TtlDeployError` where a package or a server is not there.
        gathers: Whether a search has an entry of its own, under which those of its trials are.
    """

    open: Callable[[Entry], Log]
    check: Callable[[], None] = lambda: None
    gathers: bool = False


LOGGERS: Registry[Logger] = Registry("logger", "ttl_deploy.training.loggers", entry_points="ttl_deploy.loggers")


def reason(error: Exception) -> str:
    """What an error says, in one line, without the user and the password that stand in addresses."""
    return re.sub(r"//[^/@\s]*@", "//", one_line(error))


def numbers(row: Row) -> dict[str, float]:
    """What is measured in an epoch, by name, as far as it has a value."""
    return {
        name: float(value)
        for name, value in row.items()
        if name != "epoch" and isinstance(value, int | float) and not isinstance(value, bool)
    }
