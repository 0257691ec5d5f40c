"""Engines of the zoo by the real TensorRT for RTX, on a CPU; `benchmarks/rtx_zoo.py` makes the report of them."""

from __future__ import annotations

import pytest
import rtx_zoo
from rtx_zoo import Row, report, specs, tried

from ttl_deploy.formats.kit.build_engine import GENERATIONS, REFUSED
from ttl_deploy.formats.rtx_cards import PRECISIONS
from ttl_deploy.runtime import trt_rtx

needs_library = pytest.mark.skipif(trt_rtx.missing() is not None, reason=str(trt_rtx.missing()))


def judged(rows: list[Row]) -> None:
    """Everything is built but what the table refuses, and that with its reason."""
    for row in rows:
        reason = REFUSED.get((row.card, row.precision))
        assert (row.size_mb is None) == (reason is not None), row
        assert reason is None or reason in str(row.reason)


@needs_library
@pytest.mark.parametrize("backbone", ["efficientnet_b0", "resnet18"])
def test_a_truncated_model_is_built_for_the_paper_s_card(backbone: str) -> None:
    rows = list(tried(specs([backbone], ["ttl"], 32), ("fp32", "fp16"), ("sm75",)))
    judged(rows)
    assert [row.head for row in rows] == ["1x1 convolution", "as exported"]


@needs_library
def test_every_precision_is_built_for_every_card_or_refused_with_its_reason() -> None:
    rows = list(tried(specs(["resnet18"], ["ttl"], 32), PRECISIONS, tuple(GENERATIONS)))
    judged(rows)
    assert len(rows) == len(PRECISIONS) * len(GENERATIONS)
    text = report(rows, seconds=False, command="a test")
    assert "NOT EXPLAINED" not in text
    assert text.count("| resnet18 ttl |") == len(PRECISIONS)


def test_what_the_library_refuses_unexpectedly_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from ttl_deploy.formats.kit.build_engine import BuildError

    def fails(*_: object) -> None:
        raise BuildError("no tactic")

    monkeypatch.setattr(rtx_zoo, "build_engines", fails)
    (spec,) = specs(["resnet18"], ["ttl"], 32)
    row = rtx_zoo.attempt(None, rtx_zoo.onnx.ModelProto(), spec, "fp16", "sm86")
    assert row.reason == "NOT EXPLAINED: no tactic"
