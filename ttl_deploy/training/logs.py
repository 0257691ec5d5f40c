"""The logs of one training: what one of them raises ends its telling with a warning, and never the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ttl_deploy import __version__
from ttl_deploy.progress import Reporter
from ttl_deploy.spec import ModelSpec, Network, TrainConfig
from ttl_deploy.training.loggers import LOGGERS, Ending, Entry, Log, Row, reason
from ttl_deploy.training.plans import flat

Names = str | Sequence[str]
"""Loggers as a user names them: words, or text with commas between them."""

Warn = Callable[[str], None]
"""Told of a logger that fails, in a sentence."""


@dataclass(frozen=True)
class Told:
    """Whom a training tells.

    Attributes:
        loggers: Their names.
        within: Folder of the search that it is a trial of.
        unlogged: Told of those that fail; None: the training's reporter is.
    """

    loggers: tuple[str, ...] = ()
    within: Path | None = None
    unlogged: Warn | None = None


class Logs:
    """Some open logs.

    Args:
        entry: What they tell of.
        names: Of the loggers.
        warn: Told of those that fail.
    """

    def __init__(self, entry: Entry, names: Sequence[str], warn: Warn) -> None:
        self._warn = warn
        self._open: dict[str, Log] = {}
        self._problems: list[str] = []
        for name in names:
            self._try(name, partial(self._begin, name, entry))
        self.warn()

    def update(self, rows: Sequence[Row]) -> None:
        """See `Log.update`; may be called in another thread, and then tells of no failure before `warn`."""
        self._all(lambda log: log.update(rows))

    def result(self, measured: Mapping[str, float], epoch: int) -> None:
        """See `Log.result`."""
        self._all(lambda log: log.result(measured, epoch))
        self.warn()

    def close(self, ending: Ending) -> None:
        """See `Log.close`."""
        self._all(lambda log: log.close(ending))
        self.warn()

    def warn(self) -> None:
        """Tells of the logs that failed since it was last called."""
        while self._problems:
            self._warn(self._problems.pop(0))

    def _begin(self, name: str, entry: Entry) -> None:
        self._open[name] = LOGGERS.get(name).open(entry)

    def _all(self, act: Callable[[Log], None]) -> None:
        for name, log in list(self._open.items()):
            self._try(name, partial(act, log))

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        # Of whatever kind: a tracker's trouble is not the training's.
        except Exception as error:
            self._open.pop(name, None)
            self._problems.append(f"{name} is told nothing more: {reason(error)}; the run itself goes on")


def asked_loggers(log: Names) -> tuple[str, ...]:
    """The loggers that are meant, each once.

    Raises:
        BadInputError: One of them is none, or its server cannot be reached.
        MissingDependencyError: Its package is not installed.
    """
    given = [log] if isinstance(log, str) else log
    words = [word.strip().casefold() for part in given for word in part.split(",")]
    for word in dict.fromkeys(words):
        LOGGERS.get(word).check()
    return tuple(dict.fromkeys(words))


@contextmanager
def logs_of_run(
    folder: Path, config: TrainConfig, names: Sequence[str], told: Told, reporter: Reporter
) -> Iterator[Logs]:
    """The logs of a training.

    Args:
        folder: The run's.
        config: Its configuration.
        names: Of the loggers that this process tells.
        told: Whom the training tells.
        reporter: The training's.
    """
    entry = Entry(folder, flat(config.model_dump(mode="json")), _tags(config.model, folder), told.within)
    with _closed(Logs(entry, names, told.unlogged or reporter.warn)) as logs:
        yield logs


@contextmanager
def logs_of_search(
    folder: Path, network: Network, plan: Mapping[str, Any], names: Sequence[str], reporter: Reporter
) -> Iterator[Logs]:
    """Those of the loggers that have a search's trials under one of its own.

    Args:
        folder: The search's.
        network: What is cut.
        plan: All that was asked for.
        names: Of the loggers.
        reporter: Told of those that fail.
    """
    gathering = [name for name in names if LOGGERS.get(name).gathers]
    entry = Entry(folder, flat(plan), {**_tags(network, folder), "ttl-deploy.search": "true"})
    with _closed(Logs(entry, gathering, reporter.warn)) as logs:
        yield logs


@contextmanager
def _closed(logs: Logs) -> Iterator[Logs]:
    ending: Ending = "stopped"
    try:
        yield logs
        ending = "finished"
    except Exception:
        ending = "failed"
        raise
    finally:
        logs.close(ending)


def _tags(model: ModelSpec | Network, folder: Path) -> dict[str, str]:
    cut = getattr(model, "cut", None)
    return {
        "ttl-deploy.version": __version__,
        "ttl-deploy.folder": str(folder.resolve()),
        "ttl-deploy.backbone": model.backbone,
        "ttl-deploy.method": model.method,
        **({"ttl-deploy.cut": cut} if cut else {}),
    }


def measured_on_test(test: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Metrics of the test side as logs name them."""
    return {f"test_{name}": float(test[name]) for name in names if test.get(name) is not None}
