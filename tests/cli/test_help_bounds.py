"""What the help texts say of the default bounds is what the bounds are."""

from __future__ import annotations

import re

import pytest

from ttl_deploy.spec import Bounds
from ttl_deploy.spec.said import said_of

NAMES = (
    *("max_probability_difference", "max_p99_difference", "max_mean_shift", "max_scale_change"),
    *("max_logit_offset", "max_calibration_shift"),
)


@pytest.mark.parametrize("name", NAMES)
def test_the_help_text_tells_the_bound_of_every_precision(name: str) -> None:
    told = dict(re.findall(r"(fp32|fp16|bf16|int8) ([\d.]+)", str(said_of(Bounds.model_fields[name]).default)))
    bounds = {precision: getattr(Bounds.for_precision(precision), name) for precision in told}
    assert set(told) == {"fp32", "fp16", "bf16", "int8"}
    assert {precision: float(value) for precision, value in told.items()} == bounds


@pytest.mark.parametrize("name", ["max_logit_difference", "max_typical_difference"])
def test_the_help_text_tells_a_bound_of_fp32_alone(name: str) -> None:
    said = str(said_of(Bounds.model_fields[name]).default)
    assert float(said.split()[0]) == getattr(Bounds.for_precision("fp32"), name)
    assert "fp32, else not judged" in said
    assert getattr(Bounds.for_precision("int8"), name) is None
