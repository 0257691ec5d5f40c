"""Turns a record into options of a command: each field is one, with the field's own help, type, range and default.

A command declares what it takes, `def run(data: Data, model: Model, ...)`; `form` gives typer the options of every
record in the place of the record, and `request_form` takes what they would say from a file too. A value that a record
refuses is told by the option that it was given for. Fields that a command has no use for are left out by `Without`.

Where a record or a command takes options that only some methods, formats or strategies have (`Offered`), they are those
of all that are known; `complete` adds what third parties registered.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from typer.models import OptionInfo

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Record
from ttl_deploy.spec.options import Offered
from ttl_deploy.spec.request import read_request
from ttl_deploy.spec.said import Said, Without, said_of

Answer = TypeVar("Answer", int, None)
"""Of a command: its exit code, where it has one to give."""

_CONTEXT, _CONFIG = "context", "config"
_RESERVED = ("--config", "--help", "-h")
_UNSAID = 2**20
"""A largest value from which on it is there for the machine and not for the user."""

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="YAML file that says what options would, in sections with Python's names; or a run's config.yaml, which "
        "repeats the run. Options win over it.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class _Entry:
    """A field as an option.

    Attributes:
        name: Of the command's parameter.
        place: The records from the command's down to the field's, and the field's name.
        field: What the record says of it.
        panel: Of the help.
        owners: Who takes the option, where a table says so; then it has no value unless it is said.
        default: What help shows as its default where there are `owners`.
        prefix: Stands before its word, where another option has that.
    """

    name: str
    place: tuple[str, ...]
    field: FieldInfo
    panel: str
    owners: tuple[str, ...] = ()
    default: str | None = None
    prefix: str = ""

    @property
    def said(self) -> Said:
        return said_of(self.field)

    @property
    def option(self) -> str:
        return self.words[0].partition("/")[0]

    @property
    def words(self) -> tuple[str, ...]:
        """A switch that is on can be put off, one that is off needs one word only."""
        word = self.place[-1].replace("_", "-")
        on = self.field.annotation is bool and self.field.default is True
        words = self.said.names or (f"--{word}/--no-{word}" if on else f"--{word}",)
        return tuple(named.replace("--", f"--{self.prefix}-") for named in words) if self.prefix else words


_FORMS: dict[Callable[..., Any], _Form] = {}
"""By the command that typer calls."""


@dataclass(frozen=True)
class _Begun:
    """What `--config` says before the options do.

    Attributes:
        file: The file; None where none was given.
        said: Fields by the name of their record.
    """

    file: Path | None
    said: Mapping[str, Mapping[str, Any]]


def form(command: Callable[..., Answer]) -> Callable[..., Answer]:
    """A command whose records are options.

    A parameter that may be None is so where no value was given for a field that its record needs. A parameter that has
    the name of a record's field gets the field's value too.

    Args:
        command: Its parameters are records, or options as typer knows them.
    """
    return _formed(command, _Form(command))


def request_form(command: Callable[..., Answer]) -> Callable[..., Answer]:
    """As `form`; and `--config` gives values in the place of options that are not there."""
    return _formed(command, _Form(command, config=True))


def _formed(command: Callable[..., Answer], made: _Form) -> Callable[..., Answer]:
    @functools.wraps(command)
    def run(**given: Any) -> Answer:
        return command(**made.values(given))

    _FORMS[run] = made
    _declare(run, made)
    return run


def complete(command: Callable[..., Any]) -> None:
    """Adds the options that third parties registered to a command that takes some.

    It takes looking through the installed packages, and may import theirs: so it is not done for a command that is not
    called.

    Raises:
        TtlDeployError: One of the packages cannot be imported, or offers no record.
    """
    if command in _FORMS:
        _FORMS[command].look()
        _declare(command, _FORMS[command])


def _declare(run: Callable[..., Any], made: _Form) -> None:
    signature = made.signature()
    # Typer reads both, at every call.
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}


class _Form:
    """A command with the options of its records, as far as they are known.

    Args:
        command: The command.
        config: Whether it takes `--config`.

    Attributes:
        entries: Every field as an option.
    """

    def __init__(self, command: Callable[..., Any], *, config: bool = False) -> None:
        self._config = config
        self._hints = get_type_hints(command, include_extras=True)
        self._parameters = list(inspect.signature(command).parameters.values())
        kinds = {name: _record(hint) for name, hint in self._hints.items()}
        self._records = {name: kind for name, kind in kinds.items() if kind is not None}
        offers = {name: _offer(getattr(hint, "__metadata__", ())) for name, hint in self._hints.items()}
        self._offers = {name: offer for name, offer in offers.items() if offer is not None}
        self._own = [p.name for p in self._parameters if p.name not in self._records.keys() | self._offers.keys()]
        self.entries = self._find()

    def look(self) -> None:
        """Adds what third parties registered."""
        for _place, offer in self._offered():
            offer.table.look()
        self.entries = self._find()

    def signature(self) -> inspect.Signature:
        """What typer shall make options of."""
        of_records = {entry.name for entry in self.entries}
        parameters = [inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        for parameter in self._parameters:
            if parameter.name in self._own and parameter.name not in of_records:
                hint = self._hints[parameter.name]
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint))
            parameters += [_parameter(entry) for entry in self.entries if entry.place[0] == parameter.name]
        if self._config:
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(_CONFIG, kind, default=None, annotation=Config))
        return inspect.Signature(parameters)

    def values(self, given: dict[str, Any]) -> dict[str, Any]:
        """What the command gets for what was given.

        Raises:
            BadInputError: A record refuses a value, or the file is none.
        """
        context, config = given.pop(_CONTEXT), given.pop(_CONFIG, None)
        begun = _Begun(config, {} if config is None else read_request(config, self._records))
        said = {entry: given[entry.name] for entry in self.entries if _was_given(context, entry.name)}
        values: dict[str, Any] = {name: given[name] for name in self._own}
        for name in self._offers:
            values[name] = {entry.place[-1]: value for entry, value in said.items() if entry.place[0] == name}
        for name, record in self._records.items():
            values[name] = _made(record, name, said, begun, optional=_optional(self._hints[name]))
        return values

    def _find(self) -> list[_Entry]:
        entries = [
            entry
            for name, record in self._records.items()
            for entry in _entries(record, (name,), "")
            if entry.place[1] not in _left_out(self._hints[name])
        ]
        taken = {word for entry in entries for word in _every_word(entry)} | set(_RESERVED)
        taken |= {word for name in self._own for word in _own_words(name, self._hints[name])}
        for place, offer in self._offered():
            for entry in _entries_of(offer, place):
                free = entry if taken.isdisjoint(_every_word(entry)) else replace(entry, prefix=entry.owners[0])
                taken.update(_every_word(free))
                entries.append(free)
        return entries

    def _offered(self) -> Iterator[tuple[tuple[str, ...], Offered]]:
        for name, record in self._records.items():
            for field, offer in _offers(record):
                yield (name, field), offer
        for name, offer in self._offers.items():
            yield (name,), offer


def _offer(metadata: Iterable[Any]) -> Offered | None:
    return next((part for part in metadata if isinstance(part, Offered)), None)


def _offers(record: type[Record]) -> Iterator[tuple[str, Offered]]:
    """The fields of a record that hold options of others, with whose."""
    for name, field in record.model_fields.items():
        offer = _offer(field.metadata)
        if offer is not None:
            yield name, offer


def _entries_of(offer: Offered, place: tuple[str, ...]) -> Iterator[_Entry]:
    """The options of a table's records: one for all owners that take it alike."""
    for option in offer.table.options():
        if option in offer.table.beside:
            continue
        alike: dict[Any, dict[str, FieldInfo]] = {}
        for owner, field in offer.table.takers(option).items():
            alike.setdefault((_plain(field), said_of(field).names, field.default is True), {})[owner] = field
        for fields in alike.values():
            owners, first = tuple(fields), next(iter(fields.values()))
            name = re.sub(r"\W", "_", "_".join((*place, option, *owners)))
            panel = f"{offer.table.kind.capitalize()} {', '.join(owners)}"
            yield _Entry(name, (*place, option), first, panel, owners, _default(fields))


