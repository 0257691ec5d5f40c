"""fp32 on a GPU is fp32: TF32, which NVIDIA's libraries take by default, has ten bits of mantissa."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import TtlDeployError
from ttl_deploy.runtime import load, ort
from ttl_deploy.spec import Placement


def test_onnx_runtime_is_told_on_cuda(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def opened(artifact: Artifact, threads: int, providers: Any) -> Any:
        asked.extend(providers)
        return SimpleNamespace()

    monkeypatch.setattr(ort, "open_graph", opened)
    # What a session says of the graph is asked elsewhere.
    monkeypatch.setattr(ort, "of_onnxruntime", lambda session: session)
    monkeypatch.setattr(ort, "differences", lambda manifest, facts: iter(()))
    for device in ("cpu", "cuda"):
        ort.OrtSession(artifact, threads=1, device=device).close()
    assert asked == [("CPUExecutionProvider", {}), ("CUDAExecutionProvider", {"use_tf32": "0"})]


def test_pytorch_is_told_on_cuda(make_artifact: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with pytest.raises(TtlDeployError):  # the file is no exported program
        load(make_artifact(format="pt2"), Placement(runtime="torch", device="cuda"))
    assert torch.backends.cudnn.allow_tf32 is False


def test_the_predictions_that_a_run_records_are_made_without(
    trained: Path, pixel_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttl_deploy.training.run import finished_run, run_data
    from ttl_deploy.training.train import load_model, predict_fp32

    allowed: list[bool] = []
    module = sys.modules["ttl_deploy.training.train"]
    honest = module.predict

    def predict(*arguments: Any) -> Any:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return honest(*arguments)

    monkeypatch.setattr(module, "predict", predict)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    run = finished_run(trained)
    predict_fp32(load_model(run), run_data(run, cache=pixel_cache), "test", run.config)
    assert (allowed, torch.backends.cudnn.allow_tf32) == ([False], True)
