"""Numbers beside points: none is written over another."""

import re

import numpy as np

from ttl_deploy.pages.charts import Point
from ttl_deploy.pages.figures import labels, pareto_figure


def test_points_that_lie_together_share_a_label() -> None:
    places = np.array([[0.1, 0.5], [0.9, 0.80], [0.905, 0.81], [0.9, 0.2], [0.105, 0.52]])
    assert labels(places) == {0: "1, 5", 1: "2, 3", 3: "4"}


def test_points_apart_in_the_picture_have_each_their_own() -> None:
    """However near their numbers: the picture's limits are theirs."""
    places = ((127, 0.944), (404, 0.937), (404, 0.931))
    points = [Point(str(cost), cost, value, 0.0, True, False) for cost, value in places]
    svg = pareto_figure("one", "", "", points, [None] * 3, "cost", "value").svg
    assert re.findall(r">\s*([123](?:, [123])*)\s*</text>", svg) == ["1", "2", "3"]
