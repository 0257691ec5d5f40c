"""The steps of a chain: how often a decision stays the same."""

from dataclasses import replace

import numpy as np

from ttl_deploy.parity.location import Stage, steps_of
from ttl_deploy.spec import OperatingPoint
from ttl_deploy.tasks import Multiclass

AB = Multiclass(("a", "b"))


def test_a_step_counts_the_decisions_of_the_operating_point() -> None:
    """At 0.2 one of two images is decided otherwise, which the most probable class does not show."""
    before = Stage("before", "fp32", np.log(np.array([[0.79, 0.21], [0.4, 0.6]], dtype=np.float32)))
    after = Stage("after", "fp32", np.log(np.array([[0.81, 0.19], [0.4, 0.6]], dtype=np.float32)))
    assert steps_of([before, after], AB)[0].agreement == 1
    assert steps_of([before, after], replace(AB, point=OperatingPoint(rule="0.2", threshold=0.2)))[0].agreement == 0.5
