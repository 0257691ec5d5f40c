"""What the engines' own profiles say of a graph's layers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ttl_deploy import hardware
from ttl_deploy.formats import layer_times as module
from ttl_deploy.formats.layer_times import engine_of_int8, layer_times
from ttl_deploy.formats.onnx_graph import to_onnx
from ttl_deploy.formats.quantiser import Quantiser
from ttl_deploy.spec import InputSpec, ModelSpec
from ttl_deploy.transfer import build


def chain() -> onnx.ModelProto:
    """images -> first -> relu -> second -> sum with the relu -> logits."""
    weights = [numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), name) for name in ("w", "v")]
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "v"], ["c"], "second"),
        helper.make_node("Add", ["b", "c"], ["logits"], "sum"),
    ]
    shape = ["N", 3, 4, 4]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("images", "logits")]
    return helper.make_model(helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights))


def test_a_kernel_counts_for_the_layer_whose_output_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of no layer is what comes before the first; what the engine named by itself belongs to what came before."""
    kernels = [("Reorder", 100.0), ("relu", 2.0), ("its own", 0.25), ("c", 3.0), ("logits", 0.5), ("Reorder", 0.125)]
    monkeypatch.setitem(module._PROFILES, "openvino", lambda *_: kernels)
    times = layer_times(chain(), ("first", "second"), np.zeros((1, 3, 4, 4), np.float32), engine="openvino", threads=1)
    # The sum's first input is the relu's.
    assert times == {"first": 2.0 + 0.25 + 0.5 + 0.125, "second": 3.0}


def test_a_kernels_time_is_the_median_of_its_runs_without_the_first() -> None:
    slow = [[("relu_nchwc_kernel_time", 1000.0), ("second/WithoutBiases", 1000.0)]] * module._WARM_UP
    runs = [[("relu_nchwc_kernel_time", time), ("second/WithoutBiases", 10 * time)] for time in (1.0, 2.0, 50.0)]
    assert module._medians([*slow, *runs]) == [("relu", 2.0), ("second", 20.0)]


@pytest.mark.parametrize(
    ("backbone", "cut", "given"),
    [
        ("resnet18", "layer2.0", InputSpec.image(32)),
        ("efficientnet_b0", "blocks.1.0", InputSpec.image(32)),
        ("densenet121", "transition1", InputSpec.image(32)),
        ("deit_tiny_patch16_224", "blocks.0", InputSpec.image(224)),
        ("r3d_18", "layer1.0", InputSpec(kind="volume", size=(8, 16, 16))),
    ],
)
def test_every_layer_has_a_time_in_float_and_in_int8(
    backbone: str, cut: str, given: InputSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RUNS", 2)
    model = build(ModelSpec(backbone=backbone, method="ttl", cut=cut, classes=("a", "b"), input=given)).eval()
    graph, image = to_onnx(model), np.random.default_rng(0).random((1, *model.spec.input_shape), dtype=np.float32)
    quantiser = Quantiser.calibrated(graph, [image], method="minmax")
    for engine, one in (
        ("onnxruntime", quantiser),
        ("openvino", quantiser),
        ("openvino", quantiser.for_openvino()),
    ):
        for proto in (one.plain, one.quantise()):
            times = layer_times(proto, one.layers, image, engine=engine, threads=1)
            assert list(times) == list(one.layers)
            assert min(times.values()) > 0


def test_the_engine_is_the_one_in_which_an_artifact_will_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_of_int8(fused=True) == "openvino"
    for instructions, engine in ((("avx2", "avx512_vnni"), "openvino"), (("avx2",), "onnxruntime")):
        machine = SimpleNamespace(isa=instructions)
        monkeypatch.setattr(hardware, "describe", lambda machine=machine: machine)
        assert engine_of_int8(fused=False) == engine
