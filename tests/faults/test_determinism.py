"""The same seed gives the same files, in another process, with another hash seed and an empty cache.

| command | files | where |
|---|---|---|
| `synthetic` | images and table | `tests/data/test_synthetic.py` |
| `train` | the run; cached features; resumed after a kill | here, `tests/training/` |
| `search` | trials, records, winner; local and Ray | here, `tests/search/` |
| `export` | onnx, openvino, pt2, torchscript; cards, manifests | here |
| int8 | graph, calibrated by ONNX Runtime on the run's images | here |
| int8 with `--qat` | finetuned graph | here |
| int8 by NNCF (benchmarks only) | OpenVINO graph | here |
| `export --format trt`, deferred | the kit | `tests/export/test_trt_kit.py` |

What is recorded of the occasion differs, and nothing else may: `RECORDED` names it all. TensorRT's engines are
excepted: their builder chooses kernels by timing them.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

RECORDED = {
    "metrics.json": {"finished", "seconds"},
    "manifest.json": {"created", "metrics_sha256"},
    "result.json": {"answer", "cpu_seconds", "finished", "seconds", "steps"},
    "records": {"cpu_seconds", "seconds"},
    "last.ckpt": {"seconds"},
    "timing.jsonl": {"seconds"},
}
"""By name of the file or its folder: fields, at any depth, that hold a moment, a duration, or the hash of a file that
holds one; `answer` is a sentence with the minutes in it."""

RECORDED_TEXT = {"report.html": re.compile(r"<td>[\d.]+</td>(?=<td>trained)|[\d.]+ min\b|\d{4}-\d\d-\d\d")}
"""Seconds of a trial, minutes of the search and its day."""

SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import nncf, openvino
from ttl_deploy.export.export_run import export_run
from ttl_deploy.export.images import RunImages
from ttl_deploy.parity import Bounds
from ttl_deploy.runtime.ov_core import core, kept_signal_stack
from ttl_deploy.search.options import Budget, SearchOptions
from ttl_deploy.search.search import search
from ttl_deploy.training.run import finished_run, run_data
from ttl_deploy.training.train import DataOptions, Request, train

table, cache = Path(sys.stdin.read()), Path("cache")
request = Request(backbone="resnet18", method="ttl", cut="layer1.0", image_size=32, weights="random", device="cpu",
                  precision="fp32", settings={"epochs": 2, "batch_size": 16, "learning_rate": 1e-3})
data, out = DataOptions(table, cache=cache), Path("files")
run = train(data, request, out / "run")
lax = Bounds.preset("mlperf-99", "int8").model_copy(update={"min_metric_ratio": 0.01})
for format, precision in (("onnx", "fp32"), ("onnx", "fp16"), ("openvino", "fp32"), ("openvino", "fp16"),
                          ("pt2", "fp32"), ("torchscript", "fp32")):
    export_run(run.folder, format=format, precision=precision, cache=cache)
for name, format, more in (("onnx-int8", "onnx", {}), ("openvino-int8", "openvino", {"calibration": "minmax"}),
                           ("onnx-qat", "onnx", {"qat": 1, "calibration": "percentile"})):
    export_run(run.folder, format=format, precision="int8", out=out / name, bounds=lax, cache=cache, **more)
options = SearchOptions(strategy="exhaustive", latency=False, threads=1, divisions=2,
                        budget=Budget(parameters=100_000))
search(data, replace(request, cut=None), out / "found", options=options)
images = RunImages(run_data(finished_run(run.folder), cache=cache), run.config.preprocess).calibration(8, batch_size=4)
with kept_signal_stack():
    floats = core().read_model(out / "run/onnx-fp32/model.onnx")
    model = nncf.quantize(floats, nncf.Dataset(list(images)), subset_size=8)
openvino.save_model(model, out / "nncf.xml")
"""


@pytest.fixture(scope="module")
def twice(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders that two processes with other hash seeds filled, side by side."""
    places, begun = [], []
    for seed in ("1", "2"):
        place = tmp_path_factory.mktemp("attempt")
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        begun.append(subprocess.Popen(command, cwd=place, env=environment, text=True, **pipes))  # type: ignore[call-overload]
        places.append(place / "files")
    for process in begun:
        said, _ = process.communicate(str(synthetic / "labels.csv"))
        assert process.returncode == 0, said
    return places


def without(value: Any, fields: set[str]) -> Any:
    """A record without fields of these names, at any depth; tensors as lists, which compare."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: without(item, fields) for key, item in value.items() if key not in fields}
    return [without(item, fields) for item in value] if isinstance(value, list) else value


def content(path: Path) -> Any:
    """What two files have to share: their bytes, or, where something is recorded in them, all the rest."""
    if path.name in RECORDED_TEXT:
        return RECORDED_TEXT[path.name].sub("", path.read_text())
    fields = RECORDED.get(path.name) or RECORDED.get(path.parent.name)
    if fields is None:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if path.suffix == ".ckpt":
        return without(torch.load(path, weights_only=True), fields)
    lines = [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines()
    return [without(json.loads(line), fields) for line in lines]


def files(folder: Path) -> list[str]:
    """Every file below a folder, or the file itself."""
    if folder.is_file():
        return [""]
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("part", ["run", "onnx-int8", "openvino-int8", "onnx-qat", "found", "nncf.xml", "nncf.bin"])
def test_two_processes_write_the_same_files(twice: list[Path], part: str) -> None:
    one, other = (place / part for place in twice)
    assert files(one) == files(other) != []
    assert [name for name in files(one) if content(one / name) != content(other / name)] == []


def test_what_is_recorded_of_the_occasion_is_there_and_is_all_that_is_left_out(twice: list[Path]) -> None:
    """Names in `RECORDED` that no file has any more would hide nothing today and a fault tomorrow."""
    place = twice[0]
    for name, fields in RECORDED.items():
        path = next(place.rglob(name))
        path = next(path.iterdir()) if path.is_dir() else path
        text = repr(torch.load(path, weights_only=True)) if path.suffix == ".ckpt" else path.read_text()
        assert [field for field in fields if field not in text] == [], name
