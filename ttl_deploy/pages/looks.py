"""What `ttl-deploy analyze` found, read back from its folder, as sections of a report. No torch."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, features
from pydantic import ConfigDict, Field

from ttl_deploy import documents
from ttl_deploy.errors import BadInputError
from ttl_deploy.pages.document import Figure, Section
from ttl_deploy.spec import Record, read_record

PAGE = "analysis.md"
"""The page of an analysis' folder, by which it is known."""
_LARGE = 65_536
"""Bytes of a picture from which on a page has it compressed: what is drawn takes less, what is photographed more."""
_AGAIN = "analyse again with `ttl-deploy analyze`"


class Found(Record):
    """The record of one analysis.

    Attributes:
        analysis: Its name.
        sentence: What it shows.
        weights: SHA-256 of the weights of the runs that it looked at.
        pictures: Files beside the record, each with the file of its numbers.
        titles: What the pictures show, by file; of an earlier version's none.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    analysis: str
    sentence: str
    weights: tuple[str, ...]
    pictures: dict[str, str]
    titles: dict[str, str] = Field(default_factory=dict)

    def title(self, picture: str) -> str:
        """The heading of a picture."""
        return self.titles.get(f"{picture}.png") or picture.replace("-", ", ")


@dataclass(frozen=True)
class Look:
    """An analysis with its files.

    Attributes:
        found: The record.
        pictures: PNG and its numbers as CSV, by name.
    """

    found: Found
    pictures: dict[str, tuple[bytes, str]]


def is_analysis(path: Path) -> bool:
    """Whether a path names what `ttl-deploy analyze` wrote."""
    return (path / PAGE).is_file()


def read_looks(folder: Path) -> tuple[Look, ...]:
    """The analyses of a folder, of one run or of several.

    Raises:
        BadInputError: It holds none, or a file of one is gone.
        DamagedError: A record is damaged.
    """
    found = tuple(map(_read, sorted((*folder.glob("*.json"), *folder.glob("*/*.json")))))
    if not found:
        raise BadInputError("holds no analysis", where=folder, fix=_AGAIN)
    return found


def _read(path: Path) -> Look:
    found = read_record(Found, documents.read_object(path, "analysis", fix=_AGAIN), path, fix=_AGAIN)
    try:
        pictures = {
            Path(name).stem: ((path.parent / name).read_bytes(), (path.parent / numbers).read_text("utf-8"))
            for name, numbers in sorted(found.pictures.items(), key=lambda pair: _place(found, pair[0]))
        }
        for content, _numbers in pictures.values():
            with Image.open(io.BytesIO(content)) as image:
                image.load()
    except (OSError, UnicodeDecodeError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInputError(f"names a file that cannot be read: {error}", where=path, fix=_AGAIN) from error
    return Look(found, pictures)


def _place(found: Found, name: str) -> tuple[bool, str]:
    """The main picture first, beside which the sentence stands."""
    return Path(name).stem != found.analysis, name


def section(looks: Sequence[Look], title: str, prefix: str, level: int) -> Iterator[Section]:
    """What the analyses show, in one section; none where there are none."""
    if looks:
        bare = tuple(f"{look.found.analysis}: {look.found.sentence}" for look in looks if not look.pictures)
        yield Section(title, bare, (), tuple(_figures(looks, prefix)), level=level)


def _figures(looks: Sequence[Look], prefix: str) -> Iterator[Figure]:
    for look in looks:
        main = look.found.title(next(iter(look.pictures), ""))
        for place, (name, (content, numbers)) in enumerate(look.pictures.items()):
            kind, small = _compressed(content)
            title = look.found.title(name)
            picture = (
                f'<img alt="{html.escape(title)}" src="data:image/{kind};base64,{base64.b64encode(small).decode()}">'
            )
            says = f"More of: {main}." if place else look.found.sentence
            yield Figure(f"{prefix}-{name}", title, says, picture, numbers)


def _compressed(content: bytes) -> tuple[str, bytes]:
    """The kind and the bytes of a picture as a page holds it; the file beside the record stays as it is."""
    if len(content) < _LARGE or not features.check("webp"):
        return "png", content
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").save(buffer, "WEBP", quality=60)
    return "webp", buffer.getvalue()
