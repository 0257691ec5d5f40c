"""Charts as inline SVG: text stays text, ink takes the page's colour, and the same numbers give the same bytes.

matplotlib draws them. What it adds of its own, a date, a program's name, styles for the whole page and names that two
charts would share, is taken away.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, LINE = "#1f2934", "#d9e2ed"
"""Of text and axes, and of the grid: in the page they become the page's own, light or dark."""

COLOURS = ("#0b7a75", "#d1495b", "#3d6fd1", "#b7791f", "#8a5cc2", "#5b8c2a", "#c2527f", "#6b7785")
"""Of series, told from a white ground and a dark one."""
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 3)), (0, (1, 2)))
"""Of series too, for who sees no colours or prints in grey."""

_NOTHING = dict.fromkeys(("Date", "Creator", "Format", "Type"))
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
"""Of matplotlib, for every chart of a page."""


def drawn(name: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """An `<svg>` element as wide as the page lets it be.

    Args:
        name: No other chart of the page has it.
        size: Inches, in which a letter is as large as in a text.
        draw: Fills the figure.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        draw(figure)
        for axes in figure.axes:
            axes.set_facecolor("none")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=_NOTHING)
    return _inline(buffer.getvalue(), name)


def _inline(text: str, name: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<svg[^>]*?viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    used = set(re.findall(r"[\"(]#([^\")]+)", text))
    text = re.sub(r" id=\"([^\"]*)\"", lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r"([\"(])#((?![0-9a-f]{6}\b)[^\")]+)", rf"\1#{name}-\2", text)
    text = text.replace("xlink:href", "href").replace(INK, "currentColor").replace(LINE, "var(--line)")
    return re.sub(r"\n\s*", "\n", text).strip()
