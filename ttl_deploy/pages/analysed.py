"""What analyses find as pictures (PNG), and the page (Markdown) that shows them.

Layers stand on the horizontal axis under the names of the cuts, so that every curve has a search's axis.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from ttl_deploy.analysis.finding import Curves, Grids, Lines, Maps, Panels, Series, Sheet, Tile
from ttl_deploy.analysis.finding import Figure as Drawn
from ttl_deploy.pages.charts import png
from ttl_deploy.pages.svg import COLOURS, INK, STYLE, STYLES

_DPI = 130
_CROWDED = 20
"""Names of layers from which on they are written small."""
_PANELS_A_ROW = 4
_GRIDS_A_ROW = 3
_MARK = "#6b7785"
_HEAT = "inferno"
_TILE = 2.1
"""Inches of a picture of a sheet."""
_SHEET_DPI = 100
_TITLE = 24
"""Letters of a line above one."""


def picture(figure: Drawn) -> bytes:
    """A figure as PNG."""
    with mpl.rc_context(STYLE):
        return png(_drawn(figure), drawn=not isinstance(figure, Grids | Sheet))


@singledispatch
def _drawn(figure: Drawn) -> Figure:
    raise TypeError(f"no picture of {type(figure).__name__}")


@_drawn.register
def _lines(figure: Lines) -> Figure:
    count = len(figure.places)
    drawn = Figure(figsize=(min(14.0, max(5.5, 2.4 + 0.36 * count)), 4.2), dpi=_DPI, layout="constrained")
    axes = drawn.subplots()
    for number, series in enumerate(figure.series):
        _line(axes, np.arange(count, dtype=np.float64), series, number)
    _levels(axes, figure.levels)
    if figure.mark is not None:
        place, words = figure.mark
        axes.axvline(figure.places.index(place) + 0.5, color=_MARK, linestyle=":", linewidth=1.4, label=words)
    small = 7.5 if count > _CROWDED else 9.0
    axes.set_xticks(range(count), figure.places, rotation=60, ha="right", rotation_mode="anchor", fontsize=small)
    axes.set_xlim(-0.5, count - 0.5)
    if figure.logarithmic and any(value for series in figure.series for value in series.values):
        _logarithmic(axes)
    if figure.span is not None:
        axes.set_ylim(*figure.span)
    axes.set_ylabel(figure.label)
    _legend(drawn, axes)
    return drawn


def _logarithmic(axes: Axes) -> None:
    """With numbers as text: a page's charts write no formulas."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


@_drawn.register
def _curves(figure: Curves) -> Figure:
    drawn = Figure(figsize=(7.0, 4.2), dpi=_DPI, layout="constrained")
    axes = drawn.subplots()
    for number, (series, across) in enumerate(figure.series):
        _line(axes, np.asarray(across), series, number, marker="o" if figure.marked else "")
    _levels(axes, figure.levels)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(figure.across)
    axes.set_ylabel(figure.label)
    _legend(drawn, axes)
    return drawn


@_drawn.register
def _panels(figure: Panels) -> Figure:
    across = min(_PANELS_A_ROW, len(figure.panels))
    down = math.ceil(len(figure.panels) / across)
    drawn = Figure(figsize=(1.0 + 2.6 * across, 0.7 + 2.3 * down), dpi=_DPI, layout="constrained")
    grid = drawn.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for axes, (title, lines) in zip(grid.flat, figure.panels, strict=False):
        for number, series in enumerate(lines):
            _line(axes, np.linspace(0, 1, len(series.values)), series, number, marker="")
        axes.set_title(title, fontsize=10)
    for axes in grid.flat[len(figure.panels) :]:
        axes.set_visible(False)
    drawn.supxlabel(figure.across, fontsize=10)
    drawn.supylabel(figure.label, fontsize=10)
    _legend(drawn, grid.flat[0])
    return drawn


@_drawn.register
def _maps(figure: Maps) -> Figure:
    side = min(7.0, max(3.6, 1.6 + 0.24 * max(len(one.columns) for one in figure.maps)))
    # Squares as wide as they can be leave the layout no room of its own for what is written above and below them.
    below = 0.07 * max(len(name) for one in figure.maps for name in one.columns)
    drawn = Figure(figsize=(side * len(figure.maps) + 0.8, side + 0.5 + below), dpi=_DPI, layout="constrained")
    row = drawn.subplots(1, len(figure.maps), squeeze=False)[0]
    for axes, one in zip(row, figure.maps, strict=True):
        shown = axes.imshow(
            one.values, vmin=0, vmax=figure.most, cmap="viridis", origin="lower", interpolation="nearest"
        )
        small = 7.0 if len(one.columns) > _CROWDED else 8.5
        axes.set_xticks(range(len(one.columns)), one.columns, rotation=60, ha="right", rotation_mode="anchor")
        said = axes is row[0] or one.rows != figure.maps[0].rows
        axes.set_yticks(range(len(one.rows)), one.rows if said else [""] * len(one.rows))
        axes.tick_params(labelsize=small)
        axes.grid(False)
        axes.set_title(one.title, fontsize=10)
        axes.set_xlabel(one.across)
        if figure.written:
            _write(axes, one.values, figure.most)
    row[0].set_ylabel(figure.upward)
    drawn.colorbar(shown, ax=row.tolist(), shrink=0.8)
    return drawn


