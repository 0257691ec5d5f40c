"""YAML, JSON and TOML of users: read whole, bounded in bytes, depth and number of values, and plain in content.

What a parser says, and whatever it raises, becomes one `DamagedError` that names the file. Refused besides what is no
YAML or JSON: aliases, anchors, tags and keys that are there twice (what they mean depends on the reader, and a few
lines of them expand to gigabytes), numbers that are not finite or have more than 64 bits, values that JSON does not
have, and text that is no Unicode. Names of files that are no UTF-8 keep their bytes (`files.UNDECODED`), and pass.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttl_deploy.errors import BadInputError, DamagedError

if TYPE_CHECKING:
    import yaml


@dataclass(frozen=True)
class Limits:
    """How much a document may hold.

    Attributes:
        bytes: Of the file.
        depth: Lists and mappings inside each other.
        values: Elements of lists and mappings together.
    """

    bytes: int = 64 * 2**20
    depth: int = 64
    values: int = 2_000_000


CONFIG = Limits(bytes=2**20, values=20_000)
"""Of what people write by hand, and of records of that size."""

DATA = Limits()
"""Of records that grow with the data: samples, resamples, names of images."""

_MOST_INTEGER = 2**64
_LONGEST_INTEGER = 70
"""Signs of an integer of 64 bits, written in any base."""

_UNPAIRED = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates, without those that stand for the bytes of a file's name."""

_SIGNS = (b",", b"[", b"{")
"""Each value but the first follows one of them; those inside strings are counted too."""

_LINES = 2**20
"""Bytes of a line of a file of lines."""


