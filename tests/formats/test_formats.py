"""Formats and precisions in ONNX and OpenVINO, int8 included, against PyTorch; `test_whole_zoo` tries every network."""

import copy
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from small import small_input, unlike

from tests.formats.test_onnx_graph import made
from ttl_deploy.errors import BadInputError
from ttl_deploy.formats import onnx_graph
from ttl_deploy.formats.exporter import EXPORTERS, ExportJob, make_options
from ttl_deploy.formats.graph_ends import add_activation, embed_preprocessing
from ttl_deploy.formats.graph_types import to_half
from ttl_deploy.formats.onnx_graph import MODEL_FILE, save_onnx, to_onnx
from ttl_deploy.formats.quantiser import Quantiser
from ttl_deploy.inputs.image import normalise
from ttl_deploy.runtime.ov import settings
from ttl_deploy.runtime.ov_core import core
from ttl_deploy.spec import InputSpec, ModelSpec, PreprocessSpec
from ttl_deploy.transfer import TransferModel

SIZE = 32


def spec(backbone: str, method: str) -> ModelSpec:
    cuts = {"ttl": "block:1", "tf": "block:2", "lwft": "block:2", "ftl": None}
    taken = small_input(backbone, SIZE)
    return ModelSpec(backbone=backbone, method=method, cut=cuts[method], classes=("a", "b", "c"), input=taken)


def trained_like(backbone: str, method: str) -> TransferModel:
    """Small, of random values."""
    model = made(spec(backbone, method))
    vary(model)
    return model


