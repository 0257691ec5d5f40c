"""ConvNeXt against torchvision's, and the last norm, which follows any cut."""

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlock

from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import TransferModel, build, initialise
from ttl_deploy.zoo import BACKBONES


def make(**fields: object) -> TransferModel:
    return build(ModelSpec(backbone="convnext_tiny", classes=("a", "b"), image_size=64, **fields)).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(1)
    made: nn.Module = models.convnext_tiny(num_classes=2).eval()
    for module in made.modules():
        if isinstance(module, CNBlock):
            nn.init.normal_(module.layer_scale, 0.5)
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return made


def test_the_chain_computes_torchvisions_features_normed_where_they_are(network: nn.Module) -> None:
    model = make()
    state = network.state_dict()
    head = {f"head.fc.{name}": state.pop(f"classifier.2.{name}") for name in ("weight", "bias")}
    model.load_network_state(state | head)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        normed = network.classifier[0](network.features(images))  # type: ignore[index, operator]
        expected = network.classifier[2](normed.mean(dim=(2, 3)))  # type: ignore[index, operator]
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


def test_the_last_norm_follows_a_cut_and_has_its_weights_where_it_is_as_wide(
    network: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("weights") / "convnext.pth"
    torch.save(network.state_dict(), file)
    top, lower = make(method="ttl", cut="block:4"), make(method="ttl", cut="features.3.1")
    for model in (top, lower):
        assert model.chain[-1].name == "norm"
        report = initialise(model, str(file))
        assert (report.missing, report.matched) == ((), report.wanted)
    # The same layers as the whole network.
    assert [unit.name for unit in top.chain] == [unit.name for unit in make().chain]
    torch.testing.assert_close(top.network_state()["classifier.0.weight"], network.state_dict()["classifier.0.weight"])
    assert lower.network_state()["classifier.0.weight"].tolist() == [1.0] * 192
    assert {unit.name for unit in lower.plan.slimmed} == {"norm"}
    fresh, held = lower.parameter_groups(1e-4, 1e-2)
    assert (fresh["lr"], held["lr"]) == (1e-2, 1e-4)
    assert {id(p) for p in lower.unit(lower.chain[-1]).parameters()} < {id(p) for p in fresh["params"]}


def test_a_wider_input_within_a_stage_is_narrowed_before_the_slim_block() -> None:
    model = make(method="tf", cut="features.5.3")
    first, second = (model.units[key] for key in ("features_5_4", "features_5_5"))
    assert isinstance(first, nn.Sequential)
    assert isinstance(second, CNBlock)
    assert [layer.out_channels for layer in first.modules() if isinstance(layer, nn.Conv2d)] == [192, 192]
    assert model.network_state()["classifier.0.weight"].shape == (384,)


def test_what_halves_the_resolution_is_no_cut() -> None:
    backbone = BACKBONES.get("convnext_tiny")
    assert [point.stride for point in backbone.cut_points if point.ends_block] == [4, 8, 16, 32]
    assert not [unit for unit in backbone.units if unit.name == "features.4" and unit.cut]
    parameters = sum(p.numel() for unit in backbone.build().values() for p in unit.parameters())
    # torchvision's `num_params`, its 1000 classes included.
    assert parameters + 768 * 1000 + 1000 == 28_589_128
