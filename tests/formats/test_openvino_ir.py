"""An IR says what it is, and computes in the precision that was verified whoever compiles it.

What OpenVINO really ran is read from its own execution graph. On a processor without bfloat16 it has no other choice
than float32, so only the marks in the file are tested there.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from numpy.typing import NDArray

from ttl_deploy.formats.exporter import ExportJob
from ttl_deploy.formats.onnx_graph import GraphOptions
from ttl_deploy.formats.openvino_ir import OpenVinoExporter
from ttl_deploy.runtime.ov_core import core
from ttl_deploy.spec import ModelSpec, PreprocessSpec
from ttl_deploy.transfer import TransferModel, build
from ttl_deploy.zoo import BACKBONES

SIZE = 64
CLASSES = ("no finding", "ill")
RULE = PreprocessSpec(image_size=SIZE)


def made(backbone: str, cut: int | None = None, **more: Any) -> TransferModel:
    """Random weights, a quarter of the backbone unless asked otherwise."""
    points = BACKBONES.get(backbone).cut_points
    name = points[len(points) // 4 if cut is None else cut].name
    spec = ModelSpec(backbone=backbone, method="ttl", cut=name, classes=CLASSES, image_size=SIZE, **more)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(spec).eval()


def written(model: TransferModel, folder: Path, precision: str = "fp32", **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    job = ExportJob(model, RULE, precision, GraphOptions(**options))
    return folder / OpenVinoExporter().write(job, folder).model_file


def kernels(compiled: openvino.CompiledModel) -> set[str]:
    """The implementations that OpenVINO chose, such as `brgconv_avx512_bf16`, of what computes.

    Copies of tensors are left out: 8-bit pixels may travel as bfloat16, which holds them exactly.
    """
    facts = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ordered_ops()]
    return {fact["primitiveType"].astype(str) for fact in facts if fact["layerType"].astype(str) != "Reorder"}


def computed(path: Path, batch: NDArray[Any], **properties: str) -> tuple[NDArray[np.float32], set[str]]:
    compiled = core().compile_model(path, "CPU", properties)
    return np.array(compiled([batch])[0]), kernels(compiled)


def images(dtype: type = np.float32) -> NDArray[Any]:
    generator = np.random.default_rng(0)
    if dtype is np.uint8:
        return generator.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    return generator.normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "efficientnet_b0"])
def test_a_consumer_without_a_hint_gets_what_was_verified(tmp_path: Path, backbone: str, precision: str) -> None:
    model = made(backbone)
    path = written(model, tmp_path / "ir", precision)
    found, used = computed(path, images())
    hinted, _ = computed(path, images(), INFERENCE_PRECISION_HINT="f32")
    assert not [name for name in used if "bf16" in name]
    # The choice of kernels may differ by a rounding of the last bit.
    np.testing.assert_allclose(found, hinted, atol=1e-6)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images())).numpy()
    np.testing.assert_allclose(hinted, expected, atol={"fp32": 1e-5, "fp16": 5e-3}[precision])


@pytest.mark.parametrize(
    "options", [{"embed_preprocessing": True}, {"activation": "softmax"}, {"activation": "sigmoid"}]
)
def test_what_is_added_at_the_ends_is_computed_in_fp32_too(tmp_path: Path, options: dict[str, Any]) -> None:
    path = written(made("resnet18", 1, head="flatten"), tmp_path / "ir", **options)
    batch = images(np.uint8 if "embed_preprocessing" in options else np.float32)
    found, used = computed(path, batch)
    hinted, _ = computed(path, batch, INFERENCE_PRECISION_HINT="f32")
    assert not [name for name in used if "bf16" in name]
    np.testing.assert_allclose(found, hinted, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-4


def test_every_operation_carries_the_mark(tmp_path: Path) -> None:
    layers = ET.parse(written(made("resnet18", 1), tmp_path / "ir")).getroot().findall("layers/layer")
    unmarked = {layer.get("type") for layer in layers if layer.find("rt_info/attribute[@name='precise']") is None}
    assert unmarked <= {"Parameter", "Result"}
    assert len(layers) > 10


def test_a_bf16_artifact_is_left_to_compute_in_bf16(tmp_path: Path) -> None:
    path = written(made("resnet18", 1), tmp_path / "ir", "bf16")
    assert "precise" not in path.read_text()
    model = core().read_model(path)
    assert model.get_rt_info(["runtime_options", "INFERENCE_PRECISION_HINT"]).value == "bf16"


def test_the_file_says_what_model_api_reads(tmp_path: Path) -> None:
    model = core().read_model(written(made("resnet18", 1), tmp_path / "ir"))
    info = {key: str(model.get_rt_info(["model_info", key]).value) for key in model.get_rt_info("model_info").value}
    assert info["model_type"] == "Classification"
    assert info["labels"].split() == ["no_finding", "ill"]
    assert info["resize_type"] == "crop"
    assert info["reverse_input_channels"] == "True"
    # ImageNet's statistics on the scale of 8-bit pixels, as torchvision documents them in 0 to 1.
    assert [float(v) for v in info["mean_values"].split()] == pytest.approx([123.675, 116.28, 103.53])
    assert [float(v) for v in info["scale_values"].split()] == pytest.approx([58.395, 57.12, 57.375])
    assert model.get_rt_info(["runtime_options", "INFERENCE_PRECISION_HINT"]).value == "f32"
    classes = model.get_rt_info(["framework", "ttl_deploy.classes"]).value
    assert json.loads(classes) == list(CLASSES)


def test_statistics_that_are_in_the_graph_are_not_told_again(tmp_path: Path) -> None:
    path = written(made("resnet18", 1), tmp_path / "ir", embed_preprocessing=True)
    model = core().read_model(path)
    assert not model.has_rt_info(["model_info", "mean_values"])
    assert model.has_rt_info(["model_info", "labels"])


def test_two_exports_are_the_same_bytes(tmp_path: Path) -> None:
    model = made("densenet121", 1)
    one, other = written(model, tmp_path / "a", "fp16"), written(model, tmp_path / "b", "fp16")
    assert one.read_bytes() == other.read_bytes()
    assert one.with_suffix(".bin").read_bytes() == other.with_suffix(".bin").read_bytes()
