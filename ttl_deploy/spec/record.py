"""What every record is: a frozen pydantic model, and how one is made from a file or an option.

Unknown fields are refused, so that a record of a newer version is told instead of half-read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from ttl_deploy.errors import BadInputError, DamagedError, near

SCHEMA_VERSION = 1
"""Version of the manifest and of the run's config; raised when an older reader would misread the record."""

OPERATING_POINT_VERSION = 2
"""Of a manifest with an operating point, by which a reader of version 1 would not decide."""

TASK_VERSION = 3
"""Of a manifest of another task than exclusive classes, whose outputs a reader of version 2 would misread."""

INPUT_VERSION = 4
"""Of a manifest or a run's config whose input is no square image of 1 or 3 channels, which no older reader knows."""


def _any_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    if "\0" in value:
        raise ValueError("holds a zero byte")
    return value


PathText = Annotated[str, PlainValidator(_any_text)]
"""A path or a name of a file, which need not be Unicode; pydantic's own text does."""

Fraction = Annotated[float, Field(gt=0, lt=1)]


class Record(BaseModel):
    """Base of all records.

    Attributes:
        NEWEST: Highest schema version that is read of this kind.
    """

    NEWEST: ClassVar[int] = SCHEMA_VERSION

    # Built when first used: a command needs few of all records, and `--help` none. An alias of a field is its name in
    # files, which older versions read; errors say what a user says.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        defer_build=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        loc_by_alias=False,
    )

    def __hash__(self) -> int:
        # A field may be a dict.
        return hash(self.digest())

    def digest(self) -> str:
        """Hex SHA-256 of the record's canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def shared(self, kind: type[Record]) -> dict[str, Any]:
        """Values of the fields that another kind of record has under the same name."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in kind.model_fields}


def among(what: str, choices: Sequence[str]) -> BeforeValidator:
    """Stands in a field's annotation: a word that is none of the choices is told with those near to it.

    Args:
        what: The word is of, such as `engine`.
        choices: All of them.
    """

    def known(word: object) -> object:
        if word not in choices:
            raise BadInputError(f"unknown {what} {word!r:.80}", fix=near(str(word), choices))
        return word

    return BeforeValidator(known)


AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_record(kind: type[AnyRecord], content: Any, where: str | Path, *, fix: str | None = None) -> AnyRecord:
    """Validates a record that was read from a file.

    Raises:
        DamagedError: It is of a newer schema, or a field is missing or wrong; the error names field and file.
    """
    version = content.get("schema_version", SCHEMA_VERSION) if isinstance(content, dict) else None
    if isinstance(version, int) and version > kind.NEWEST:
        raise DamagedError(
            f"schema version {version} is newer than this program's {kind.NEWEST}",
            where=where,
            fix="upgrade ttl-deploy",
        )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise DamagedError(f"not a valid {kind.__name__}: {first_problem(error)}", where=where, fix=fix) from error


def make_record(kind: Callable[..., AnyRecord], /, **fields: Any) -> AnyRecord:
    """Builds a record, by its class or another constructor of it, from the user's options.

    Raises:
        BadInputError: A value is out of its range; the error names it.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        raise BadInputError(first_problem(error), fix="see --help for the valid range") from error


def first_problem(error: ValidationError) -> str:
    """What is wrong first, with the field and its value."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message} (got {problem['input']!r:.80})" if place else message
