"""Turns a record into options of a command: each field is one, with the field's own help, type, range and default.

A command declares what it takes, `def run(data: Data, model: Model, ...)`; `form` gives typer the options of every
record in the place of the record. A value that a record refuses is told by the option that it was given for.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Record
from ttl_deploy.spec.request import read_request
from ttl_deploy.spec.said import Said

_CONTEXT, _CONFIG = "context", "config"

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
    """

    name: str
    place: tuple[str, ...]
    field: FieldInfo
    panel: str

    @property
    def said(self) -> Said:
        return _said(self.field)

    @property
    def option(self) -> str:
        return self.said.names[0] if self.said.names else f"--{self.name.replace('_', '-')}"


@dataclass(frozen=True)
class _Begun:
    """What `--config` says before the options do.

    Attributes:
        file: The file; None where none was given.
        said: Fields by the name of their record.
    """

    file: Path | None
    said: Mapping[str, Mapping[str, Any]]


def form(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose records are options.

    A parameter that may be None is so where no value was given for a field that its record needs. A parameter that has
    the name of a record's field gets the field's value too. `--config` gives values in the place of options that are
    not there.

    Args:
        command: Its parameters are records, or options as typer knows them.
    """
    hints = get_type_hints(command, include_extras=True)
    records = {name: _record(hint) for name, hint in hints.items() if _record(hint) is not None}
    entries = [entry for name, record in records.items() for entry in _entries(record, (name,), "")]
    own = [p for p in inspect.signature(command).parameters.values() if p.name not in records]
    also = {p.name for p in own} & {entry.name for entry in entries}

    @functools.wraps(command)
    def run(**given: Any) -> None:
        context, config = given.pop(_CONTEXT), given.pop(_CONFIG)
        begun = _Begun(config, {} if config is None else read_request(config, records))
        said = {entry: given[entry.name] for entry in entries if _was_given(context, entry.name)}
        values = {name: given[name] for name in (p.name for p in own)}
        for name, record in records.items():
            values[name] = _made(record, name, said, begun, optional=_optional(hints[name]))
        command(**values)

    context = inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context]
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in records:
            parameters += [_parameter(entry) for entry in entries if entry.place[0] == parameter.name]
        elif parameter.name not in also:
            hint = hints[parameter.name]
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint))
    parameters.append(inspect.Parameter(_CONFIG, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Config))
    # Typer reads both.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _said(field: FieldInfo) -> Said:
    return next((part for part in field.metadata if isinstance(part, Said)), Said())


def _record(hint: Any) -> Any:
    """The record class of a parameter's type; None where it is none."""
    kinds = [kind for kind in _kinds(hint) if isinstance(kind, type) and issubclass(kind, Record)]
    return kinds[0] if kinds else None


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _optional(hint: Any) -> bool:
    return NoneType in _kinds(hint)


def _entries(record: type[Record], place: tuple[str, ...], panel: str) -> Iterator[_Entry]:
    own = getattr(record, "PANEL", panel)
    for name, field in record.model_fields.items():
        inner = _record(field.annotation)
        if inner is not None:
            yield from _entries(inner, (*place, name), own)
        else:
            said = _said(field)
            # Several records of a command may have a field of one name, as a budget's device and a protocol's.
            called = said.names[0].removeprefix("--").replace("-", "_") if said.names else name
            yield _Entry(called, (*place, name), field, own)


def _parameter(entry: _Entry) -> inspect.Parameter:
    field, said = entry.field, entry.said
    # What a record needs may be in --config.
    required = field.is_required()
    if said.argument is not None:
        shown: Any = typer.Argument(help=field.description, metavar=said.argument)
    else:
        shown = typer.Option(*_words(entry), help=field.description, rich_help_panel=entry.panel, **_shown(said))
    kind: Any = str if said.text else _typers(field.annotation)
    if said.text or required:
        kind = kind | None
    default = None if said.text or required else field.get_default()
    return inspect.Parameter(
        entry.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, shown]
    )


def _typers(kind: Any) -> Any:
    """The type that typer shall parse: a choice is a word or a number, which the record judges."""
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return type(choices[0]) if choices else kind


def _words(entry: _Entry) -> tuple[str, ...]:
    """A switch that is off has one word only; where there are none, typer makes them of the name."""
    off = entry.field.annotation is bool and not entry.field.default
    return entry.said.names or ((entry.option,) if off else ())


def _shown(said: Said) -> dict[str, Any]:
    return {} if said.default is None else {"show_default": said.default}


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
    needed = next(
        (called for called, field in record.model_fields.items() if field.is_required() and called not in fields),
        None,
    )
    if needed is not None:
        if optional:
            return None
        word = _said(record.model_fields[needed]).argument or f"--{needed.replace('_', '-')}"
        raise BadInputError(f"{word} is missing", fix="give it, or a --config that says it; see --help")
    try:
        return record(**fields)
    except ValidationError as error:
        raise _refused(error, name, said, begun) from error


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
