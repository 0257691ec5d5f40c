"""Charts as inline SVG: the same bytes every time, names apart, text as text, ink of the page's colour."""

import re
import xml.etree.ElementTree as ET

import numpy as np
from matplotlib.figure import Figure

from ttl_deploy.pages import figures, svg
from ttl_deploy.pages.curves import Curve


def chart(name: str) -> str:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], marker="o", label="a <b> & $c$")
        axes.legend()

    return svg.drawn(name, (3, 2), draw)


def test_the_same_chart_has_the_same_bytes_and_nothing_of_the_program_that_drew_it() -> None:
    assert chart("one") == chart("one")
    assert "matplotlib" not in chart("one").lower()
    assert "<style" not in chart("one")
    assert "<metadata" not in chart("one")


def test_no_two_charts_of_a_page_share_a_name_and_every_reference_leads_to_one() -> None:
    for text in (chart("one"), chart("two")):
        names = re.findall(r' id="([^"]*)"', text)
        assert len(names) == len(set(names)) > 0
        assert set(re.findall(r'[("]#([^")]+)', text)) <= set(names)
    assert not set(re.findall(r' id="([^"]*)"', chart("one"))) & set(re.findall(r' id="([^"]*)"', chart("two")))


def test_text_stays_text_and_takes_the_pages_colour() -> None:
    text = chart("one")
    assert "a &lt;b&gt; &amp; $c$" in text
    assert "currentColor" in text
    assert "var(--line)" in text
    assert svg.INK not in text
    ET.fromstring(text.replace(" href=", " xlink="))


def test_a_figure_has_all_curves_in_its_numbers_and_some_in_its_picture() -> None:
    line = np.array([0.0, 1.0])
    many = [Curve(f"class {k}", line, line, line) for k in range(figures.MOST_CURVES + 2)]
    drawn = figures.curves_figure("many", "Many", "says", many, ("recall", "precision"))
    assert drawn.data.splitlines()[0] == "curve,recall,precision,threshold"
    assert len(drawn.data.splitlines()) == 1 + 2 * len(many)
    assert drawn.svg.count(">class ") == figures.MOST_CURVES


def test_a_name_that_a_spreadsheet_would_run_is_text_in_the_numbers() -> None:
    line = np.array([0.0, 1.0])
    drawn = figures.curves_figure("x", "X", "says", [Curve("=1+1", line, line, line)], ("a", "b"))
    assert drawn.data.splitlines()[1].startswith("'=1+1,")
