"""One document, two renderings: the same facts in both, and text stays text."""

import pytest

from ttl_deploy.pages.document import Document, Section, Table, to_html, to_markdown


@pytest.fixture
def document() -> Document:
    table = Table(("row", "number", "verdict"), (("a|b", "1", "reproduced"), ("<c>", "2", "deviates")), "Rows", (0, 2))
    section = Section("First", ("A paragraph.",), (table,))
    return Document("Title", "The lead.", "ttl-deploy something", "library 1.0", (section,))


def test_markdown_is_a_table_with_the_command_on_top(document: Document) -> None:
    assert to_markdown(document).splitlines() == [
        "<!-- Made by `ttl-deploy something`; do not edit. -->",
        "",
        "# Title",
        "",
        "The lead.",
        "",
        "Made by `ttl-deploy something` with library 1.0.",
        "",
        "## First",
        "",
        "A paragraph.",
        "",
        "Rows:",
        "",
        "| row | number | verdict |",
        "| --- | ---: | --- |",
        "| a\\|b | 1 | reproduced |",
        "| <c> | 2 | deviates |",
    ]


def test_the_page_holds_the_same_and_escapes_it(document: Document) -> None:
    page = to_html(document)
    for text in ("<h1>Title</h1>", "The lead.", "<h2>First</h2>", "A paragraph.", "a|b", "&lt;c&gt;", "library 1.0"):
        assert text in page
    assert '<td class="words pass">reproduced</td>' in " ".join(page.split()).replace("  ", " ").replace(
        " pass", " pass"
    )
    assert "machine" not in page
