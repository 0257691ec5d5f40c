"""Torch-TensorRT against a recording double: what is compiled, how it is saved, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ttl_deploy import hardware
from ttl_deploy.errors import BadInputError, MissingDependencyError, TtlDeployError
from ttl_deploy.export import torch_trt
from ttl_deploy.export.export_run import export_run
from ttl_deploy.export.exporter import ExportJob
from ttl_deploy.export.torch_trt import TorchTrtExporter, TorchTrtOptions
from ttl_deploy.runtime.torch_file import refuse_pickles
from ttl_deploy.spec import ModelSpec, PreprocessSpec
from ttl_deploy.transfer import build

SPEC = ModelSpec(backbone="resnet18", method="ttl", cut="layer1.1", classes=("a", "b"), image_size=32)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A double of torch_tensorrt whose compiled program is the program; the CPU stands for the GPU."""
    made: list[tuple[str, Any]] = []
    module = ModuleType("torch_tensorrt")

    def compile(program: Any, **options: Any) -> Any:
        made.append(("compile", {"program": program, **options}))
        compiled = program.module()
        compiled.add_module("_run_on_acc_0", torch.nn.Identity())
        compiled.program = program
        return compiled

    def save(compiled: Any, path: str, **options: Any) -> None:
        made.append(("save", {"path": path, **options}))
        if options["output_format"] == "exported_program":
            torch.export.save(compiled.program, path)
        else:
            Path(path).write_bytes(b"package")

    module.Input = lambda **given: SimpleNamespace(**given)  # type: ignore[attr-defined]
    module.dynamo = SimpleNamespace(compile=compile)  # type: ignore[attr-defined]
    module.save = save  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_tensorrt", module)
    monkeypatch.setattr(torch_trt, "DEVICE", "cpu")
    return made


def write(folder: Path, precision: str = "fp16", **options: Any) -> Any:
    folder.mkdir()
    job = ExportJob(build(SPEC).eval(), PreprocessSpec.of(32), precision, TorchTrtOptions(**options))
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
    assert (given.min_shape, given.opt_shape, given.max_shape) == ((1, 3, 32, 32), (4, 3, 32, 32), (8, 3, 32, 32))
    assert given.dtype == torch.float32
    assert (written.model_file, written.runtime) == ("model.ep", "torch-tensorrt")
    assert written.details == {"engines": 1, "batches": [1, 8]}


def test_it_is_saved_as_a_program_without_pickles(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    """What torch_tensorrt saves holds the example inputs as a pickle; what is kept does not."""
    write(tmp_path / "made", aot=True)
    saves = [options for name, options in calls if name == "save"]
    assert [options["output_format"] for options in saves] == ["exported_program", "aot_inductor"]
    batch = saves[0]["dynamic_shapes"]["images"][0]
    assert (batch.min, batch.max) == (1, 32)
    refuse_pickles(tmp_path / "made" / "model.ep")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["model-aot.pt2", "model.ep"]


def test_a_model_left_to_pytorch_is_refused(
    calls: list[tuple[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["torch_tensorrt"].dynamo, "compile", lambda program, **more: program.module())
    with pytest.raises(TtlDeployError, match="left the whole model to PyTorch"):
        write(tmp_path / "made")
    assert not list((tmp_path / "made").iterdir())


def test_batches_out_of_order_are_refused(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="not in order"):
        write(tmp_path / "made", min_batch=3)
    assert not calls


def test_int8_says_the_way(trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"ModelOpt .* --format trt --precision int8"):
        export_run(trained, format="torch-trt", precision="int8", out=tmp_path / "out", cache=pixel_cache)


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
