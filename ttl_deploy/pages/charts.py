"""Charts as PNG bytes, drawn by matplotlib without a display.

Colours tell the truncated model from the whole one and stay apart for colour-blind readers and in grey print.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ttl_deploy.inputs.reading import picture

WHOLE, SMALL = "#9aa5b1", "#0b6e4f"


@dataclass(frozen=True)
class Bar:
    """One measured number.

    Attributes:
        group: Row label (an engine).
        value: The number.
        small: Whether it is the truncated model's.
    """

    group: str
    value: float
    small: bool


def latency_chart(bars: Sequence[Bar], whole: str, small: str, title: str) -> bytes:
    """Horizontal bars of latency, a pair per engine.

    Args:
        bars: Milliseconds.
        whole: Legend of the whole network.
        small: Legend of the truncated one.
        title: Says what was measured, where.
    """
    figure = Figure(figsize=(7.6, 0.7 + 0.75 * len({bar.group for bar in bars})), dpi=120, layout="constrained")
    axes = figure.subplots()
    groups = list(dict.fromkeys(bar.group for bar in bars))
    for bar in bars:
        row = groups.index(bar.group) + (0.2 if bar.small else -0.2)
        drawn = axes.barh(row, bar.value, height=0.38, color=SMALL if bar.small else WHOLE)
        axes.bar_label(drawn, fmt="%.1f ms", padding=3, fontsize=9)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.set_xlabel("median latency of one image, milliseconds")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15)
    _legend(axes, whole, small)
    return png(figure)


@dataclass(frozen=True)
class Point:
    """A model on a Pareto picture.

    Attributes:
        name: Its label.
        cost: Latency, parameters or MACs, in the unit of the axis.
        value: Accuracy, higher is better.
        error: Standard error of the value.
        whole: Whether its training was carried to the end.
        chosen: Whether it was chosen.
    """

    name: str
    cost: float
    value: float
    error: float
    whole: bool
    chosen: bool


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats (as cheap and better, or cheaper and as good), cheapest first."""
    best, kept = float("-inf"), []
    for point in sorted(points, key=lambda point: (point.cost, -point.value)):
        if point.value > best:
            best = point.value
            kept.append(point)
    return kept


def pareto_chart(panels: Sequence[tuple[str, Sequence[Point]]], metric: str) -> bytes:
    """Accuracy against cost, a panel per kind of cost: every candidate a point, the frontier a line.

    Args:
        panels: (label of the axis, points).
        metric: Label of the vertical axis.
    """
    figure = Figure(figsize=(4.2 * len(panels), 3.9), dpi=120, layout="constrained")
    for axes, (label, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        best = frontier([point for point in points if point.whole])
        axes.step([p.cost for p in best], [p.value for p in best], where="post", color=SMALL, linewidth=1.5, alpha=0.6)
        for point in points:
            _candidate(axes, point)
        costs = [point.cost for point in points]
        if min(costs) > 0 and max(costs) > 20 * min(costs):
            axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12, y=0.12)
    figure.axes[0].set_ylabel(metric)
    _candidate_legend(figure)
    return png(figure)


def _candidate(axes: Axes, point: Point) -> None:
    colour = SMALL if point.whole else WHOLE
    axes.errorbar(
        point.cost,
        point.value,
        yerr=point.error,
        color=colour,
        marker="D" if point.chosen else "o",
        markersize=9 if point.chosen else 5,
        markerfacecolor=colour if point.whole else "white",
        linestyle="",
        elinewidth=0.8,
        ecolor="#cbd2d9",
    )
    axes.annotate(
        point.name,
        (point.cost, point.value),
        xytext=(4, 4),
        textcoords="offset points",
        fontsize=7.5,
        fontweight="bold" if point.chosen else "normal",
    )


def _candidate_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    styles = [("D", SMALL, SMALL, "chosen"), ("o", SMALL, SMALL, "trained"), ("o", WHOLE, "white", "trained in part")]
    handles = [
        Line2D([], [], marker=marker, color=colour, markerfacecolor=face, linestyle="", label=label)
        for marker, colour, face, label in styles
    ]
    handles.append(Line2D([], [], color=SMALL, alpha=0.6, label="frontier"))
    figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=4, fontsize=8.5)


def roc_chart(curves: Sequence[tuple[str, NDArray[np.float64], NDArray[np.float64], bool]]) -> bytes:
    """ROC curves on the test split.

    Args:
        curves: (label, false positive rate, true positive rate, whether it is the truncated model's).
    """
    figure = Figure(figsize=(3.8, 3.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#cccccc", linewidth=1, linestyle="--")
    for label, false, true, small in curves:
        axes.plot(false, true, color=SMALL if small else WHOLE, linewidth=2, label=label)
    axes.set_xlabel("1 - specificity")
    axes.set_ylabel("sensitivity")
    axes.set_aspect("equal")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    return png(figure)


def image_grid(rows: Sequence[tuple[str, NDArray[np.uint8]]]) -> bytes:
    """Sample images, one labelled row per class.

    Args:
        rows: (class name, images (N, H, W, C), or volumes of which the middle slice is shown).
    """
    columns = max(len(images) for _name, images in rows)
    figure = Figure(figsize=(1.25 * columns, 1.4 * len(rows)), dpi=110, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(grid, rows, strict=True):
        for axes, whole in zip(line, images, strict=False):
            image = picture(whole)
            axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(name, fontsize=9)
    return png(figure)


def _legend(axes: Axes, whole: str, small: str) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=WHOLE, label=whole), Patch(color=SMALL, label=small)]
    axes.legend(handles=handles, frameon=False, loc="lower right", fontsize=9)


def png(figure: Figure, *, drawn: bool = False) -> bytes:
    """A figure's bytes; the same figure gives the same.

    Args:
        figure: The figure.
        drawn: Whether it has lines and areas only, for which 256 colours are enough and a third of the bytes.
    """
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", metadata={"Software": "ttl-deploy"})
    return _with_fewer_colours(buffer) if drawn else buffer.getvalue()


def _with_fewer_colours(whole: io.BytesIO) -> bytes:
    buffer = io.BytesIO()
    with Image.open(whole) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
