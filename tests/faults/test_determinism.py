"""The same seed gives the same files, in another process, with another hash seed and an empty cache.

| command | files | where |
|---|---|---|
| `synthetic` | images and table | `tests/data/test_synthetic.py` |
| `train` | the run; cached features; resumed after a kill | here, `tests/training/` |
| `search` | trials, records, winner; local and Ray | here, `tests/cut_search/` |
| `export` | onnx, openvino, pt2, torchscript; cards, manifests | here |
| int8 | graph, calibrated by ONNX Runtime on the run's images | here |
| int8 with `--qat` | finetuned graph | here |
| int8 by NNCF (benchmarks only) | OpenVINO graph | here |
| `export --format trt`, deferred | the kit | `tests/formats/test_trt_kit.py` |

What is recorded of the occasion differs, and nothing else may: `RECORDED` names it all. TensorRT's engines are
excepted: their builder chooses kernels by timing them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from occasion import RECORDED, content, files

SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import nncf, openvino
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.formats.images import RunImages
from ttl_deploy.parity import Bounds
from ttl_deploy.runtime.ov_core import core, kept_signal_stack
from ttl_deploy.spec import Data, Model, Network, Protocol
from ttl_deploy.spec.search import Budget, SearchOptions, SearchProtocol
from ttl_deploy.cut_search.search import search
from ttl_deploy.training.run import finished_run, run_data
from ttl_deploy.training.train import train

table, cache = Path(sys.stdin.read()), Path("cache")
network = {"backbone": "resnet18", "image_size": 32, "weights": "random"}
training = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "device": "cpu", "precision": "fp32"}
data, out = Data(path=table, cache=cache), Path("files")
run = train(data, Model(cut="layer1.0", **network), Protocol(**training), out / "run")
lax = Bounds(preset="mlperf-99").model_copy(update={"min_metric_ratio": 0.01})
for format, precision in (("onnx", "fp32"), ("onnx", "fp16"), ("openvino", "fp32"), ("openvino", "fp16"),
                          ("pt2", "fp32"), ("torchscript", "fp32")):
    export_run(run.folder, format=format, precision=precision, cache=cache)
for name, format, more in (("onnx-int8", "onnx", {}), ("openvino-int8", "openvino", {"calibration": "minmax"}),
                           ("onnx-qat", "onnx", {"qat": 1, "calibration": "percentile"})):
    export_run(run.folder, format=format, precision="int8", out=out / name, bounds=lax, cache=cache, **more)
options = SearchOptions(strategy="exhaustive", latency=False, threads=1, divisions=2,
                        budget=Budget(parameters=100_000))
search(data, Network(**network), SearchProtocol(**training), out / "found", options=options)
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
