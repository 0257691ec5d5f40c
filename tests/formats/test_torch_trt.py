"""Torch-TensorRT against a recording double: what is compiled, how it is saved, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ttl_deploy import hardware
from ttl_deploy.errors import BadInputError, MissingDependencyError, TtlDeployError
from ttl_deploy.formats import torch_trt
from ttl_deploy.formats.exporter import ExportJob
from ttl_deploy.formats.torch_trt import TorchTrtExporter, TorchTrtOptions
from ttl_deploy.runtime.torch_guard import check_program
from ttl_deploy.spec import InputSpec, ModelSpec, PreprocessSpec
from ttl_deploy.transfer import build

SPEC = ModelSpec(backbone="resnet18", method="ttl", cut="layer1.1", classes=("a", "b"), image_size=32)


def write(folder: Path, precision: str = "fp16", **options: Any) -> Any:
    folder.mkdir()
    job = ExportJob(build(SPEC).eval(), PreprocessSpec.of(InputSpec.image(32)), precision, TorchTrtOptions(**options))
    return TorchTrtExporter().write(job, folder)


def test_half_precision_comes_from_the_module(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    written = write(tmp_path / "made", opt_batch=4, max_batch=8)
    name, options = calls[0]
    assert name == "compile"
    assert "enabled_precisions" not in options
    assert options["use_explicit_typing"]
    assert options["disable_tf32"]
    kinds = {tensor.dtype for tensor in options["program"].state_dict.values() if tensor.is_floating_point()}
    assert kinds == {torch.float16}
    (given,) = options["arg_inputs"]
    assert given.profiles == [{"min_shape": (1, 3, 32, 32), "opt_shape": (4, 3, 32, 32), "max_shape": (8, 3, 32, 32)}]
    assert given.dtype == torch.float32
    assert (written.model_file, written.runtime) == ("model.ep", "torch-tensorrt")
    assert written.details == {"engines": 1, "batches": [1, 8], "layer_precisions": {"fp16": 2}}


def test_it_is_saved_as_a_program_without_pickles(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    """What torch_tensorrt saves holds the example inputs as a pickle; what is kept does not."""
    write(tmp_path / "made", aot=True)
    saves = [options for name, options in calls if name == "save"]
    assert [options["output_format"] for options in saves] == ["exported_program", "aot_inductor"]
    batch = saves[0]["dynamic_shapes"]["images"][0]
    assert (batch.min, batch.max) == (1, 32)
    check_program(tmp_path / "made" / "model.ep")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["model-aot.pt2", "model.ep"]


def test_a_model_left_to_pytorch_is_refused(
    calls: list[tuple[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["torch_tensorrt"].dynamo, "compile", lambda program, **more: program.module())
    with pytest.raises(TtlDeployError, match="left the whole model to PyTorch"):
        write(tmp_path / "made")
    assert not list((tmp_path / "made").iterdir())


def test_an_engine_of_another_precision_is_refused(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    """The double's engine computes in half precision, whatever was asked."""
    with pytest.raises(TtlDeployError, match="the engine is not fp32: its computing layers are 2 fp16"):
        write(tmp_path / "made", precision="fp32")
    assert not list((tmp_path / "made").iterdir())


def test_an_engine_that_tells_names_only_is_taken(
    calls: list[tuple[str, Any]], engine_layers: list[Any], tmp_path: Path
) -> None:
    """Torch-TensorRT builds without details; the network's types are then what the engine must have."""
    engine_layers[:] = ["conv1 + relu"]
    assert write(tmp_path / "made", precision="fp32").details["layer_precisions"] == {}


def test_batches_out_of_order_are_refused(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="not in order"):
        write(tmp_path / "made", min_batch=3)
    assert not calls


def test_one_image_is_an_optimum_though_two_are_traced(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    write(tmp_path / "made", opt_batch=1, max_batch=8)
    options = calls[0][1]
    assert [shape[0] for shape in options["arg_inputs"][0].profiles[0].values()] == [1, 1, 8]
    (placeholder,) = [node for node in options["program"].graph.nodes if node.name == "images"]
    assert isinstance(placeholder.meta["val"].shape[0], torch.SymInt)


def test_where_one_image_cannot_be_the_optimum_it_is_said(
    calls: list[tuple[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older torch_tensorrt takes the batch that was traced, whatever is said of the input."""
    module: Any = sys.modules["torch_tensorrt"]
    monkeypatch.setattr(module, "Input", lambda **given: SimpleNamespace(**given))
    monkeypatch.setattr(module, "__version__", "2.13.0", raising=False)
    with pytest.raises(BadInputError, match=r"2\.13\.0 makes no engine fast for a batch of 1; .*--opt-batch 2"):
        write(tmp_path / "one", opt_batch=1)
    assert not calls
    write(tmp_path / "two", opt_batch=2)
    assert calls[0][1]["arg_inputs"][0].opt_shape == (2, 3, 32, 32)


def test_without_a_gpu_or_the_package_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = TorchTrtExporter()
    if not hardware.describe().gpus:
        assert "no NVIDIA GPU is here" in (exporter.available("fp16") or "")
    monkeypatch.setattr(hardware, "describe", lambda: SimpleNamespace(gpus=(1,)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "torch_tensorrt is not installed" in (exporter.available("fp16") or "")
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(MissingDependencyError, match="torch_tensorrt cannot be imported"):
        torch_trt._torch_tensorrt()