def vary(model: TransferModel) -> None:
    """No bias is zero and no two norms or scales alike, like after training: the exporter drops zeros, shares twins."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        bias = getattr(module, "bias", None)
        if isinstance(bias, torch.nn.Parameter):
            bias.data = torch.randn(bias.shape, generator=generator) * 0.1
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d | torch.nn.GroupNorm):
            module.weight.data = 1 + 0.1 * torch.randn(module.weight.shape, generator=generator)
    for parameter in model.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            parameter.data = parameter + 0.1 * torch.randn(parameter.shape, generator=generator)


def images(count: int, seed: int = 0, shape: tuple[int, ...] = (3, SIZE, SIZE)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def in_ort(proto: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": batch})[0])


def in_openvino(proto: onnx.ModelProto, batch: np.ndarray, precision: str = "fp32") -> np.ndarray:
    compiled = core().compile_model(core().read_model(proto.SerializeToString()), "CPU", settings(precision, 1))
    return np.array(compiled(batch)[0])


@pytest.mark.parametrize("backbone", unlike())
def test_lwft_computes_what_ftl_computes(backbone: str) -> None:
    ftl, lwft = trained_like(backbone, "ftl"), trained_like(backbone, "lwft")
    lwft.load_network_state(ftl.network_state())
    assert str(lwft) == str(ftl)
    assert {p.requires_grad for p in lwft.parameters()} == {True, False}
    batch = torch.from_numpy(images(2, shape=ftl.spec.input_shape))
    with torch.inference_mode():
        assert torch.equal(lwft(batch), ftl(batch))


@pytest.fixture(scope="module")
def small() -> TransferModel:
    return trained_like("resnet18", "ttl")


@pytest.fixture(scope="module")
def plain(small: TransferModel) -> onnx.ModelProto:
    return to_onnx(small)


def test_names_are_those_of_the_networks_own_state_dict(small: TransferModel, plain: onnx.ModelProto) -> None:
    weights = {t.name for t in plain.graph.initializer if len(t.dims) == 4}
    assert weights == {name for name, t in small.network_state().items() if t.ndim == 4}
    assert "layer1.1.conv2" in {node.name for node in plain.graph.node}


def test_convolutions_are_folded_as_arithmetic_says(small: TransferModel, plain: onnx.ModelProto) -> None:
    state = small.network_state()
    scale = state["bn1.weight"] / torch.sqrt(state["bn1.running_var"] + 1e-5)
    expected = state["conv1.weight"] * scale[:, None, None, None]
    found = next(numpy_helper.to_array(t) for t in plain.graph.initializer if t.name == "conv1.weight")
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [15, 17, 18, 22])
def test_older_and_newer_opsets_compute_the_same(small: TransferModel, plain: onnx.ModelProto, opset: int) -> None:
    proto = to_onnx(small, opset)
    assert proto.opset_import[0].version == opset
    np.testing.assert_allclose(in_ort(proto, images(2)), in_ort(plain, images(2)), atol=1e-5)


def test_half_precision_graphs_hold_half_the_bytes_and_take_float32(small: TransferModel) -> None:
    proto = to_onnx(small, 22)
    expected = in_ort(proto, images(2))
    fp16, bf16 = to_half(proto, "fp16"), to_half(proto, "bf16")
    for half in (fp16, bf16):
        onnx.checker.check_model(half, full_check=True)
        assert half.ByteSize() < 0.6 * proto.ByteSize()
        assert half.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    np.testing.assert_allclose(in_ort(fp16, images(2)), expected, atol=5e-3)
    np.testing.assert_allclose(in_openvino(bf16, images(2), "bf16"), expected, atol=5e-2)


def test_embedded_preprocessing_is_the_one_preprocessing(plain: onnx.ModelProto) -> None:
    preprocess = PreprocessSpec.of(InputSpec.image(SIZE))
    pixels = np.random.default_rng(2).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    embedded = onnx.ModelProto()
    embedded.CopyFrom(plain)
    embed_preprocessing(embedded, preprocess)
    onnx.checker.check_model(embedded, full_check=True)
    np.testing.assert_allclose(in_ort(embedded, pixels), in_ort(plain, normalise(pixels, preprocess)), atol=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_activations_are_torchs(plain: onnx.ModelProto, activation: str) -> None:
    with_end = onnx.ModelProto()
    with_end.CopyFrom(plain)
    add_activation(with_end, activation)
    logits = torch.from_numpy(in_ort(plain, images(3)))
    expected = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    np.testing.assert_allclose(in_ort(with_end, images(3)), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_int8_weights_are_per_channel_and_layers_can_stay_float(plain: onnx.ModelProto, method: str) -> None:
    quantiser = Quantiser.calibrated(plain, [images(8)], method=method)
    assert quantiser.macs["conv1"] == 64 * 3 * 7 * 7 * (SIZE // 2) ** 2
    tensors = {t.name: t for t in quantiser.quantise().graph.initializer}
    assert tensors["conv1.weight_quantized"].data_type == onnx.TensorProto.INT8
    assert list(tensors["conv1.weight_scale"].dims) == [64]
    kept = {t.name: t.data_type for t in quantiser.quantise(["conv1"]).graph.initializer}
    assert kept["conv1.weight"] == onnx.TensorProto.FLOAT
    assert kept["layer1.0.conv1.weight_quantized"] == onnx.TensorProto.INT8


def test_residual_sums_are_quantised(plain: onnx.ModelProto) -> None:
    proto = Quantiser.calibrated(plain, [images(4)], method="minmax").quantise()
    makers = {output: node.op_type for node in proto.graph.node for output in node.output}
    sums = [node for node in proto.graph.node if node.op_type == "Add"]
    assert sums
    assert all(makers[name] == "DequantizeLinear" for node in sums for name in node.input)


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_b0", "mobilenet_v3_small", "densenet121"])
def test_for_openvino_no_pair_stands_before_what_is_computed_in_float(backbone: str) -> None:
    quantiser = Quantiser.calibrated(to_onnx(trained_like(backbone, "ttl")), [images(4)], method="minmax")
    usual, fused = (found_pairs(one.quantise()) for one in (quantiser, quantiser.for_openvino()))
    assert len(fused) < len(usual) or backbone == "resnet18"
    in_float = {"Sigmoid", "HardSigmoid", "HardSwish", "BatchNormalization"}
    assert not any(kinds <= in_float for kinds in fused.values())
    assert any(kinds <= in_float for kinds in usual.values()) == (backbone != "resnet18")
    assert not any("Concat" in kinds for kinds in fused.values())


def found_pairs(proto: onnx.ModelProto) -> dict[str, set[str]]:
    """What operators read each dequantised value, by the value."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    restored = [n for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.input[0] not in weights]
    users = {n.output[0]: {u.op_type for u in proto.graph.node if n.output[0] in u.input} for n in restored}
    assert all(users.values()), "logits are not rounded"
    return users


