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
        sortable: Whether a page lets its reader sort the rows by a column.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    words: tuple[int, ...] = (0,)
    sortable: bool = False


@dataclass(frozen=True)
class Figure:
    """A picture, the same in words, and the numbers that it is drawn from.

    Attributes:
        name: Of its file of numbers, without the ending; no other figure of the document has it.
        title: One line above it.
        says: What is seen in it, for who does not see it.
        svg: As `ttl_deploy.pages.svg` draws it.
        data: CSV.
    """

    name: str
    title: str
    says: str
    svg: str
    data: str


@dataclass(frozen=True)
class Card:
    """One number of the answer.

    Attributes:
        title: What it is.
        value: The number or the verdict.
        note: How sure it is, or against what.
    """

    title: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, tables, figures.

    Attributes:
        title: The heading.
        paragraphs: Text.
        tables: Below the text.
        figures: Below the tables.
        level: Of the heading: 2, or 3 below one of 2.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    level: int = 2


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: Its heading.
        lead: The one thing to know.
        command: The command that makes it.
        facts: What it depends on, such as library versions.
        sections: The rest.
        cards: The answer in numbers, below the lead.
    """

    title: str
    lead: str
    command: str
    facts: str
    sections: tuple[Section, ...]
    cards: tuple[Card, ...] = ()


def to_html(document: Document) -> str:
    """A self-contained page of text and tables."""
    return render("document.html.j2", document=document)


def to_page(document: Document) -> str:
    """A self-contained page with cards, figures and tables that can be sorted, for small screens and dark ones too."""
    return render("report.html.j2", document=document)


def to_markdown(document: Document) -> str:
    """Markdown with the command that makes it on top."""
    lines = [f"<!-- Made by `{document.command}`; do not edit. -->", "", f"# {document.title}", "", document.lead, ""]
    lines += [_markdown_card(card) for card in document.cards] + [""] * bool(document.cards)
    lines += [f"Made by `{document.command}` with {document.facts}."]
    for section in document.sections:
        lines += ["", f"{'#' * section.level} {section.title}"]
        for paragraph in section.paragraphs:
            lines += ["", paragraph]
        for table in section.tables:
            lines += ["", *([f"{table.caption}:", ""] if table.caption else []), *_markdown_table(table)]
        for figure in section.figures:
            lines += ["", *_markdown_figure(figure)]
    return "\n".join(lines) + "\n"


def _markdown_card(card: Card) -> str:
    return f"- **{card.title}: {card.value}**" + (f", {card.note}" if card.note else "")


def _markdown_figure(figure: Figure) -> list[str]:
    """In words and numbers: text holds no picture, and one of a second file could be lost."""
    summary = f"<details><summary>{figure.name}.csv</summary>"
    numbers = ["```csv", figure.data.rstrip("\n"), "```"]
    return [f"**{figure.title}.** {figure.says}", "", summary, "", *numbers, "", "</details>"]


def _markdown_table(table: Table) -> list[str]:
    rule = ["---" if column in table.words else "---:" for column in range(len(table.columns))]
    return [_markdown_row(cells) for cells in (table.columns, rule, *table.rows)]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
