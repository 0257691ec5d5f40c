"""The errors a user may meet: each says what is wrong, where, and the way out, in one line.

Everything the package raises on purpose derives from `TtlDeployError`; the command line turns it into one line
on stderr and the exit code of its class, and shows a traceback only with `--debug`.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import ClassVar

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, line and paragraph separators, and what turns the direction of the text after it."""


def printable(text: str, keep: str = "") -> str:
    r"""A text with its control characters spelled out (`\x1b`), so that no name steers the terminal it is shown on.

    Args:
        text: Any text, such as the name of a class or a file.
        keep: Control characters that stay.
    """
    return _CONTROLS.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), text
    )


class TtlDeployError(Exception):
    """An error with its place and its way out.

    Args:
        what: What is wrong, with the offending value.
        where: The file, folder or option it is about.
        fix: What to do about it.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, *, where: str | PathLike[str] | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        place = f"{where}: " if where is not None else ""
        super().__init__(printable(" ".join(f"{place}{what}{f'; {fix}' if fix else ''}".split())))


class BadInputError(TtlDeployError):
    """A file, an option or a value that the user gave cannot be used."""


class UnreadableImageError(BadInputError):
    """An image is missing, empty, truncated, not an image, or larger than the pixel limit."""


class WeightsError(BadInputError):
    """Pretrained weights cannot be had or do not fit the layers that would use them."""


class MissingDependencyError(TtlDeployError):
    """An optional package, a device or a runtime is not present."""


@contextmanager
def needing(package: str, what: str, extra: str) -> Iterator[None]:
    """Turns an import that fails in the block into one line.

    Args:
        package: What cannot be imported.
        what: What needs it.
        extra: The extra of ttl-deploy that brings it.

    Raises:
        MissingDependencyError: It cannot be imported; the error says how it is installed.
    """
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} {package}, which cannot be imported ({one_line(error)})", fix=f"pip install 'ttl-deploy[{extra}]'"
        ) from error


def one_line(error: Exception) -> str:
    """What an exception says, in one line that is not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__


class UndecodedImageError(UnreadableImageError, MissingDependencyError):
    """An image may be whole, and no package that decodes it is installed.

    Args:
        what: What it is.
        where: The file.
        packages: Packages that read it, as `pip install` takes them.
    """

    def __init__(self, what: str, *, where: str | PathLike[str] | None = None, packages: str = "") -> None:
        super().__init__(what, where=where, fix=packages and f"pip install {packages}, or decompress the file")
        self.packages = packages


class StorageError(TtlDeployError):
    """A file cannot be written where it was asked for: the disk is full, read-only or failing, or the path is none."""

    REASONS: ClassVar[dict[int, str]] = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.EIO: "the disk reports an input/output error",
        errno.EFBIG: "the file would be larger than the file system allows",
        errno.ENAMETOOLONG: "the name is longer than the file system allows",
        errno.ENOTDIR: "a part of the path is a file and no folder",
        errno.EEXIST: "a part of the path is a file and no folder",
        errno.EISDIR: "is a folder",
        errno.EBUSY: "is in use by the system, perhaps as a mount point",
    }

    _WAYS_OUT: ClassVar[dict[int, str]] = {
        errno.ENOSPC: "free space or choose another place, then run again",
        errno.EDQUOT: "remove files of yours or choose another place, then run again",
        errno.EROFS: "choose a place that can be written to",
        errno.EACCES: "choose another place, or have the permissions changed",
        errno.EPERM: "choose another place, or have the permissions changed",
        errno.EFBIG: "choose a place on another file system",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.EISDIR: "choose the name of a file",
        errno.EBUSY: "choose a place inside it",
    }

    @classmethod
    def of(cls, error: OSError, where: str | PathLike[str] | None = None) -> StorageError:
        """The error for an operating-system error whose number is in `REASONS`."""
        number = error.errno or 0
        way_out = cls._WAYS_OUT.get(number, "choose another place")
        return cls(cls.REASONS[number], where=where or error.filename, fix=way_out)


class TrainingError(TtlDeployError):
    """Training cannot go on, for example because the loss is not a number."""


class IntegrityError(TtlDeployError):
    """A file is not the one its record describes (a hash, a schema or a size differs)."""


class DamagedError(BadInputError, IntegrityError):
    """A file that the user names, or one inside what is named, cannot be read as what it should be."""


class CheckFailedError(TtlDeployError):
    """A check (parity, regression) gave the verdict fail."""

    exit_code = 1


@contextmanager
def about(where: str | PathLike[str]) -> Iterator[None]:
    """Gives the errors of a block that name no place the place that the wrong value comes from."""
    try:
        yield
    except TtlDeployError as error:
        if error.where is not None:
            raise
        raise type(error)(error.what, where=where, fix=error.fix) from error


def near(name: str, options: Iterable[str], count: int = 4) -> str:
    """Lists the options closest to a name, for the end of an error line.

    Args:
        name: What the user wrote.
        options: What exists.
        count: How many to list at most.

    Returns:
        `"nearest: a, b"`, or `"valid: …"` with all of them where there are few.
    """
    known = list(options)
    if len(known) <= count + 2:
        return "valid: " + ", ".join(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.3) or known[:count]
    return "nearest: " + ", ".join(close)
