"""Every network of the zoo: trained a step, exported once, and the graph judged by everything that reads one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import rtx_zoo
import torch
from rtx_zoo import attempt, typed
from small import unlike
from zoo_cross import INITS, NEAR, apart, moved, started, written

from tests.formats.test_formats import in_openvino, in_ort, vary
from tests.formats.test_rtx_zoo import judged
from ttl_deploy.errors import TtlDeployError
from ttl_deploy.formats.graph_tidy import TRAINING_LEFTOVERS, expected_parameters, held
from ttl_deploy.formats.kit.build_engine import GENERATIONS
from ttl_deploy.formats.onnx_graph import to_onnx
from ttl_deploy.formats.quantiser import Quantiser
from ttl_deploy.formats.rtx_cards import PRECISIONS
from ttl_deploy.formats.trt_lint import lint
from ttl_deploy.runtime import trt_rtx
from ttl_deploy.transfer import METHODS, TransferModel
from ttl_deploy.zoo import BACKBONES

WHOLE = ("resnet18", "densenet121", "efficientnet_b0", "tf_efficientnet_lite0", "r3d_18")
"""The backbones whose whole network is quantised; `resnet34` to `resnet101`, `densenet201` and the 3-D ResNeXts are
built of the same units as those or as their truncated selves and differ in how often these are repeated."""

OTHERS = [name for name in METHODS.names() if name != "ttl"]
IN_TURN = {backbone: OTHERS[place % len(OTHERS)] for place, backbone in enumerate(unlike())}
"""Of each backbone the method beside TTL; all of them together are the reports' of `zoo_cross` and `rtx_zoo`."""

QUANTISED = (
    *((backbone, "ttl") for backbone in unlike()),
    *((backbone, method) for backbone in WHOLE for method in ("ftl", "tf")),
    # What LWFT freezes, its graph computes like FTL's (`test_lwft_computes_what_ftl_computes`): two suffice of it.
    ("resnet18", "lwft"),
    ("tf_efficientnet_lite0", "lwft"),
)

NO_FILTERS = "gabor"
"""The initialisation of networks of images only."""


def inits(backbone: str) -> list[str]:
    """What a network can start from."""
    return [init for init in INITS if init != NO_FILTERS or BACKBONES.get(backbone).dims == 2]


CASES = [
    (backbone, method, inits(backbone)[place % len(inits(backbone))])
    for place, (backbone, method) in enumerate(dict.fromkeys([*QUANTISED, *IN_TURN.items()]))
]
"""From every initialisation in turn."""


@pytest.mark.parametrize("backbone", [name for name in BACKBONES.names() if BACKBONES.get(name).dims == 3])
def test_filters_of_images_start_no_network_of_volumes(backbone: str, tmp_path: Path) -> None:
    with pytest.raises(TtlDeployError, match=NO_FILTERS):
        started(backbone, "ttl", NO_FILTERS, written(backbone, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "method", "init"), CASES)
def test_a_network_trains_and_computes_the_same_wherever_it_goes(
    backbone: str, method: str, init: str, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    weights = written(backbone, tmp_path)
    if method == "tf" and BACKBONES.get(backbone).unslimmed is not None:
        with pytest.raises(TtlDeployError, match="cannot slim"):
            started(backbone, method, init, weights)
        return
    model = started(backbone, method, init, weights)
    images = torch.randn(4, *model.spec.input_shape)
    assert moved(model, images)
    vary(model)
    graph = to_onnx(model)
    assert apart(model, graph, images) <= NEAR
    is_tidy(model, graph)
    if (backbone, method) in QUANTISED:
        computes_the_same_elsewhere_and_in_int8(model, graph, images.numpy())
    if backbone in rtx_zoo.NAMES and method in ("ttl", IN_TURN[backbone]):
        with subtests.test("TensorRT for RTX"):
            if (missing := trt_rtx.missing()) is not None:
                pytest.skip(missing)
            is_built_for_rtx(model, graph)


def is_tidy(model: TransferModel, graph: onnx.ModelProto) -> None:
    """Nothing is lost, nothing of training is left, and TensorRT's parser takes it."""
    found = held(graph)
    assert found.parameters == expected_parameters(model, found.kept_norm_channels)
    assert not TRAINING_LEFTOVERS & set(found.operators)
    assert len({node.name for node in graph.graph.node}) == len(graph.graph.node)
    assert lint(graph) == []


def computes_the_same_elsewhere_and_in_int8(model: TransferModel, graph: onnx.ModelProto, batch: np.ndarray) -> None:
    with torch.inference_mode():
        expected = model(torch.from_numpy(batch)).numpy()
    spread = max(float(expected.std(axis=0).max()), 0.1)
    np.testing.assert_allclose(in_openvino(graph, batch), expected, atol=1e-3 * spread, rtol=1e-3)
    quantiser = Quantiser.calibrated(graph, [batch], method="minmax")
    for run, one in ((in_ort, quantiser), (in_openvino, quantiser), (in_openvino, quantiser.for_openvino())):
        int8 = one.quantise()
        onnx.checker.check_model(int8, full_check=True)
        # Calibrated on these very images, int8 is off by a fraction of how much logits vary at all.
        assert np.abs(run(int8, batch) - expected).mean() < 0.12 * max(spread, np.abs(expected).max())


def is_built_for_rtx(model: TransferModel, graph: onnx.ModelProto) -> None:
    """Or refused with its reason; precisions and cards in turn, bf16 of what is truncated: it takes another export."""
    spec, cards = model.spec, tuple(GENERATIONS)
    place, turn = rtx_zoo.NAMES.index(spec.backbone), int(spec.method != "ttl")
    precisions = [precision for precision in PRECISIONS if not turn or precision != "bf16"]
    precision, card = precisions[(place + turn) % len(precisions)], cards[(place + 2 * turn) % len(cards)]
    judged([attempt(trt_rtx.import_rtx(), typed(model, graph, precision), spec, precision, card)])
