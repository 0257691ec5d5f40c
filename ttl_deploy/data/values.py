"""What cells and names mean: which words say that a value is not known, and which writings are one value.

Real tables hold `7` beside `7.0` (a column that once had a gap), `Normal` beside `normal `, and `nan` for nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping

from ttl_deploy.tasks import UNKNOWN

MISSING = frozenset({"", "nan", "null", "none", "nil", "na", "n/a", "n.a.", "#n/a", "<na>", "nat"})
"""What programs write for a value that is not there, in lower case."""

_NO_NAME = MISSING | {"unknown", "-", "--", "?", "."}
"""What people write in place of a patient besides."""

_WHOLE = re.compile(r"([+-]?\d+)(?:[.,]0*)?")
"""A whole number, with or without the zeros behind a decimal point or comma."""

_MARKS = {"0": 0, "1": 1, "-1": UNKNOWN}


def tidy(text: str) -> str:
    """One writing of the same characters: outer spaces gone, inner ones single, accents composed."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def is_missing(text: str) -> bool:
    """Whether a cell says that there is no value."""
    return text.casefold() in MISSING


def patient_of(text: str) -> str | None:
    """The patient in a cell; None where the cell says that it is not known."""
    return None if tidy(text).casefold() in _NO_NAME else tidy(text)


def one_writing(counts: Mapping[str, int]) -> dict[str, str]:
    """Each value in the one writing it has here.

    `7` and `7.0` are one value; so are writings that differ in upper and lower case only. `007` is `7` where every
    value is a whole number, and a text of its own where some are not. A value is written in its shortest form, of
    equally short ones the most frequent.

    Args:
        counts: How often each writing occurs.

    Returns:
        The writing to use for each writing.
    """
    writings: dict[object, list[str]] = defaultdict(list)
    numbers = all(_WHOLE.fullmatch(tidy(text)) for text in counts)
    for text in counts:
        writings[_key(tidy(text), numbers)].append(text)
    best = [min(group, key=lambda text: (len(text), -counts[text], text)) for group in writings.values()]
    return {text: chosen for chosen, group in zip(best, writings.values(), strict=True) for text in group}


def merged(writing: Mapping[str, str]) -> dict[str, list[str]]:
    """The values that had several writings, with all of them."""
    groups: dict[str, list[str]] = defaultdict(list)
    for text, chosen in writing.items():
        groups[chosen].append(text)
    return {chosen: sorted(group) for chosen, group in groups.items() if len(group) > 1}


def same_value(first: str, second: str) -> bool:
    """Whether two writings mean one value, as `one_writing` would say of them alone."""
    return _key(tidy(first), True) == _key(tidy(second), True)


def mark_of(text: str) -> int | None:
    """What a cell of a label's own column says: 1, 0, `UNKNOWN` for -1 and for no value; None: it is no mark."""
    if is_missing(text):
        return UNKNOWN
    whole = _WHOLE.fullmatch(text)
    return _MARKS.get(whole_number(whole[1])) if whole else None


def whole_number(text: str) -> str:
    """One writing of a whole number of any length; Python makes no number of thousands of digits."""
    digits = "".join(str(unicodedata.digit(sign)) for sign in text.lstrip("+-")).lstrip("0")
    return f"-{digits}" if text.startswith("-") and digits else digits or "0"


def _key(text: str, numbers: bool) -> object:
    whole = _WHOLE.fullmatch(text)
    if whole:
        return whole_number(whole[1]) if numbers else whole[1]
    return text.casefold()
