"""Pages and charts: self-contained, complete, and drawn from the numbers given."""

import io

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from ttl_deploy.pages import charts
from ttl_deploy.pages.html import render


def picture(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def width_of(png: bytes, colour: str) -> int:
    """Columns of a chart's plot in which a colour fills more than a legend entry's height."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    matches = (np.abs(picture(png) - rgb).sum(axis=2) < 12).sum(axis=0)
    return int((matches > 20).sum())


def test_bars_are_as_long_as_their_numbers() -> None:
    bars = [charts.Bar("engine", 40.0, False), charts.Bar("engine", 10.0, True)]
    drawn = charts.latency_chart(bars, "whole", "small", "title")
    assert width_of(drawn, charts.WHOLE) == pytest.approx(4 * width_of(drawn, charts.SMALL), rel=0.03)


def test_the_roc_chart_and_the_grid_are_pictures() -> None:
    line = np.linspace(0, 1, 5)
    assert picture(charts.roc_chart([("a", line, line**2, True), ("b", line, line, False)])).shape[2] == 3
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 1), dtype=np.uint8)
    assert picture(charts.image_grid([("ill", images), ("healthy", images[:2])])).ndim == 3


def test_a_missing_fact_is_an_error_not_a_blank() -> None:
    with pytest.raises(UndefinedError):
        render("quickstart.html.j2")
