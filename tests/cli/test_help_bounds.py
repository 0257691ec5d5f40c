"""What the help texts say of the default bounds is what the bounds are."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from typer.models import OptionInfo

from ttl_deploy.cli import options
from ttl_deploy.parity.compare import Bounds

OPTIONS = {
    "MaxProbabilityDifference": "max_probability_difference",
    "MaxP99Difference": "max_p99_difference",
    "MaxMeanShift": "max_mean_shift",
    "MaxScaleChange": "max_scale_change",
    "MaxLogitOffset": "max_logit_offset",
    "MaxCalibrationShift": "max_calibration_shift",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_help_text_tells_the_bound_of_every_precision(name: str) -> None:
    (shown,) = [each for each in get_args(getattr(options, name)) if isinstance(each, OptionInfo)]
    told = dict(re.findall(r"(fp32|fp16|bf16|int8) ([\d.]+)", str(shown.show_default)))
    bounds = {precision: getattr(Bounds.for_precision(precision), OPTIONS[name]) for precision in told}
    assert set(told) == {"fp32", "fp16", "bf16", "int8"}
    assert {precision: float(value) for precision, value in told.items()} == bounds
