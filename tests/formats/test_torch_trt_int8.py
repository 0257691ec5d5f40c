"""int8 modules for Torch-TensorRT: ModelOpt's ranges, and the operators in the graph that is compiled.

No engine can be built without a GPU, so the operator is computed here as TensorRT documents it.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ttl_deploy import hardware
from ttl_deploy.errors import MissingDependencyError, TtlDeployError
from ttl_deploy.formats import torch_trt_int8
from ttl_deploy.formats.exporter import ExportJob
from ttl_deploy.formats.images import RunImages
from ttl_deploy.formats.known import MODELOPT
from ttl_deploy.formats.program import export_program
from ttl_deploy.formats.torch_trt import TorchTrtExporter, TorchTrtOptions
from ttl_deploy.spec import ModelSpec
from ttl_deploy.training.run import open_run, run_data
from ttl_deploy.training.train import load_model
from ttl_deploy.transfer import build
from ttl_deploy.zoo import BACKBONES

pytest.importorskip("modelopt", reason="ModelOpt is not installed", exc_type=ImportError)


def network(backbone: str, method: str = "ttl") -> Any:
    """A small network whose batch norms do something, as a trained one's do."""
    cut = BACKBONES.get(backbone).cut_points[4].name
    spec = ModelSpec(backbone=backbone, method=method, cut=cut, classes=("a", "b"), image_size=32)
    torch.manual_seed(0)
    model = build(spec).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def roundings(model: torch.nn.Module) -> int:
    """Two per layer with weights, one per pooling module."""
    pooling = torch.nn.MaxPool2d | torch.nn.AvgPool2d | torch.nn.AdaptiveAvgPool2d
    layers = sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in model.modules())
    return 2 * layers + sum(isinstance(m, pooling) for m in model.modules())


def images(count: int = 8) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 3, 32, 32)).astype(np.float32)


def rounded(tensor: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """What TensorRT computes for the operator: symmetric, +127 at the range's end (its documentation of int8)."""
    scale = (largest / 127).clamp_min(1e-12)
    return (tensor / scale).round().clamp(-128, 127) * scale


def computed(program: torch.export.ExportedProgram, given: torch.Tensor) -> torch.Tensor:
    """A program's answer, its rounding operators computed by PyTorch."""
    module = program.module()
    for node in module.graph.nodes:
        if "quantize_op" in str(node.target):
            assert node.args[2:] == (8, 0, False, False)
            node.target, node.args, node.kwargs = rounded, node.args[:2], {}
    module.recompile()
    answer: torch.Tensor = module(given)
    return answer


@pytest.mark.parametrize(
    ("backbone", "method"),
    [("resnet18", "ttl"), ("resnet50", "tf"), ("densenet121", "ttl"), ("efficientnet_b0", "ttl")],
)
def test_the_traced_graph_computes_what_modelopt_calibrated(backbone: str, method: str) -> None:
    # In float64: a sum of float32 depends on the processor, and so does on which side of a step's border it falls.
    model = network(backbone, method).double()
    given = torch.from_numpy(images()).double()
    module = torch_trt_int8.calibrated(model, [given.numpy()])
    simulated, plain = module(given), model(given)
    expected = roundings(model)
    assert torch_trt_int8.with_operators(module) == expected
    with torch_trt_int8.traceable():
        program = export_program(module, given)
    assert sum("quantize_op" in str(node.target) for node in program.graph.nodes) == expected
    off = (computed(program, given) - simulated).abs().amax(1) / plain.std()
    # A value on the border itself may fall either way, as the scales are computed in another order: an image or two.
    assert float(off.median()) < 1e-5
    assert not torch.equal(simulated, plain)
    assert float((simulated - plain).abs().mean()) < 0.2 * float(plain.std())


@pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "efficientnet_b0"])
def test_batch_norms_are_folded_and_the_model_is_left_alone(backbone: str) -> None:
    model = network(backbone)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = copy.deepcopy(model)
    given = torch.from_numpy(images())
    with torch.no_grad():
        torch_trt_int8._fold_batch_norms(folded, given)
        torch.testing.assert_close(folded(given), model(given), rtol=1e-4, atol=1e-4)
    norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in each.modules()) for each in (model, folded)]
    # Before a convolution, as DenseNet has half of its own, a norm cannot be folded.
    assert norms[1] == (0 if backbone != "densenet121" else norms[0] // 2)
    torch_trt_int8.calibrated(model, [images()])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()) == norms[0]


def test_a_range_is_the_largest_magnitude_seen() -> None:
    model = network("resnet18")
    module = torch_trt_int8.calibrated(model, [images()[:4], images()[4:]])
    first = next(layer for layer in module.modules() if hasattr(layer, "input_quantizer"))
    assert float(first.input_quantizer.amax) == pytest.approx(float(np.abs(images()).max()))
    assert first.weight_quantizer.amax.shape == (64, 1, 1, 1)


def job(trained: Path, pixel_cache: Path) -> ExportJob:
    run = open_run(trained)
    given = RunImages(run_data(run, cache=pixel_cache), run.config.preprocess)
    return ExportJob(
        load_model(run), run.config.preprocess, "int8", TorchTrtOptions(calibration_images=12), images=given
    )


def test_it_is_compiled_from_the_rounded_module(
    calls: list[tuple[str, Any]], engine_layers: list[Any], trained: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    engine_layers[:] = [{"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Int8"}]}]
    given = job(trained, pixel_cache)
    (tmp_path / "made").mkdir()
    written = TorchTrtExporter().write(given, tmp_path / "made")
    program = calls[0][1]["program"]
    expected = roundings(given.model)
    assert sum("quantize_op" in str(node.target) for node in program.graph.nodes) == expected
    facts = written.details["quantisation"]
    assert (facts["rounded_tensors"], facts["split"], facts["images"]) == (expected, "train", 12)
    assert written.details["layer_precisions"] == {"int8": 1}


def test_roundings_left_to_pytorch_are_refused(
    calls: list[tuple[str, Any]],
    trained: Path,
    pixel_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compile(program: Any, **options: Any) -> Any:
        compiled = program.module()
        compiled.add_module("_run_on_acc_0", torch.nn.Identity())
        return compiled

    monkeypatch.setattr(sys.modules["torch_tensorrt"].dynamo, "compile", compile)
    (tmp_path / "made").mkdir()
    with pytest.raises(TtlDeployError, match="roundings to PyTorch"):
        TorchTrtExporter().write(job(trained, pixel_cache), tmp_path / "made")


def test_without_modelopt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt.torch.quantization", None)
    with pytest.raises(MissingDependencyError, match="pip install nvidia-modelopt"):
        torch_trt_int8.calibrated(network("resnet18"), [images()])
    monkeypatch.setattr(hardware, "describe", lambda: type("Machine", (), {"gpus": (1,)})())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == MODELOPT else object())
    exporter = TorchTrtExporter()
    assert "ModelOpt, which is not installed" in (exporter.available("int8") or "")
    assert exporter.available("fp16") is None
