"""JSON of strangers: counted before it is parsed, because a byte of text can become fifty of objects.

Counting takes a small part of the time that parsing takes, and no memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ttl_deploy.serve.request_error import RequestError


@dataclass(frozen=True)
class JsonLimits:
    """How much a text may hold. Signs inside strings are counted too; base64 has none of them.

    Attributes:
        values: Elements of arrays and objects together.
        arrays: Arrays.
        strings: Strings, keys among them.
        objects: Objects.
    """

    values: int
    arrays: int
    strings: int
    objects: int = 256


def parse_object(text: bytes, limits: JsonLimits) -> dict[str, Any]:
    """The object that a text holds.

    Args:
        text: JSON in UTF-8.
        limits: What it may hold.

    Raises:
        RequestError: It holds too much, is nested too deeply, is not JSON, or no object.
    """
    _refuse_many(text, limits)
    try:
        content = json.loads(text.decode())
    except RecursionError as error:
        raise RequestError("the body is not valid JSON: it is nested too deeply") from error
    except ValueError as error:
        raise RequestError("the body is not valid JSON") from error
    if not isinstance(content, dict):
        raise RequestError("the body is not a JSON object")
    return content


def _refuse_many(text: bytes, limits: JsonLimits) -> None:
    counted = (
        ("objects", text.count(b"{"), limits.objects),
        ("arrays", text.count(b"["), limits.arrays),
        ("values", text.count(b","), limits.values),
        ("strings", text.count(b'"') // 2, limits.strings),
    )
    for name, found, most in counted:
        if found > most:
            raise RequestError(f"the JSON has {found:,} {name}, more than the {most:,} a request can need")
