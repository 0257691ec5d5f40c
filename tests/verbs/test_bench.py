"""Benchmarking beside references: which rows there are, and where the raw numbers go."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttl_deploy.errors import BadInputError
from ttl_deploy.hardware import Gpu, describe
from ttl_deploy.latency.ceiling import Ceiling, Rate
from ttl_deploy.latency.machine import MachineState
from ttl_deploy.progress import SILENT
from ttl_deploy.spec import Scenario
from ttl_deploy.verbs import bench as room
from ttl_deploy.verbs.bench import bench
from ttl_deploy.verbs.estimate import estimate

pytestmark = pytest.mark.usefixtures("measured_here")

FAST: dict[str, Any] = {"min_samples": 3, "min_seconds": 0.01, "rounds": 1, "roofline": False}


def test_every_raw_sample_is_kept_beside_where_it_was_measured(
    trained: Path, tmp_path: Path, pixel_cache: Path
) -> None:
    out = tmp_path / "rows.json"
    rows = bench([trained / "onnx-fp32"], runtime=["onnxruntime"], out=out, cache=pixel_cache, **FAST)
    record = json.loads(out.read_text())
    assert record["hardware"]["cpu"]
    assert record["libraries"]["onnx"]
    for row, kept in zip(rows, record["rows"], strict=True):
        assert kept["measurement"]["samples_ms"] == list(row.measurement.samples_ms)
        assert len(row.measurement.samples_ms) >= FAST["min_samples"]


def test_the_ratio_is_to_the_whole_network_in_pytorch(trained: Path, pixel_cache: Path) -> None:
    rows = bench([trained / "onnx-fp32"], runtime=["onnxruntime"], cache=pixel_cache, **FAST)
    base = next(r for r in rows if r.role == "whole" and r.measurement.runtime == "pytorch")
    assert base.ratio == pytest.approx(1)
    for row in rows:
        typical = [r.measurement.p50_ms or r.measurement.mean_ms for r in (base, row)]
        assert row.ratio == pytest.approx(typical[0] / typical[1])


def test_a_run_alone_is_measured_as_pytorch(trained: Path) -> None:
    (row,) = bench([trained], whole=False, **FAST)
    assert (row.measurement.runtime, row.ratio) == ("pytorch", None)
    assert np.isfinite(row.measurement.mean_ms)


def test_every_batch_is_measured_with_every_number_of_threads(trained: Path) -> None:
    rows = bench([trained / "onnx-fp32"], batch=(1, 3, 3), threads=(1, 2), runtime=["onnxruntime"], whole=False, **FAST)
    found = [(r.measurement.runtime, r.measurement.batch, r.measurement.threads) for r in rows]
    expected = [(e, b, t) for b in (1, 3) for t in (1, 2) for e in ("pytorch", "onnxruntime")]
    assert found == expected


def test_pytorch_is_measured_in_the_variants_asked_for(trained: Path) -> None:
    rows = bench([trained], torch=("eager", "bf16"), whole=False, **FAST)
    assert [(r.measurement.runtime, r.measurement.precision) for r in rows] == [
        ("pytorch", "fp32"),
        ("pytorch-bf16", "bf16"),
    ]
    with pytest.raises(BadInputError, match="a CUDA graph needs an NVIDIA GPU"):
        bench([trained], torch=("cuda-graph",), **FAST)


def test_offline_runs_all_images_in_batches(trained: Path) -> None:
    only = {"runtime": ["onnxruntime"], "whole": False, "threads": 1}
    *_, row = bench([trained / "onnx-fp32"], scenario=Scenario(kind="offline", queries=50), batch=8, **only, **FAST)
    m = row.measurement
    assert (m.scenario, len(m.samples_ms)) == ("offline", 7)
    assert m.throughput == pytest.approx(8 * 1000 / np.mean(m.samples_ms))


def test_the_server_queues_in_real_time(trained: Path) -> None:
    only = {"runtime": ["onnxruntime"], "whole": False, "threads": 1}
    load = Scenario(kind="server", queries=40, qps=100.0, latency_bound=1000.0)
    *_, row = bench([trained / "onnx-fp32"], scenario=load, **only, **FAST)
    m, s = row.measurement, row.measurement.server
    assert s is not None
    assert (len(m.samples_ms), len(s.service_ms), s.offered_qps, s.searched) == (40, 40, 100.0, False)
    assert all(latency >= service for latency, service in zip(m.samples_ms, s.service_ms, strict=True))
    # Forty gaps of 10 ms on average, whose sum this seed fixes.
    last = np.cumsum(np.random.default_rng(0).exponential(1, 40))[-1] / 100
    assert 40 / s.completed_qps >= 0.9 * last - 0.05
    assert (s.percentile, s.held) == (50, None), "40 queries do not tell the 99th percentile"
    assert row.ratio is None
    with pytest.raises(BadInputError, match="needs a latency bound"):
        Scenario(kind="server")


def test_a_bound_below_a_query_alone_is_told(trained: Path) -> None:
    from ttl_deploy.errors import TtlDeployError

    only = {"runtime": ["onnxruntime"], "whole": False}
    with pytest.raises(TtlDeployError, match=r"no rate holds a latency bound of 0\.001 ms: a query alone takes"):
        bench([trained / "onnx-fp32"], scenario=Scenario(kind="server", latency_bound=0.001), **only, **FAST)


def test_rows_are_set_against_the_ceiling(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Ceiling(
        device="cpu",
        threads=1,
        rates=(Rate(what="fp32", value=2.0, by="x"), Rate(what="copy", value=1e6, by="x")),
        cache_mib=0,
        machine=MachineState(seconds=1),
        noise=None,
        hardware={},
        libraries={},
    )
    monkeypatch.setattr(room, "ceiling", lambda **_: known)
    (row,) = bench([trained], whole=False, threads=1, **{**FAST, "roofline": True})
    quiet = room._with_roofline(replace(row, measurement=row.measurement.model_copy(update={"noise": None})), known)
    assert quiet.roofline_percent == pytest.approx(100 * (2 * row.macs / 2e6) / row.measurement.typical_ms)
    noisy = replace(row, measurement=row.measurement.model_copy(update={"noise": "busy"}), roofline_percent=None)
    assert room._with_roofline(noisy, known).roofline_percent is None
    assert room._with_roofline(row, known.model_copy(update={"noise": "busy"})).roofline_percent == row.roofline_percent


def test_a_refused_ceiling_gives_no_per_cent_and_is_told(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    class Listener(type(SILENT)):  # type: ignore[misc]
        def warn(self, message: str) -> None:
            heard.append(message)

    rates = tuple(Rate(what=what, value=value, by="x") for what, value in (("fp32", 2), ("int8", 1), ("copy", 9)))
    facts: dict[str, Any] = {"machine": MachineState(seconds=1), "noise": None, "hardware": {}, "libraries": {}}
    known = Ceiling(device="cpu", threads=1, rates=rates, cache_mib=0, **facts)
    monkeypatch.setattr(room, "ceiling", lambda **_: known)
    (row,) = bench([trained], whole=False, threads=1, **FAST)
    quiet = row.measurement.model_copy(update={"noise": None})
    quantised = quiet.model_copy(update={"precision": "int8"})
    int8 = replace(row, measurement=quantised, work=replace(row.work, precision="int8"))
    found = room._with_rooflines([replace(row, measurement=quiet), int8], None, Listener())
    assert found[0].roofline_percent is not None
    assert found[1].roofline_percent is None
    assert heard == ["no per cent of the roofline for int8: 1 GOP/s in int8 is below 2 in fp32, so it is no ceiling"]


def test_an_estimate_is_judged_on_its_own_device_only(trained: Path) -> None:
    (row,) = bench([trained], whole=False, **FAST)
    quiet = [replace(row, measurement=row.measurement.model_copy(update={"noise": None}))]
    here = replace(describe(), cpu="Intel(R) Core(TM) i9-9920X CPU @ 3.50GHz", gpus=(Gpu("Quadro RTX 6000", 1, ""),))
    (elsewhere,) = estimate(quiet, "core-i9-9920x", machine=replace(here, cpu="AMD EPYC"))
    assert (elsewhere.measured_ms, elsewhere.error, elsewhere.label) == (None, None, "estimated, not measured")
    (judged,) = estimate(quiet, "core-i9-9920x", machine=here)
    assert judged.least_ms == pytest.approx(2 * row.macs / 3456e6)
    assert judged.error == pytest.approx(1 - judged.least_ms / row.measurement.typical_ms)
    (gpu,) = estimate(quiet, "quadro-rtx-6000", machine=here)
    assert gpu.measured_ms is None, "what ran on the processor says nothing of the GPU"


def test_nothing_or_unknown_engines_are_refused(trained: Path) -> None:
    with pytest.raises(BadInputError, match="nothing to measure"):
        bench([])
    with pytest.raises(BadInputError, match="onnxruntime"):
        bench([trained / "onnx-fp32"], runtime=["onxruntime"], whole=False, **FAST)