def _write(axes: Axes, values: NDArray[np.float64], most: float) -> None:
    for (down, across), value in np.ndenumerate(values):
        if math.isfinite(value):
            colour = "white" if value < 0.6 * most else INK
            axes.text(across, down, _number(value, most), ha="center", va="center", color=colour, fontsize=8.5)


def _number(value: float, most: float) -> str:
    return f"{value:.2f}" if most <= 1 else f"{value:.3g}"


@_drawn.register
def _grids(figure: Grids) -> Figure:
    across = min(_GRIDS_A_ROW, len(figure.grids))
    down = math.ceil(len(figure.grids) / across)
    layout = ConstrainedLayoutEngine(wspace=0.06, hspace=0.03)
    drawn = Figure(figsize=(4.4 * across, 4.8 * down), dpi=_DPI if down == 1 else _SHEET_DPI, layout=layout)
    every = drawn.subplots(down, across, squeeze=False)
    for axes in every.flat:
        axes.set_axis_off()
    for axes, (title, pictures) in zip(every.flat, figure.grids, strict=False):
        axes.imshow(_mosaic(pictures), vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title, fontsize=11)
    return drawn


@_drawn.register
def _sheet(figure: Sheet) -> Figure:
    down, across = len(figure.rows), len(figure.columns)
    titles = ["\n".join(textwrap.fill(line, _TITLE) for line in title.splitlines()) for title in figure.columns]
    above = 0.16 * max(title.count("\n") + 1 for title in titles)
    size = (_TILE * across + 1.3, (_TILE + 0.26) * down + above + 0.3)
    drawn = Figure(figsize=size, dpi=_SHEET_DPI, layout=ConstrainedLayoutEngine(hspace=0.01, wspace=0.02))
    grid = drawn.subplots(down, across, squeeze=False)
    for line, title, tiles in zip(grid, figure.rows, figure.tiles, strict=True):
        for axes, tile in zip(line, tiles, strict=True):
            _tile(axes, tile)
        line[0].set_ylabel(title, fontsize=8.5, linespacing=1.3)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    drawn.supxlabel(figure.note, fontsize=8.5)
    colours = ScalarMappable(Normalize(0, 1), _HEAT)
    drawn.colorbar(colours, ax=grid.ravel().tolist(), shrink=0.6, aspect=30).set_label(figure.scale, fontsize=8.5)
    return drawn


def _tile(axes: Axes, tile: Tile) -> None:
    axes.imshow(np.broadcast_to(tile.picture, (*tile.picture.shape[:2], 3)), vmin=0, vmax=1)
    if tile.heat is not None:
        # Where there is little, the picture shows through.
        axes.imshow(tile.heat, vmin=0, vmax=1, cmap=_HEAT, alpha=0.8 * tile.heat**0.8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel(tile.words, fontsize=8)


def _mosaic(pictures: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows x H, columns x W, 3), as square as can be, with white between the pictures."""
    side = math.ceil(math.sqrt(len(pictures)))
    height, width = pictures.shape[1] + 1, pictures.shape[2] + 1
    whole = np.ones((math.ceil(len(pictures) / side) * height - 1, side * width - 1, 3))
    for number, one in enumerate(pictures):
        down, across = number // side * height, number % side * width
        whole[down : down + one.shape[0], across : across + one.shape[1]] = one
    return whole


def _line(axes: Axes, across: NDArray[np.floating], series: Series, number: int, marker: str = "o") -> None:
    values = [np.nan if value is None else value for value in series.values]
    style = STYLES[number % len(STYLES)]
    colour = COLOURS[number % len(COLOURS)]
    axes.plot(across, values, color=colour, linestyle=style, marker=marker, markersize=4, label=series.name)


def _levels(axes: Axes, levels: Mapping[str, float]) -> None:
    for words, value in levels.items():
        axes.axhline(value, color=_MARK, linestyle="--", linewidth=1.2, label=words)


def _legend(drawn: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        drawn.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=9)


@dataclass(frozen=True)
class Told:
    """An analysis on the page.

    Attributes:
        name: Of the analysis.
        sentence: What it shows; or why it does not.
        pictures: What each shows, by its file relative to the page, the main one first; empty where nothing is said.
        numbers: Files, likewise.
    """

    name: str
    sentence: str
    pictures: Mapping[str, str] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()


def page(title: str, facts: Sequence[str], parts: Iterable[tuple[str, Sequence[Told]]]) -> str:
    """Markdown: a sentence for each analysis and its pictures, and in the end what was left out and why.

    Args:
        title: Of the page.
        facts: Below it, a line each.
        parts: Heading of a run, or nothing where there is one, and its analyses.
    """
    lines = [f"# {title}", "", *(f"{fact}  " for fact in facts), ""]
    for heading, told in parts:
        level = "###" if heading else "##"
        lines += [f"## {heading}", ""] if heading else []
        for one in told:
            shown = next(iter(one.pictures.values()), "")
            lines += [f"{level} {one.name}{shown and f': {shown}'}", "", one.sentence, ""]
            lines += [f"![{title or one.name}]({_address(file)})" for file, title in one.pictures.items()]
            lines += (
                ["", "Numbers: " + ", ".join(f"[{f}]({_address(f)})" for f in one.numbers), ""] if one.numbers else []
            )
    return "\n".join(lines).rstrip() + "\n"


def _address(file: str) -> str:
    from urllib.parse import quote

    return quote(file)