def _default(fields: Mapping[str, FieldInfo]) -> str | None:
    """What help shows as the default of an option, where there is one; with the owners where theirs differ."""
    shown: dict[str, list[str]] = {}
    for owner, field in fields.items():
        shown.setdefault(_default_of(field), []).append(owner)
    if len(shown) == 1:
        return next(iter(shown)) or None
    return "; ".join(f"{', '.join(owners)}: {default or 'none'}" for default, owners in shown.items())


def _default_of(field: FieldInfo) -> str:
    """In words; empty for a switch, and where there is none."""
    said, default = said_of(field).default, field.get_default()
    if said is not None:
        return said
    return "" if field.is_required() or default is None or isinstance(default, bool) else str(default)


def _every_word(entry: _Entry) -> list[str]:
    return [word for words in entry.words for word in words.split("/")]


def _own_words(name: str, hint: Any) -> tuple[str, ...]:
    """How a parameter of the command's own is said."""
    infos = [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, OptionInfo)]
    return tuple(infos[0].param_decls or ()) if infos and infos[0].param_decls else (f"--{name.replace('_', '-')}",)


def _plain(field: FieldInfo) -> type:
    """The type that typer shall parse an option of somebody's record as: what it does not know is text."""
    kinds = [kind for kind in _kinds(field.annotation) if kind is not NoneType]
    kind = _typers(kinds[0]) if len(kinds) == 1 and not said_of(field).text else str
    return kind if kind in (bool, int, float, Path) else str


