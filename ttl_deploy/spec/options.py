"""Options that only some methods, formats or strategies take: a record of each, in a table by the name of its owner.

The command line makes its options of these records, and `--help` must not wait for PyTorch: so the modules that hold
the records import none, and a table knows those of this package without importing their owners.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ttl_deploy.aliases import meant
from ttl_deploy.errors import BadInputError
from ttl_deploy.registry import Registry, load_entry_point
from ttl_deploy.spec.record import Record, first_problem
from ttl_deploy.spec.said import said_of

T = TypeVar("T")


class Options(Record):
    """Base of these records: their fields are the options, with help, range and default.

    What takes none may use this class itself.

    Attributes:
        OWNER: What the owner is called in an error; None: by its name.
    """

    OWNER: ClassVar[str | None] = None


class OptionTable:
    """The records of one kind of owners.

    Args:
        kind: What chooses the owner, in an error and on the command line: `method`.
        group: Entry points of third parties' owners. Those of `GROUP.options`, each the record of the owner of its
            name, are asked first: an owner that has one is not imported to know its options.
        beside: Options that the records of a request have as fields of their own.
    """

    def __init__(self, kind: str, group: str, beside: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.beside = beside
        self._group = group
        self._records: dict[str, type[Options]] = {}
        self._looked = False

    def add(self, name: str, record: type[Options]) -> None:
        """Gives an owner its record; that of the owner itself stands in place of another."""
        self._records[name] = record

    def of(self, name: str) -> type[Options]:
        """An owner's record; one without options where it has none."""
        return self._records.get(meant(name, {}, self._records), Options)

    def takers(self, option: str) -> dict[str, FieldInfo]:
        """The owners that take an option, each with what its record says of it."""
        found = ((name, record.model_fields.get(option)) for name, record in self._records.items())
        return {name: field for name, field in found if field is not None}

    def options(self) -> list[str]:
        """The names of all options."""
        return list(dict.fromkeys(name for record in self._records.values() for name in record.model_fields))

    def look(self) -> None:
        """Finds what third parties registered.

        An owner without a record among the entry points is imported, and PyTorch with it.

        Raises:
            MissingDependencyError: An entry point cannot be imported.
            BadInputError: One of the records is none, or has the name of another.
        """
        if self._looked:
            return
        for point in importlib.metadata.entry_points(group=f"{self._group}.options"):
            self._join(point.name, load_entry_point(point))
        for point in importlib.metadata.entry_points(group=self._group):
            if point.name not in self._records:
                load_entry_point(point)
        self._looked = True

    def _join(self, name: str, record: Any) -> None:
        where = f"entry point {name!r} of {self._group}.options"
        if not (isinstance(record, type) and issubclass(record, Options)):
            raise BadInputError(f"{record!r:.80} is no record of options", where=where)
        if self._records.setdefault(name, record) is not record:
            raise BadInputError(f"{self.kind} {name!r} has other options already", where=where)

    def refuse_others(self, name: str, said: Mapping[str, str]) -> None:
        """Refuses options that only others take.

        Args:
            name: The owner that was chosen.
            said: How each option was said, by its name; of those that nobody takes nothing is told here.

        Raises:
            BadInputError: One is another's; the error names those that take it.
        """
        own = self.of(name).model_fields
        for option, word in said.items():
            others = list(self.takers(option))
            if others and option not in own:
                what = f"{word} is {listed(self._called(other) for other in others)}'s, not {name}'s"
                raise BadInputError(what, fix=f"leave it out, or pass --{self.kind} {others[0]}")

    def refuse_others_of(self, name: str, request: Record) -> None:
        """Refuses options `beside` that a request has at another value than their default, and only others take.

        Raises:
            BadInputError: As `refuse_others`.
        """
        fields = type(request).model_fields
        asked = [o for o in self.beside if o in fields and getattr(request, o) != fields[o].default]
        words = {option: (*said_of(fields[option]).names, f"--{option.replace('_', '-')}")[0] for option in asked}
        self.refuse_others(name, words)

    def _called(self, name: str) -> str:
        return self._records[name].OWNER or name

    def complete(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """An owner's options with its defaults, judged by its record, as plain types; without those `beside`.

        Raises:
            BadInputError: It has no such option, or a value is out of its range.
        """
        try:
            made = self.of(name)(**given)
        except ValidationError as error:
            raise BadInputError(first_problem(error), where=f"{self.kind} {name}", fix="see --help") from error
        return made.model_dump(mode="json", exclude=set(self.beside))


@dataclass(frozen=True)
class Offered:
    """Stands in the annotation of a field, or of a command's parameter, that holds options by name: whose they may be.

    Attributes:
        table: Of the owners.
        by: The record's field that chooses the owner; None: the command judges.
    """

    table: OptionTable
    by: str | None = None


class OptionedRegistry(Registry[T]):
    """A registry whose entries may have options: `METHODS.add("tf", TfOptions)`.

    Args:
        table: Where their records are kept.
        package: As in `Registry`; so are the others.
    """

    def __init__(
        self, table: OptionTable, package: str, entry_points: str, aliases: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(table.kind, package, entry_points, aliases)
        self._table = table

    def register(self, name: str, entry: T, options: type[Options] | None = None) -> T:
        """Adds an entry; see `Registry.register`.

        Args:
            name: Of the entry.
            entry: What is looked up.
            options: The record of its options.
        """
        super().register(name, entry)
        if options is not None:
            self._table.add(name, options)
        return entry

    def add(self, name: str, options: type[Options] | None = None) -> Callable[[T], T]:
        """Decorator form of `register`."""
        return lambda entry: self.register(name, entry, options)

    def _discover(self) -> None:
        super()._discover()
        self._table.look()


def listed(words: Iterable[str]) -> str:
    """Words as a sentence lists them: `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
