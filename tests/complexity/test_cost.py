"""Against the published reproduction of the paper's Tables 1 and 3, counted independently with ptflops 0.7.5."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ttl_deploy.complexity import count, cut_costs
from ttl_deploy.spec import InputSpec, ModelSpec
from ttl_deploy.transfer import build
from ttl_deploy.zoo import BACKBONES

ROWS = [
    ("resnet50", "ftl", None, "gap", 23.51, 4.120, 4.130),
    ("resnet50", "tf", "layer3", "gap", 12.95, 3.563, 3.574),
    ("resnet50", "ttl", "block:3", "gap", 8.545, 3.309, 3.319),
    ("resnet50", "ttl", "layer3.3", "gap", 6.311, 2.870, 2.880),
    ("densenet201", "ftl", None, "flatten", 18.28, 4.365, 4.392),
    ("densenet121", "ttl", "transition2", "flatten", 1.530, 2.112, 2.125),
    ("densenet201", "ttl", "transition2", "flatten", 1.530, 2.112, 2.125),
    # Without timm's BatchNormAct2d, which ptflops overlooks: 0.3645 and 0.2435, and 0.371 and 0.249 with functions.
    ("efficientnet_b0", "ttl", "blocks.6.0", "flatten", 3.627, 0.3779, 0.371 + 0.01335),
    ("efficientnet_b0", "ttl", "11", "flatten", 0.896, 0.2555, 0.249 + 0.01201),
]
"""Millions of parameters, thousand millions of MACs of layers alone and of everything."""


@pytest.mark.parametrize(("backbone", "method", "cut", "head", "parameters", "layers", "macs"), ROWS)
def test_the_papers_rows(
    backbone: str, method: str, cut: str | None, head: str, parameters: float, layers: float, macs: float
) -> None:
    with torch.device("meta"):
        model = build(ModelSpec(backbone=backbone, method=method, cut=cut, head=head, classes=("a", "b")))
    cost = count(model, (3, 224, 224))
    assert cost.parameters / 1e6 == pytest.approx(parameters, abs=0.006)
    assert cost.layer_macs / 1e9 == pytest.approx(layers, abs=0.0005)
    assert cost.macs / 1e9 == pytest.approx(macs, abs=0.001)
    assert cost.dead == 0


def test_macs_agree_with_pytorchs_own_counter() -> None:
    model = build(ModelSpec(backbone="resnet18", method="ttl", cut="layer3", classes=("a", "b"), image_size=64)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    assert count(model, (3, 64, 64)).macs == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


def test_the_table_of_cuts_adds_up_to_the_truncated_models() -> None:
    for cost in cut_costs(BACKBONES.get("resnet18"), InputSpec.image(64))[::3]:
        spec = ModelSpec(backbone="resnet18", method="ttl", cut=cost.point.name, classes=("a", "b"), image_size=64)
        whole = count(build(spec), (3, 64, 64))
        assert whole.parameters - cost.parameters == 2 * cost.shape[0] + 2
        assert whole.macs == pytest.approx(cost.macs, rel=5e-3)


def test_lwft_trains_what_it_says() -> None:
    model = build(ModelSpec(backbone="resnet18", method="lwft", layers=1, classes=("a", "b")))
    assert count(model, (3, 64, 64)).trainable == 512 * 2 + 2
