"""The two counters: ptflops on the meta device against ptflops on the processor, and every difference accounted for."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from ptflops import get_model_complexity_info
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from ttl_deploy.complexity import ModelCost, count, describe_model
from ttl_deploy.complexity.counters import ptflops_macs
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import build


def on_processor(model: nn.Module, shape: tuple[int, ...]) -> int:
    return int(
        get_model_complexity_info(
            model, shape, as_strings=False, print_per_layer_stat=False, backend="pytorch", verbose=False
        )[0]
    )


class Gate(nn.Module):
    """Functions and tensor operators rather than layers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, features: Tensor) -> Tensor:
        gate = functional.softmax(self.fc(features), dim=-1)
        return functional.relu(torch.mul(features, gate)) + torch.matmul(gate.T, features).mean()


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Linear(10, 7), (10,)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), (3, 16, 16)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Sigmoid()), (3, 16, 16)),
        (nn.Sequential(nn.Conv3d(1, 2, 3), nn.GroupNorm(1, 2), nn.GELU(), nn.AvgPool3d(2)), (1, 8, 8, 8)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8)),
        (Gate(), (8,)),
    ],
)
def test_the_meta_device_counts_what_the_processor_counts(model: nn.Module, shape: tuple[int, ...]) -> None:
    expected = on_processor(model.eval(), shape)
    assert expected > 0
    assert ptflops_macs(model.to("meta"), shape) == expected


class Renamed(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: a batch norm by another name, with an activation inside."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        return torch.as_tensor(self.act(super().forward(features)))


class Padded(nn.Conv2d):
    """As timm's Conv2dSame."""


@pytest.mark.parametrize("functions", [True, False])
def test_a_layer_by_another_name_counts_as_the_layer_it_is(functions: bool) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).to("meta").eval()
    named = nn.Sequential(Padded(3, 4, 3), Renamed(4)).to("meta").eval()
    expected = ptflops_macs(plain, (3, 16, 16), functions=functions)
    assert ptflops_macs(named, (3, 16, 16), functions=functions) == expected
    # 27 products and a bias for each of 4x14x14 numbers, 2 of the batch norm, and the ReLU.
    assert ptflops_macs(named, (3, 16, 16), functions=False) == 4 * 14 * 14 * (28 + 2 + 1)
    assert not hasattr(named[1], "__flops__")
    assert not named[1]._forward_hooks


def test_the_parts_of_a_layer_by_another_name_add_up() -> None:
    check = describe_model(nn.Sequential(Padded(3, 4, 3, bias=False), Renamed(4)), (3, 16, 16)).counters
    assert sum(gap.ptflops - gap.flop_counter for gap in check.gaps) == check.ptflops - check.flop_counter
    assert {gap.kind: gap.ptflops for gap in check.gaps}["Renamed"] == 2 * 4 * 14 * 14


class Failing(nn.Module):
    """A network whose forward pass makes a tensor on the processor, as segmentation models' grey first layer does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, features: Tensor) -> Tensor:
        return functional.linear(self.fc(features), torch.ones(3, 7, device="cpu"))


@pytest.mark.parametrize("counting", [ptflops_macs, count, describe_model])
def test_a_forward_pass_that_fails_is_one_line(counting: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInputError, match="forward pass on 8 fails: RuntimeError") as error:
        counting(Failing().to("meta"), (8,))
    assert "\n" not in str(error.value)
    shown = capsys.readouterr()
    assert shown.out + shown.err == "", "ptflops prints a traceback of its own"


def test_an_input_with_other_channels_is_one_line() -> None:
    with pytest.raises(BadInputError, match=r"forward pass on 1x64x64 fails: RuntimeError"):
        count(build(ModelSpec(backbone="resnet18", classes=("a", "b"), image_size=64)), (1, 64, 64))


def describe(backbone: str, size: int, cut: str | None = None) -> ModelCost:
    method = "ttl" if cut else "ftl"
    spec = ModelSpec(backbone=backbone, method=method, cut=cut, classes=("a", "b"), image_size=size)
    return describe_model(build(spec), spec.input_shape)


@pytest.fixture(scope="module")
def resnet() -> ModelCost:
    return describe("resnet18", 64)


@pytest.fixture(scope="module")
def densenet() -> ModelCost:
    return describe("densenet121", 64, "transition1")


def test_the_cross_check_is_pytorchs_own_number(resnet: ModelCost) -> None:
    model = build(ModelSpec(backbone="resnet18", classes=("a", "b"), image_size=64)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    assert resnet.counters.flop_counter == counter.get_total_flops() / 2
    assert resnet.counters.ptflops == resnet.total.macs == on_processor(model, (3, 64, 64))
    assert resnet.counters.agrees
    assert 0 < resnet.counters.difference < 0.02


def test_every_difference_is_named(resnet: ModelCost, densenet: ModelCost) -> None:
    for cost in (resnet, densenet):
        check = cost.counters
        assert sum(gap.ptflops - gap.flop_counter for gap in check.gaps) == check.ptflops - check.flop_counter
        sizes = [abs(gap.ptflops - gap.flop_counter) for gap in check.gaps]
        assert sizes == sorted(sizes, reverse=True)
    assert not densenet.counters.agrees
    why = {gap.kind: gap.why for gap in densenet.counters.gaps}
    assert why["BatchNorm2d"] == "only ptflops counts it, per input element 2 as a layer"
    assert why["ReLU"] == "only ptflops counts it, per input element 1 as a layer and 1 as the function it calls"
    assert why["Linear"] == "ptflops adds the bias, 1 per output element"
    assert "Conv2d" not in why


def test_the_layers_are_named(resnet: ModelCost) -> None:
    norms = next(gap for gap in resnet.counters.gaps if gap.kind == "BatchNorm2d")
    assert len(norms.layers) == 20
    assert norms.layers[0] == "units.stem.bn1"


def test_what_ptflops_does_not_know_is_said() -> None:
    """A product written as an operator: PyTorch's counter sees it (5 * 4 * 5), ptflops does not."""

    class Product(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features @ features.mT

    check = describe_model(nn.Sequential(nn.Linear(4, 4, bias=False), Product()), (5, 4)).counters
    assert (check.ptflops, check.flop_counter) == (80, 180)
    (gap,) = check.gaps
    assert gap.kind == "Product"
    assert gap.why == "PyTorch's counter has a rule for an operator that is run here, ptflops has none or counts less"


def shapes(cost: ModelCost) -> Sequence[tuple[str, tuple[int, ...]]]:
    return [(unit.name, unit.shape) for unit in cost.units]


def test_the_units_are_the_networks_and_add_up(resnet: ModelCost, densenet: ModelCost) -> None:
    assert shapes(resnet)[:2] == [("stem", (64, 16, 16)), ("layer1.0", (64, 16, 16))]
    assert shapes(resnet)[-2:] == [("layer4.1", (512, 2, 2)), ("head", (2,))]
    assert [unit.block for unit in resnet.units] == [0, 1, 1, 2, 2, 3, 3, 4, 4, None]
    for cost in (resnet, densenet):
        assert sum(unit.macs for unit in cost.units) == cost.total.macs
        assert sum(unit.parameters for unit in cost.units) == cost.total.parameters


def test_a_module_that_is_not_of_the_zoo_is_described_by_its_children() -> None:
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    cost = describe_model(model, (4,))
    assert shapes(cost) == [("0", (8,)), ("1", (8,)), ("2", (2,))]
    assert [unit.macs for unit in cost.units] == [32, 16, 16]
    assert cost.total == count(model, (4,))
