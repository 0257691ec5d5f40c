"""Benchmarking beside references: which rows there are, and where the raw numbers go."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttl_deploy.errors import BadInputError
from ttl_deploy.workflows.bench import bench

FAST: dict[str, Any] = {"min_samples": 3, "min_seconds": 0.01, "rounds": 1}


def test_every_raw_sample_is_kept_beside_where_it_was_measured(
    trained: Path, tmp_path: Path, pixel_cache: Path
) -> None:
    out = tmp_path / "rows.json"
    rows = bench([trained / "onnx-fp32"], runtimes=["onnxruntime"], out=out, cache=pixel_cache, **FAST)
    record = json.loads(out.read_text())
    assert record["hardware"]["cpu"]
    assert record["libraries"]["onnx"]
    for row, kept in zip(rows, record["rows"], strict=True):
        assert kept["measurement"]["samples_ms"] == list(row.measurement.samples_ms)
        assert len(row.measurement.samples_ms) >= FAST["min_samples"]


def test_the_ratio_is_to_the_whole_network_in_pytorch(trained: Path, pixel_cache: Path) -> None:
    rows = bench([trained / "onnx-fp32"], runtimes=["onnxruntime"], cache=pixel_cache, **FAST)
    base = next(r for r in rows if r.role == "whole" and r.measurement.runtime == "pytorch")
    assert base.ratio == pytest.approx(1)
    for row in rows:
        typical = [r.measurement.p50_ms or r.measurement.mean_ms for r in (base, row)]
        assert row.ratio == pytest.approx(typical[0] / typical[1])


def test_a_run_alone_is_measured_as_pytorch(trained: Path) -> None:
    (row,) = bench([trained], compare_whole=False, **FAST)
    assert (row.measurement.runtime, row.ratio) == ("pytorch", None)
    assert np.isfinite(row.measurement.mean_ms)


def test_nothing_or_unknown_engines_are_refused(trained: Path) -> None:
    with pytest.raises(BadInputError, match="nothing to measure"):
        bench([])
    with pytest.raises(BadInputError, match="onnxruntime"):
        bench([trained / "onnx-fp32"], runtimes=["onxruntime"], compare_whole=False, **FAST)