def _left_out(hint: Any) -> tuple[str, ...]:
    """Fields of a parameter's record that are no options."""
    return next((part.fields for part in getattr(hint, "__metadata__", ()) if isinstance(part, Without)), ())


def _record(hint: Any) -> Any:
    """The record class of a parameter's type; None where it is none."""
    kinds = [kind for kind in _kinds(hint) if isinstance(kind, type) and issubclass(kind, Record)]
    return kinds[0] if kinds else None


def _kinds(hint: Any) -> tuple[Any, ...]:
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return get_args(plain) if get_origin(plain) in (Union, UnionType) else (plain,)


def _optional(hint: Any) -> bool:
    return NoneType in _kinds(hint)


def _entries(record: type[Record], place: tuple[str, ...], panel: str) -> Iterator[_Entry]:
    own = getattr(record, "PANEL", panel)
    # A field that a record adds to those of another comes last in it, and may matter most.
    leading = [name for name in getattr(record, "LEADING", ()) if name in record.model_fields]
    for name in dict.fromkeys((*leading, *record.model_fields)):
        field = record.model_fields[name]
        inner = _record(field.annotation)
        if _offer(field.metadata) is not None:
            continue
        if inner is not None:
            yield from _entries(inner, (*place, name), own)
        else:
            said = said_of(field)
            # Several records of a command may have a field of one name, as a budget's device and a protocol's.
            called = said.names[0].removeprefix("--").replace("-", "_") if said.names else name
            yield _Entry(called, (*place, name), field, own)


def _parameter(entry: _Entry) -> inspect.Parameter:
    field, said = entry.field, entry.said
    # What a record needs may be in --config.
    unset = said.text or field.is_required() or bool(entry.owners)
    if said.argument is not None:
        shown: Any = typer.Argument(help=field.description, metavar=said.argument)
    else:
        words = " ".join(part for part in (field.description, _range(field)) if part)
        shown = typer.Option(
            *entry.words, help=words, rich_help_panel=entry.panel, **_shown(entry.default or said.default)
        )
    kind: Any = _plain(field) if entry.owners else str if said.text else _typers(field.annotation)
    return inspect.Parameter(
        entry.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if unset else field.get_default(),
        annotation=Annotated[kind | None if unset else kind, shown],
    )