def read_bytes(path: Path, *, most: int | None = None, missing: str | None = None, fix: str | None = None) -> bytes:
    """The content of a regular file; a pipe or a device is not waited for.

    Args:
        path: The file.
        most: Bytes that it may have; None: any number.
        missing: What to do where there is none; None: as `fix`.
        fix: What to do where it cannot be read.

    Raises:
        BadInputError: There is no such file.
        DamagedError: It is a folder or no file, cannot be read, or is too large.
    """
    try:
        # A pipe that nobody writes to would be waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as handle:
            facts = os.fstat(handle.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise DamagedError("is not a file", where=path, fix=fix)
            if most is not None and facts.st_size > most:
                raise DamagedError(f"has {facts.st_size:,} bytes, more than {most:,}", where=path, fix=fix)
            return handle.read()
    except FileNotFoundError as error:
        raise BadInputError("no such file", where=path, fix=missing or fix) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DamagedError(f"cannot be read: {reason}", where=path, fix=fix) from error


def read_json(path: Path, limits: Limits = DATA, *, missing: str | None = None, fix: str | None = None) -> Any:
    """The content of a JSON file, in plain types.

    Args:
        path: The file, UTF-8.
        limits: How much it may hold.
        missing: What to do where there is none; None: as `fix`.
        fix: What to do where it is damaged.

    Raises:
        BadInputError: There is no such file.
        DamagedError: It cannot be read, is not JSON, or holds what is refused.
    """
    return parse_json(read_bytes(path, most=limits.bytes, missing=missing, fix=fix), path, limits, fix=fix)


def read_object(path: Path, what: str, limits: Limits = DATA, *, fix: str | None = None) -> dict[str, Any]:
    """A JSON file that holds an object.

    Args:
        path: The file.
        what: What it is, for the error.
        limits: How much it may hold.
        fix: What to do where it is damaged.

    Raises:
        BadInputError: There is no such file.
        DamagedError: It cannot be read, is not JSON, holds what is refused, or no object.
    """
    content = read_json(path, limits, fix=fix)
    if not isinstance(content, dict):
        raise DamagedError(f"is no {what}", where=path, fix=fix)
    return content


def parse_json(content: bytes | str, where: Path | str, limits: Limits = DATA, *, fix: str | None = None) -> Any:
    """JSON that was read already; see `read_json`.

    Raises:
        DamagedError: It is not JSON, or holds what is refused.
    """
    text = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return _parsed("JSON", lambda: _json(text, limits), where, fix)


def read_json_lines(
    path: Path, limits: Limits = CONFIG, *, missing: str | None = None, fix: str | None = None
) -> Iterator[tuple[int, Any]]:
    """Number, from 1, and content of each line of a file of JSON lines.

    A last line without its end that is no JSON was cut short when its writer was killed, and is left out; see
    `unfinished`.

    Raises:
        BadInputError: There is no such file.
        DamagedError: It cannot be read, or a line is not JSON or holds what is refused; the error names the line.
    """
    content = read_bytes(path, most=DATA.bytes, missing=missing, fix=fix)
    whole = content[: len(content) - unfinished(content)]
    for number, line in enumerate(whole.removesuffix(b"\n").split(b"\n") if whole else (), 1):
        where = f"{path}:{number}"
        if len(line) > _LINES:
            raise DamagedError(f"has a line of {len(line):,} bytes, more than {_LINES:,}", where=where, fix=fix)
        yield number, parse_json(line, where, limits, fix=fix)


def unfinished(content: bytes) -> int:
    """Bytes of a last line that its writer did not finish; 0 where the last line is whole."""
    last = content[content.rfind(b"\n") + 1 :]
    if not last:
        return 0
    try:
        _json(last, CONFIG)
    except Exception:  # noqa: BLE001,RUF100 - whatever is wrong with it, it is not whole
        return len(last)
    return 0


def read_yaml(path: Path, limits: Limits = CONFIG, *, missing: str | None = None, fix: str | None = None) -> Any:
    """The content of a YAML file, in the types that JSON has.

    Args:
        path: The file, UTF-8.
        limits: How much it may hold.
        missing: What to do where there is none; None: as `fix`.
        fix: What to do where it is damaged.

    Raises:
        BadInputError: There is no such file.
        DamagedError: It cannot be read, is not YAML, or holds what is refused.
    """
    content = read_bytes(path, most=limits.bytes, missing=missing, fix=fix)
    return _parsed("YAML", lambda: _yaml(content, limits), path, fix)


def read_toml(path: Path, limits: Limits = CONFIG, *, missing: str | None = None, fix: str | None = None) -> Any:
    """The content of a TOML file, in the types that JSON has.

    Raises:
        BadInputError: There is no such file.
        DamagedError: It cannot be read, is not TOML, or holds what is refused.
    """
    content = read_bytes(path, most=limits.bytes, missing=missing, fix=fix)
    return _parsed("TOML", lambda: plain(tomllib.loads(content.decode("utf-8-sig")), limits), path, fix)


class _RefusedError(Exception):
    """It can be parsed, and is refused."""


def _parsed(kind: str, parse: Callable[[], Any], where: Path | str, fix: str | None) -> Any:
    """The one boundary: what a parser raises names the file."""
    try:
        return parse()
    except _RefusedError as error:
        raise DamagedError(str(error), where=where, fix=fix) from error
    except RecursionError as error:
        raise DamagedError(f"is not valid {kind}: it is nested too deeply", where=where, fix=fix) from error
    except UnicodeDecodeError as error:
        what = f"is not valid {kind}: it is no UTF-8 (byte {error.start:,})"
        raise DamagedError(what, where=where, fix=fix) from error
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise DamagedError(f"is not valid {kind}: {said}", where=where, fix=fix) from error


def _json(content: bytes, limits: Limits) -> Any:
    if sum(content.count(sign) for sign in _SIGNS) > limits.values:
        raise _RefusedError(f"holds more than {limits.values:,} values")
    found = json.loads(
        content.decode("utf-8-sig"), object_pairs_hook=_without_doubles, parse_constant=_constant, parse_int=_integer
    )
    return plain(found, limits)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RefusedError(f"has the key {key!r:.80} twice")
        found[key] = value
    return found


def _constant(word: str) -> Any:
    raise _RefusedError(f"holds {word}, which is no number")


def _integer(digits: str) -> int:
    # Python refuses thousands of digits, and takes a square of their number in time for fewer.
    if len(digits) > _LONGEST_INTEGER:
        raise _RefusedError(f"holds a number of {len(digits):,} digits")
    return int(digits)


def plain(content: Any, limits: Limits) -> Any:
    """The same content, which may be no deeper than allowed, and of the types that JSON has.

    Raises:
        Exception: It is not; the message says what is refused.
    """
    left: list[tuple[Any, int]] = [(content, 0)]
    count = 0
    while left:
        value, depth = left.pop()
        count += 1
        if count > limits.values:
            raise _RefusedError(f"holds more than {limits.values:,} values")
        if isinstance(value, dict | list):
            if depth >= limits.depth:
                raise _RefusedError(f"is nested more than {limits.depth} deep")
            left += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]
            for key in value if isinstance(value, dict) else ():
                _check_key(key)
        else:
            _check_scalar(value)
    return content


