"""Numbers beside points: none is written over another."""

import numpy as np

from ttl_deploy.pages.figures import labels


def test_points_that_lie_together_share_a_label() -> None:
    places = np.array([[0.1, 0.5], [0.9, 0.80], [0.905, 0.81], [0.9, 0.2], [0.105, 0.52]])
    assert labels(places) == {0: "1, 5", 1: "2, 3", 3: "4"}
