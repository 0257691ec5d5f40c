"""ONNX export of every family: the numbers of PyTorch for any batch, and nothing of the exporting machine inside."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ttl_deploy.formats.exporter import ExportJob
from ttl_deploy.formats.onnx_graph import OnnxExporter, to_onnx
from ttl_deploy.spec import InputSpec, ModelSpec, PreprocessSpec
from ttl_deploy.transfer import TransferModel, build

CLASSES = ("healthy", "ill", "unclear")
SPECS = [
    ModelSpec(backbone="resnet18", method="ttl", cut="layer2.0", classes=CLASSES, image_size=48),
    ModelSpec(backbone="resnet18", method="ttl", cut="layer1.1", head="flatten", classes=CLASSES, image_size=48),
    ModelSpec(backbone="resnet18", method="tf", cut="layer3.0", classes=CLASSES, image_size=48),
    ModelSpec(backbone="resnet50", method="ttl", cut="layer1.2", classes=CLASSES, image_size=48, channels=1),
    ModelSpec(backbone="densenet121", method="ttl", cut="block:1", classes=CLASSES, image_size=48),
    ModelSpec(backbone="efficientnet_b0", method="ttl", cut="block:2", classes=CLASSES, image_size=48),
    ModelSpec(backbone="resnet18", method="lwft", layers=2, classes=CLASSES, image_size=48),
]


def made(spec: ModelSpec) -> TransferModel:
    """A model whose batch norms hold statistics other than 0 and 1."""
    torch.manual_seed(0)
    model = build(spec)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.backbone}-{s.method}-{s.head}-{s.input.channels}")
def test_onnx_runtime_computes_what_pytorch_computes(spec: ModelSpec) -> None:
    model = made(spec)
    session = onnxruntime.InferenceSession(to_onnx(model).SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        images = np.random.default_rng(batch).normal(size=(batch, *spec.input_shape)).astype(np.float32)
        with torch.inference_mode():
            expected = model(torch.from_numpy(images)).numpy()
        (logits,) = session.run(None, {"images": images})
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_file_says_how_to_use_it_and_not_where_it_was_made(tmp_path: Path) -> None:
    spec = SPECS[0]
    preprocess = PreprocessSpec.of(InputSpec.image(48))
    name = OnnxExporter().write(ExportJob(made(spec), preprocess, "fp32"), tmp_path).model_file
    proto = onnx.load(tmp_path / name)
    notes = {note.key: note.value for note in proto.metadata_props}
    assert tuple(json.loads(notes["ttl_deploy.classes"])) == CLASSES
    assert PreprocessSpec.model_validate_json(notes["ttl_deploy.preprocess"]) == preprocess
    assert ModelSpec.model_validate_json(notes["ttl_deploy.model"]) == spec
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param == proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [d.dim_value for d in shape[1:]] == [3, 48, 48]
    content = proto.SerializeToString()
    assert b".py" not in content
    assert str(Path.home()).encode() + b"/" not in content


def test_nothing_above_the_cut_is_in_the_file() -> None:
    proto = to_onnx(made(SPECS[0]))
    names = {tensor.name for tensor in proto.graph.initializer}
    assert any("layer2.0" in name for name in names)
    assert not any("layer2.1" in name or "layer3" in name or "layer4" in name for name in names)
    assert sum(np.prod(t.dims) for t in proto.graph.initializer) == pytest.approx(
        sum(p.numel() for p in made(SPECS[0]).parameters()), rel=0.02
    )


def test_export_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    to_onnx(made(SPECS[0]))
    shown = capfd.readouterr()
    assert shown.out + shown.err == ""