def _range(field: FieldInfo) -> str:
    """The range of a number in words; empty where any number will do, or all that are meant."""
    bounds = {
        name: getattr(part, name) for part in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(part, name)
    }
    least = f"{bounds['ge']:g} or more" if "ge" in bounds else f"above {bounds['gt']:g}" if "gt" in bounds else ""
    most = bounds.get("le", bounds.get("lt"))
    if most is None or most >= _UNSAID:
        return f"({least})" if least else ""
    if "ge" in bounds and "le" in bounds:
        return f"({bounds['ge']:g} to {most:g})"
    return f"({least + ', ' if least else ''}{'at most' if 'le' in bounds else 'below'} {most:g})"


def _typers(kind: Any) -> Any:
    """The type that typer shall parse: a choice is a word or a number, which the record judges."""
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return type(choices[0]) if choices else kind


def _shown(default: str | None) -> dict[str, Any]:
    return {} if default is None else {"show_default": default}


def _was_given(context: Any, name: str) -> bool:
    return bool(context.get_parameter_source(name).name != "DEFAULT")


def _made(record: Any, name: str, said: Mapping[_Entry, Any], begun: _Begun, *, optional: bool) -> Any:
    """The record from what was said for it.

    Raises:
        BadInputError: It refuses a value, or needs one that nobody said; the error names the option, or file and field.
    """
    fields = copy.deepcopy(dict(begun.said.get(name, {})))
    for entry, value in said.items():
        if entry.place[0] == name:
            inner = fields
            for step in entry.place[1:-1]:
                inner = inner.setdefault(step, {})
                if not isinstance(inner, dict):
                    what = f"{name}.{step} is {inner!r:.80}, not names with values"
                    raise BadInputError(what, where=begun.file, fix="see --config in --help")
            inner[entry.place[-1]] = value
    _refuse_others(record, fields, [entry for entry in said if entry.place[0] == name])
    needed = next(
        (called for called, field in record.model_fields.items() if field.is_required() and called not in fields),
        None,
    )
    if needed is not None:
        if optional:
            return None
        word = said_of(record.model_fields[needed]).argument or f"--{needed.replace('_', '-')}"
        raise BadInputError(f"{word} is missing", fix="give it, or a --config that says it; see --help")
    try:
        return record(**fields)
    except ValidationError as error:
        raise _refused(error, name, said, begun) from error


def _refuse_others(record: type[Record], fields: Mapping[str, Any], said: Sequence[_Entry]) -> None:
    """Refuses options that were said and belong to another owner than the chosen one."""
    for name, offer in _offers(record):
        chosen = fields.get(offer.by, record.model_fields[offer.by].default) if offer.by else None
        if isinstance(chosen, str):
            own = [
                e for e in said if e.place[1:-1] == (name,) or (len(e.place) == 2 and e.place[-1] in offer.table.beside)
            ]
            offer.table.refuse_others(chosen, {entry.place[-1]: entry.option for entry in own})


def _refused(error: ValidationError, name: str, said: Mapping[_Entry, Any], begun: _Begun) -> BadInputError:
    problem = error.errors()[0]
    place = (name, *(str(part) for part in problem["loc"]))
    option = next((entry.option for entry in said if entry.place == place[: len(entry.place)]), None)
    message = problem["msg"].removeprefix("Value error, ")
    value = "" if repr(problem["input"]) in message else f" (got {problem['input']!r:.80})"
    if option is not None:
        return BadInputError(f"{message}{value}", where=option, fix="see --help for the valid range")
    if len(place) > 1:
        return BadInputError(
            f"{'.'.join(place)}: {message}{value}", where=begun.file, fix="see --help for the valid range"
        )
    return BadInputError(message, fix="see --help for the valid range")
