"""Registries whose entries are found by looking: one file with one registration adds a backbone, a format or a runtime.

A registry imports the modules of its package on first use, then the third-party entry points of its group.
Duplicate names fail; unknown names list near matches.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from ttl_deploy.aliases import meant
from ttl_deploy.errors import BadInputError, MissingDependencyError, TtlDeployError, near
from ttl_deploy.first_use import importing

T = TypeVar("T")


class Registry(Generic[T]):
    """Named things of one kind.

    Args:
        kind: What an entry is called in an error ("backbone").
        package: The package whose modules register entries when imported.
        entry_points: Third-party entry-point group; each entry point names a module or object to import.
        aliases: Names by other words for them.
    """

    def __init__(
        self, kind: str, package: str, entry_points: str | None = None, aliases: Mapping[str, str] | None = None
    ) -> None:
        self.kind = kind
        self._aliases = aliases or {}
        self._package = package
        self._group = entry_points
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str, entry: T) -> T:
        """Adds an entry.

        Raises:
            ValueError: The name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry
        return entry

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator form of `register`."""
        return lambda entry: self.register(name, entry)

    def get(self, name: str) -> T:
        """Looks an entry up, by its name or by another word for it; upper and lower case do not matter.

        Raises:
            BadInputError: There is no such entry; the error lists the nearest names.
        """
        self._discover()
        found = meant(name, self._aliases, self._entries)
        if found not in self._entries:
            raise BadInputError(f"unknown {self.kind} {name!r}", fix=near(name, self._entries))
        return self._entries[found]

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        self._discover()
        return list(self._entries)

    def __iter__(self) -> Iterator[T]:
        self._discover()
        return iter(list(self._entries.values()))

    def _discover(self) -> None:
        if self._discovered:
            return
        with importing():
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            if self._group:
                for point in importlib.metadata.entry_points(group=self._group):
                    load_entry_point(point)
        self._discovered = True


def load_entry_point(point: importlib.metadata.EntryPoint) -> Any:
    """What a third party's entry point names.

    Raises:
        MissingDependencyError: It cannot be imported; the error names the package that it came with.
    """
    try:
        return point.load()
    except TtlDeployError:
        raise
    except Exception as error:
        raise MissingDependencyError(
            f"{point.value!r}, an entry point of {point.group}, cannot be imported: {type(error).__name__}: {error}",
            fix=f"repair or uninstall {point.dist.name if point.dist else point.module}",
        ) from error
