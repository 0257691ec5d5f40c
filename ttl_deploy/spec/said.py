"""How a record's field is said on the command line, where its name, type and range do not tell."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Said:
    """Stands in a field's annotation; `cli.forms` reads it.

    Attributes:
        names: Words of the option; empty: the field's own name.
        argument: It is an argument of this name, and not an option.
        text: The command line takes words and the record understands them, as in `64/16/20`.
        default: What help shows as the default, where the value itself says too little.
    """

    names: tuple[str, ...] = ()
    argument: str | None = None
    text: bool = False
    default: str | None = None


@dataclass(frozen=True)
class Without:
    """Stands in the annotation of a command's record: fields that are no options of this command.

    Args:
        fields: By name.
    """

    fields: tuple[str, ...]

    def __init__(self, *fields: str) -> None:
        object.__setattr__(self, "fields", fields)


def said_of(field: FieldInfo) -> Said:
    """How a field is said."""
    return next((part for part in field.metadata if isinstance(part, Said)), Said())