def _check_key(key: Any) -> None:
    if not isinstance(key, str):
        raise _RefusedError(f"has the key {key!r:.80}, which is no text")
    _check_scalar(key)


def _check_scalar(value: Any) -> None:
    if isinstance(value, str):
        if _UNPAIRED.search(value):
            raise _RefusedError(f"holds text that is no Unicode: {value!r:.80}")
    elif isinstance(value, int):
        if not -_MOST_INTEGER < value < _MOST_INTEGER:
            raise _RefusedError("holds a number of more than 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _RefusedError("holds a number that is not finite")
    elif value is not None:
        raise _RefusedError(f"holds a {type(value).__name__} ({value!s:.80})")


def _yaml(content: bytes, limits: Limits) -> Any:
    import yaml

    text = content.decode("utf-8-sig")
    found = None
    loader: Any = yaml.SafeLoader(text)
    try:
        builder = _YamlBuilder(loader, limits)
        found = builder.document()
    finally:
        loader.dispose()
    return plain(found, limits)


class _YamlBuilder:
    """Makes plain values of YAML's events, and never keeps more of them than allowed."""

    def __init__(self, loader: Any, limits: Limits) -> None:
        self._loader, self._limits, self._count = loader, limits, 0

    def document(self) -> Any:
        """The file's one document; None where it is empty."""
        import yaml

        self._next(yaml.StreamStartEvent)
        if self._loader.check_event(yaml.StreamEndEvent):
            return None
        self._next(yaml.DocumentStartEvent)
        found = self._value(0)
        self._next(yaml.DocumentEndEvent)
        self._next(yaml.StreamEndEvent)
        return found

    def _next(self, kind: type[yaml.Event]) -> None:
        event = self._loader.get_event()
        if not isinstance(event, kind):
            raise _RefusedError("holds more than one document")

    def _value(self, depth: int) -> Any:
        import yaml

        event: Any = self._loader.get_event()
        self._count += 1
        if self._count > 2 * self._limits.values or depth > self._limits.depth:
            raise _RefusedError("holds too many values, or nests them too deeply")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _RefusedError(f"line {event.start_mark.line + 1}: has an alias or an anchor")
        if event.tag is not None:
            raise _RefusedError(f"line {event.start_mark.line + 1}: has the tag {event.tag!r:.80}")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(depth)
        return self._mapping(depth)

    def _list(self, depth: int) -> list[Any]:
        import yaml

        found = []
        while not self._loader.check_event(yaml.SequenceEndEvent):
            found.append(self._value(depth + 1))
        self._loader.get_event()
        return found

    def _mapping(self, depth: int) -> dict[str, Any]:
        import yaml

        found: dict[str, Any] = {}
        while not self._loader.check_event(yaml.MappingEndEvent):
            line = self._loader.peek_event().start_mark.line + 1
            key = self._value(depth + 1)
            if not isinstance(key, str) or key == "<<":
                quotes = "" if isinstance(key, str) else " without quotes"
                raise _RefusedError(f"line {line}: has the key {key!r:.80}, which is no name{quotes}")
            if key in found:
                raise _RefusedError(f"line {line}: has the key {key!r:.80} twice")
            found[key] = self._value(depth + 1)
        self._loader.get_event()
        return found

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        """As YAML's safe loader reads it."""
        import yaml

        tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag.endswith(":int") and len(event.value) > _LONGEST_INTEGER:
            raise _RefusedError(f"holds a number of {len(event.value):,} digits")
        return self._loader.construct_object(yaml.ScalarNode(tag, event.value), deep=True)