def test_logits_are_not_rounded(plain: onnx.ModelProto) -> None:
    many = images(300)
    proto = Quantiser.calibrated(plain, [many[:8]], method="minmax").quantise()
    assert len(np.unique(in_ort(proto, many)[:, 0])) > 256


def test_symmetric_activations_have_no_zero_points(plain: onnx.ModelProto) -> None:
    proto = Quantiser.calibrated(plain, [images(4)], method="minmax", symmetric=True).quantise()
    points = [numpy_helper.to_array(t) for t in proto.graph.initializer if t.name.endswith("_zero_point")]
    assert points
    assert all(not p.any() and p.dtype == np.int8 for p in points)


def test_weights_leave_the_file_above_a_size(plain: onnx.ModelProto, tmp_path: Path) -> None:
    save_onnx(plain, tmp_path, external_data_mib=0.01)
    assert sorted(p.name for p in tmp_path.iterdir()) == [MODEL_FILE, "model.onnx.data"]
    session = onnxruntime.InferenceSession(tmp_path / MODEL_FILE, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"images": images(2)})[0], in_ort(plain, images(2)), atol=1e-6)


def written(folder: Path) -> dict[str, str]:
    """SHA-256 of everything that the ONNX and OpenVINO exporters write of one model, by precision and file."""
    model, found = trained_like("resnet18", "ttl"), {}
    plain = to_onnx(model)
    for name, precision in (("onnx", "fp32"), ("onnx", "fp16"), ("openvino", "fp32"), ("openvino", "fp16")):
        place = folder / f"{name}-{precision}"
        place.mkdir(parents=True)
        # PyTorch's part is the same for all and takes seconds.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx_graph, "to_onnx", lambda *_: copy.deepcopy(plain))
            EXPORTERS.get(name).write(ExportJob(model, PreprocessSpec.of(InputSpec.image(SIZE)), precision), place)
        found.update({f"{name} {precision} {p.name}": _digest(p.read_bytes()) for p in place.iterdir()})
    int8 = Quantiser.calibrated(plain, [images(4)], method="minmax").quantise()
    return {**found, "int8": _digest(int8.SerializeToString(deterministic=True))}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    """This process, whatever it did before, and a new one whose sets and dictionaries of text are in another order."""
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom tests.formats.test_formats import written\n"
        "print(json.dumps(written(Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "theirs")]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    others = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=others)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    assert len(theirs) == 7
    assert written(tmp_path / "ours") == theirs
    assert _digest(b"") not in theirs.values()


def test_options_that_a_format_does_not_have(small: TransferModel, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"openvino has no option 'external_data_mib'; .*opset"):
        make_options(EXPORTERS.get("openvino"), {"external_data_mib": 1, "opset": None})
    with pytest.raises(BadInputError, match="activation"):
        make_options(EXPORTERS.get("onnx"), {"activation": "relu"})
    old = make_options(EXPORTERS.get("onnx"), {"opset": 18})
    with pytest.raises(BadInputError, match="--opset 22"):
        EXPORTERS.get("onnx").write(ExportJob(small, PreprocessSpec.of(InputSpec.image(SIZE)), "bf16", old), tmp_path)
    with pytest.raises(BadInputError, match="no run"):
        EXPORTERS.get("onnx").write(ExportJob(small, PreprocessSpec.of(InputSpec.image(SIZE)), "int8"), tmp_path)
