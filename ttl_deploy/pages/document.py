"""A report as sections of text and tables, written once and rendered twice: as Markdown and as an HTML page.

The same document gives the same bytes: nothing of the machine or the time of day goes in unless a caller writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ttl_deploy.pages.html import render


@dataclass(frozen=True)
class Table:
    """A table whose cells are text already.

    Attributes:
        columns: Column heads.
        rows: Cells, as many in each row as there are columns.
        caption: One line above it.
        words: Positions of the columns that hold words; the others hold numbers.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    words: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, tables."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: Its heading.
        lead: The one thing to know.
        command: The command that makes it.
        facts: What it depends on, such as library versions.
        sections: The rest.
    """

    title: str
    lead: str
    command: str
    facts: str
    sections: tuple[Section, ...]


def to_html(document: Document) -> str:
    """A self-contained page."""
    return render("document.html.j2", document=document)


def to_markdown(document: Document) -> str:
    """Markdown with the command that makes it on top."""
    lines = [f"<!-- Made by `{document.command}`; do not edit. -->", "", f"# {document.title}", "", document.lead, ""]
    lines += [f"Made by `{document.command}` with {document.facts}."]
    for section in document.sections:
        lines += ["", f"## {section.title}"]
        for paragraph in section.paragraphs:
            lines += ["", paragraph]
        for table in section.tables:
            lines += ["", *([f"{table.caption}:", ""] if table.caption else []), *_markdown_table(table)]
    return "\n".join(lines) + "\n"


def _markdown_table(table: Table) -> list[str]:
    rule = ["---" if column in table.words else "---:" for column in range(len(table.columns))]
    return [_markdown_row(cells) for cells in (table.columns, rule, *table.rows)]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
