"""The figures of a report: each a picture, the same in words, and its numbers as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ttl_deploy import files
from ttl_deploy.errors import printable
from ttl_deploy.pages.charts import Point, frontier
from ttl_deploy.pages.curves import Bin, Curve
from ttl_deploy.pages.document import Figure
from ttl_deploy.pages.speeds import Speed
from ttl_deploy.pages.svg import COLOURS, INK, STYLES, drawn

_LONGEST = 26
"""Letters of a name in a picture."""
_SQUARE = (4.6, 4.4)
_LABEL = 0.03
"""Share of a picture that a point's number takes."""
MOST_CURVES = len(COLOURS)
"""More lines than that are not told apart."""
_SAMPLES = 20_000
"""Latencies in the numbers of a picture, of all its rows; the file of `bench` has all."""


Mark = tuple[str, float, float]
"""A point: what it is, x and y."""


def short(name: str) -> str:
    """A name that fits into a picture."""
    plain = printable(name)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…"


def csv_of(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table for spreadsheets; numbers to six digits."""
    cells = ([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    return "".join(map(files.csv_row, [header, *cells]))


def curves_figure(
    name: str, title: str, says: str, curves: Sequence[Curve], axes_names: tuple[str, str], marks: Sequence[Mark] = ()
) -> Figure:
    """Curves in the unit square, such as ROC curves.

    Args:
        name: See `Figure`.
        title: Likewise.
        says: Likewise.
        curves: The first `MOST_CURVES` of them are drawn; the numbers have all.
        axes_names: Of x and y.
        marks: Single points on them.
    """
    x, y = axes_names

    def draw(figure: Drawing) -> None:
        axes = _unit_square(figure, x, y)
        if x.startswith("1 - "):
            axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, alpha=0.5, linestyle=":")
        for curve, colour, style in zip(curves, COLOURS, STYLES, strict=False):
            axes.plot(curve.x, curve.y, color=colour, linestyle=style, label=short(curve.name))
        for mark in marks:
            axes.plot(*mark[1:], marker="D", markersize=8, color=INK, linestyle="", label=mark[0])
        _legend(figure, len(curves[:MOST_CURVES]) + len(marks))

    rows = ((curve.name, *point) for curve in curves for point in _points(curve))
    return Figure(name, title, says, drawn(name, _size(len(curves)), draw), csv_of(("curve", x, y, "threshold"), rows))


def _points(curve: Curve) -> Iterable[tuple[float, float, float]]:
    return zip(curve.x.tolist(), curve.y.tolist(), curve.thresholds.tolist(), strict=True)


def reliability_figure(name: str, title: str, says: str, bins: Sequence[Bin], said: str, found: str) -> Figure:
    """What was said beside what was found, with intervals.

    Args:
        name: See `Figure`.
        title: Likewise.
        says: Likewise.
        bins: The points.
        said: Name of the horizontal axis.
        found: Of the vertical one.
    """

    def draw(figure: Drawing) -> None:
        axes = _unit_square(figure, said, found)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, alpha=0.5, linestyle=":")
        x, y = [b.said for b in bins], [_known(b.found.value) for b in bins]
        low, high = zip(*(b.found.interval or (0.0, 1.0) for b in bins), strict=True)
        axes.vlines(x, low, high, color=COLOURS[0], linewidth=1.2, alpha=0.6)
        axes.plot(x, y, color=COLOURS[0], marker="o", markersize=6, linewidth=0.8)

    header = (said, found, "interval low", "interval high", "images")
    rows = [(b.said, _known(b.found.value), *(b.found.interval or ("", "")), b.found.images) for b in bins]
    return Figure(name, title, says, drawn(name, _SQUARE, draw), csv_of(header, rows))


def _known(value: float | None) -> float:
    return 0.0 if value is None else value


def history_figure(name: str, title: str, says: str, history: Sequence[Mapping[str, Any]], best: int) -> Figure:
    """Losses and validation metrics of every epoch.

    Args:
        name: See `Figure`.
        title: Likewise.
        says: Likewise.
        history: Rows of `history.jsonl`.
        best: The epoch whose weights were kept.
    """
    metrics = [key for key in history[0] if key.startswith("val_") and key != "val_loss"]

    def draw(figure: Drawing) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, keys in ((upper, ("train_loss", "val_loss")), (lower, metrics)):
            for key, colour, style in zip(keys, COLOURS, STYLES, strict=False):
                y = [np.nan if row.get(key) is None else float(row[key]) for row in history]
                label = key.replace("train_loss", "training").replace("val_loss", "validation")
                axes.plot(_epochs(history), y, color=colour, linestyle=style, marker=".", label=_metric(label))
            axes.axvline(best, color=INK, linewidth=0.8, linestyle=":")
            axes.legend(loc="best", fontsize=9)
        upper.set_ylabel("loss")
        lower.set_ylabel("validation")
        lower.set_xlabel(f"epoch (kept: {best})")
        lower.set_xlim(0.5, len(history) + 0.5)
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))

    keys = ("epoch", "learning_rate", "train_loss", "val_loss", *metrics)
    rows = [["" if row.get(key) is None else row[key] for key in keys] for row in history]
    return Figure(name, title, says, drawn(name, _SQUARE, draw), csv_of(keys, rows))


def _epochs(history: Sequence[Mapping[str, Any]]) -> list[int]:
    return [int(row["epoch"]) for row in history]


def _metric(key: str) -> str:
    words = key.removeprefix("val_").replace("_", " ")
    return words.upper() if words in ("auroc", "auprc") else words


def latency_figure(name: str, title: str, says: str, speeds: Sequence[Speed]) -> Figure:
    """Every row's latencies as a box from the 25th to the 75th percentile, with whiskers to the 5th and the 95th.

    Args:
        name: See `Figure`.
        title: Likewise.
        says: Likewise.
        speeds: The rows.
    """
    samples = [row.measurement.samples_ms for row in speeds]

    def draw(figure: Drawing) -> None:
        axes = figure.subplots()
        boxes = axes.boxplot(samples, orientation="horizontal", whis=(5, 95), showfliers=False, widths=0.55)
        for part in (*boxes["boxes"], *boxes["whiskers"], *boxes["caps"]):
            part.set_color(INK)
        for median, row in zip(boxes["medians"], speeds, strict=True):
            median.set(color=COLOURS[0] if row.role == "own" else COLOURS[1], linewidth=3)
        axes.set_yticks(range(1, len(speeds) + 1), [_row_words(row) for row in speeds])
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlabel("milliseconds of a call (logarithmic)")
        axes.xaxis.set_major_formatter("{x:g}")

    header, most = ("model", "runtime", "precision", "batch", "threads", "milliseconds"), _SAMPLES // len(speeds)
    rows = ((*_row_facts(row), float(value)) for row in speeds for value in _some(row.measurement.samples_ms, most))
    height = 1.2 + 0.62 * len(speeds)
    return Figure(name, title, says, drawn(name, (4.9, height), draw), csv_of(header, rows))


def _row_words(row: Speed) -> str:
    m = row.measurement
    return f"{short(row.model)}\n{m.runtime} {m.precision}, batch {m.batch}"


def _row_facts(row: Speed) -> tuple[object, ...]:
    m = row.measurement
    return row.model, m.runtime, m.precision, m.batch, m.threads


def _some(samples: Sequence[float], most: int) -> list[float]:
    if len(samples) <= most:
        return list(samples)
    return [samples[k] for k in np.linspace(0, len(samples) - 1, most).astype(int)]


def pareto_figure(
    name: str,
    title: str,
    says: str,
    points: Sequence[Point],
    intervals: Sequence[tuple[float, float] | None],
    cost: str,
    value: str,
) -> Figure:
    """Accuracy over cost: every model a point with its interval, and the line of those that no other beats.

    Args:
        name: See `Figure`.
        title: Likewise.
        says: Likewise.
        points: The models; a number stands for each.
        intervals: Of their values.
        cost: Name of the horizontal axis.
        value: Of the vertical one.
    """
    best = frontier(points)

    def draw(figure: Drawing) -> None:
        axes = figure.subplots()
        axes.step([p.cost for p in best], [p.value for p in best], where="post", color=COLOURS[0], alpha=0.6)
        for point, interval in zip(points, intervals, strict=True):
            if interval is not None:
                axes.vlines(point.cost, *interval, color=INK, linewidth=0.8, alpha=0.35)
            inside = COLOURS[0] if point in best else "none"
            axes.plot(point.cost, point.value, marker="o", color=COLOURS[0], markerfacecolor=inside, linestyle="")
        costs = [point.cost for point in points]
        if min(costs) > 0 and max(costs) > 20 * min(costs):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(x=0.1, y=0.1)
        axes.autoscale_view()  # until then the limits are those of an empty picture
        places = axes.transAxes.inverted().transform(axes.transData.transform([(p.cost, p.value) for p in points]))
        for place, label in labels(places).items():
            axes.annotate(label, (points[place].cost, points[place].value), xytext=(5, 4), textcoords="offset points")
        axes.set_xlabel(cost)
        axes.set_ylabel(value)

    header = ("number", "model", cost, value, "interval low", "interval high", "on the frontier")
    rows = [
        (n, p.name, p.cost, p.value, *(interval or ("", "")), "yes" if p in best else "no")
        for n, (p, interval) in enumerate(zip(points, intervals, strict=True), 1)
    ]
    return Figure(name, title, says, drawn(name, _SQUARE, draw), csv_of(header, rows))


def labels(places: NDArray[np.float64]) -> dict[int, str]:
    """A label for each group of points whose numbers would be written over each other: by its first, all of them.

    Args:
        places: (N, 2) where the points are drawn, in shares of the picture.
    """
    left, found = list(range(len(places))), {}
    while left:
        near = [i for i in left if np.abs(places[i] - places[left[0]]).max() < _LABEL]
        found[left[0]] = ", ".join(str(i + 1) for i in near)
        left = [i for i in left if i not in near]
    return found


def spread_figure(name: str, title: str, says: str, values: NDArray[np.float64], value: str) -> Figure:
    """How many images have which score between 0 and 1.

    Args:
        name: See `Figure`.
        title: Likewise.
        says: Likewise.
        values: (N,) the scores; whose they are is not told.
        value: Name of the score.
    """

    def draw(figure: Drawing) -> None:
        axes = figure.subplots()
        axes.hist(values, bins=np.linspace(0, 1, 26).tolist(), color=COLOURS[0], alpha=0.8)
        axes.set(xlim=(0, 1), xlabel=value, ylabel="images")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    return Figure(name, title, says, drawn(name, (4.6, 3.2), draw), csv_of((value,), ([x] for x in values.tolist())))


def groups_figure(
    name: str,
    title: str,
    says: str,
    groups: Sequence[tuple[str, float, tuple[float, float] | None]],
    value: str,
    whole: float,
) -> Figure:
    """A metric of every group with its interval, a row each.

    Args:
        name: See `Figure`.
        title: Likewise.
        says: Likewise.
        groups: Name, value and interval.
        value: Name of the metric.
        whole: Of all groups together, a line.
    """

    def draw(figure: Drawing) -> None:
        axes = figure.subplots()
        for place, (_group, found, interval) in enumerate(groups):
            if interval is not None:
                axes.hlines(place, *interval, color=COLOURS[0], linewidth=1.4, alpha=0.7)
            axes.plot(found, place, marker="o", color=COLOURS[0], linestyle="")
        axes.axvline(whole, color=INK, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(groups)), [short(group) for group, _found, _interval in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(value)

    rows = [(group, found, *(interval or ("", ""))) for group, found, interval in groups]
    height = 1.0 + 0.4 * len(groups)
    return Figure(name, title, says, drawn(name, (4.6, height), draw), csv_of(("group", value, "low", "high"), rows))


def _unit_square(figure: Drawing, x: str, y: str) -> Axes:
    axes = figure.subplots()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y)
    axes.set_aspect("equal")
    return axes


def _size(curves: int) -> tuple[float, float]:
    return _SQUARE[0], _SQUARE[1] + 0.12 * min(curves, MOST_CURVES)


def _legend(figure: Drawing, entries: int) -> None:
    if entries > 1:
        figure.legend(loc="outside lower center", ncols=2)
