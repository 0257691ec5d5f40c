from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from ttl_deploy.errors import BadInputError, WeightsError
from ttl_deploy.spec import Data, Model, ModelSpec
from ttl_deploy.training.train import specs
from ttl_deploy.transfer import TransferModel, build, initialise
from ttl_deploy.zoo import BACKBONES
from ttl_deploy.zoo import fetch as fetching

CUTS = {
    "resnet18": 9,
    "resnet34": 17,
    "resnet50": 17,
    "resnet101": 34,
    "densenet121": 58 + 3,
    "densenet201": 98 + 3,
    "efficientnet_b0": 16,
    "tf_efficientnet_lite0": 16,
    "inception_v3": 16,
    "vgg11_bn": 8,
    "vgg16_bn": 13,
    "vgg19": 16,
    "mobilenet_v3_small": 12,
    "mobilenet_v3_large": 16,
    "regnet_y_400mf": 17,
    "regnet_y_1_6gf": 28,
    "convnext_tiny": 19,
    "cbr_large_t": 5,
    "cbr_large_w": 4,
    "cbr_small": 4,
    "cbr_tiny": 4,
}
FAMILY = {"cbr_large_t": 8_532_480, "cbr_large_w": 8_432_128, "cbr_small": 2_108_672, "cbr_tiny": 1_076_480}
"""What Raghu 2019 prints in Table 1, without the classifier."""
LIBRARY = sorted(CUTS.keys() - FAMILY.keys() - {"convnext_tiny"})
"""Those that a library has too; ConvNeXt has its last norm before its pooling, and a test of its own."""
SIDE = {"inception_v3": 107}
"""Pixels of the images on which a network is tried; others: 64."""


def reference(name: str) -> nn.Module:
    torch.manual_seed(1)
    if "efficientnet" in name:
        network: nn.Module = timm.create_model(name, num_classes=2)
    elif name == "inception_v3":
        network = models.inception_v3(num_classes=2, aux_logits=False, transform_input=False, init_weights=False)
    else:
        # Drawing the weights of VGG's classifier would take a second.
        unneeded = {"init_weights": False} if name.startswith("vgg") else {}
        network = with_a_linear_classifier(models.get_model(name, num_classes=2, **unneeded))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.rand_like(module.running_mean) * 0.2  # type: ignore[arg-type]
            module.running_var = torch.rand_like(module.running_var) + 0.5  # type: ignore[arg-type]
    return network.eval()


def as_ours(name: str, network: nn.Module) -> TransferModel:
    model = build(ModelSpec(backbone=name, classes=("a", "b"), image_size=SIDE.get(name, 64))).eval()
    state = {k: v for k, v in network.state_dict().items() if not k.startswith(("fc.", "classifier."))}
    linear = network.get_submodule("fc" if hasattr(network, "fc") else "classifier")
    model.load_network_state(state | {"head.fc.weight": linear.weight.data, "head.fc.bias": linear.bias.data})  # type: ignore[operator]
    return model


def with_a_linear_classifier(network: nn.Module) -> nn.Module:
    """Pooled features and one linear layer, where the library's classifier has more."""
    if isinstance(network, models.VGG | models.MobileNetV3):
        (*_before, last) = (layer for layer in network.features.modules() if isinstance(layer, nn.Conv2d))
        network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(last.out_channels, 2)
    return network


@pytest.mark.parametrize("name", LIBRARY)
def test_the_chain_computes_what_the_library_network_computes(name: str) -> None:
    network = reference(name)
    images = torch.rand(2, 3, SIDE.get(name, 64), SIDE.get(name, 64))
    with torch.no_grad():
        torch.testing.assert_close(as_ours(name, network)(images), network(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "printed"), FAMILY.items())
def test_the_cbr_family_has_the_parameters_of_its_table(name: str, printed: int) -> None:
    """To the last digit with one channel (its kernel 5x5, LargeT's 7x7) and batch norms without scale."""
    modules = BACKBONES.get(name).build(channels=1).values()
    scales = sum(m.num_features for unit in modules for m in unit.modules() if isinstance(m, nn.BatchNorm2d))
    assert sum(p.numel() for unit in modules for p in unit.parameters()) - scales == printed
    whole = sum(p.numel() for unit in BACKBONES.get(name).build().values() for p in unit.parameters())
    assert whole == pytest.approx(printed, rel=0.0025)


def test_inception_s_features_have_torchvisions_parameters() -> None:
    modules = BACKBONES.get("inception_v3").build().values()
    assert sum(p.numel() for unit in modules for p in unit.parameters()) == 21_785_568


def test_every_backbone_of_the_zoo_is_tested_here() -> None:
    """Those of volumes in `test_volumes`, transformers in `test_transformers`."""
    found = {n for n in BACKBONES.names() if BACKBONES.get(n).dims == 2}
    assert set(CUTS) == {name for name in found if not name.startswith(("deit_", "vit_", "swin_"))}


@pytest.mark.parametrize(("name", "count"), sorted(CUTS.items()))
def test_the_number_of_cut_points_is_the_networks(name: str, count: int) -> None:
    points = BACKBONES.get(name).cut_points
    assert len(points) == count
    assert [p.index for p in points] == sorted(p.index for p in points)


def test_cut_points_are_named_in_the_networks_own_words() -> None:
    for name in LIBRARY:
        network = reference(name)
        backbone = BACKBONES.get(name)
        names = {n.removeprefix(backbone.container) for n, _module in network.named_modules()}
        assert {p.name for p in backbone.cut_points} - {"stem"} <= names


@pytest.mark.parametrize(
    ("cut", "name"),
    [("layer3.3", "layer3.3"), ("11", "layer3.3"), (11, "layer3.3"), ("block:3", "layer3.5"), ("layer3", "layer3.5")],
)
def test_a_cut_has_several_names(cut: str | int, name: str) -> None:
    assert BACKBONES.get("resnet50").resolve(cut).name == name


def test_a_number_is_an_index_and_not_the_networks_own_number() -> None:
    backbone = BACKBONES.get("vgg19")
    assert [backbone.resolve(cut).name for cut in ("3", "features.2")] == ["features.7", "features.2"]
    assert BACKBONES.get("regnet_y_400mf").resolve("trunk_output.block2").name == "block2.block2-2"


@pytest.mark.parametrize(("name", "whole"), [("regnet_y_400mf", 4_344_144), ("regnet_y_1_6gf", 11_202_430)])
def test_regnets_have_the_published_parameters(name: str, whole: int) -> None:
    """torchvision's `num_params`, its 1000 classes included."""
    modules = BACKBONES.get(name).build().values()
    found = sum(p.numel() for unit in modules for p in unit.parameters())
    width = BACKBONES.get(name).cut_points[-1].channels
    assert found + 1000 * width + 1000 == whole


def test_the_papers_densenet_cut_is_a_block_end() -> None:
    backbone = BACKBONES.get("densenet121")
    assert backbone.resolve("block:2").name == "transition2"
    assert backbone.resolve("features.transition2").channels == 256


def test_an_unknown_cut_lists_the_nearest() -> None:
    with pytest.raises(BadInputError, match=r"layer3\.9.*nearest: layer3\.5"):
        BACKBONES.get("resnet50").resolve("layer3.9")
    with pytest.raises(BadInputError, match="unknown backbone 'resnet5'; nearest: resnet50"):
        BACKBONES.get("resnet5")


def test_a_too_small_image_is_told() -> None:
    with pytest.raises(BadInputError, match="16 pixels is too small"):
        build(ModelSpec(backbone="densenet121", classes=("a", "b"), image_size=16))


def test_old_densenet_checkpoints_are_understood() -> None:
    backbone = BACKBONES.get("densenet121")
    old = {"features.denseblock1.denselayer1.norm.1.weight": torch.ones(1), "features.norm5.weight": torch.ones(1)}
    new = set(backbone.upgrade(old))
    assert new == {"features.denseblock1.denselayer1.norm1.weight", "features.norm5.weight"}


def test_offline_the_error_names_the_address_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **_kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(fetching.torch.hub, "load_state_dict_from_url", offline)
    model = build(ModelSpec(backbone="resnet18", method="ttl", cut="stem", classes=("a", "b")))
    with pytest.raises(WeightsError, match=r"https://download\.pytorch\.org/models/resnet18-.*--weights FILE"):
        initialise(model, "imagenet")


def test_imagenet_weights_come_from_the_published_file(monkeypatch: pytest.MonkeyPatch) -> None:
    network = models.resnet18()
    asked = []

    def download(url: str, **_kwargs: object) -> dict[str, torch.Tensor]:
        asked.append(url)
        return network.state_dict()

    monkeypatch.setattr(fetching.torch.hub, "load_state_dict_from_url", download)
    model = build(ModelSpec(backbone="resnet18", method="ttl", cut="layer2.0", classes=("a", "b")))
    report = initialise(model, "imagenet")
    assert asked == [models.ResNet18_Weights.IMAGENET1K_V1.url]
    assert not report.missing
    torch.testing.assert_close(
        model.network_state()["layer2.0.conv1.weight"], network.state_dict()["layer2.0.conv1.weight"]
    )


PUBLISHED = sorted(set(BACKBONES.names()) & set(models.list_models()) - {"inception_v3"})
"""torchvision's Inception wants ImageNet's mean and deviation and turns them into 0.5 itself; ours takes 0.5."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_inputs_are_normalised_as_for_the_published_weights(name: str) -> None:
    published = models.get_model_weights(name).DEFAULT.transforms()
    model = Model(backbone=name, method="ftl", channels=3)
    _spec, preprocess = specs(model, Data(path=Path("none")), ("a", "b"))
    assert (preprocess.mean, preprocess.std) == (tuple(published.mean), tuple(published.std))


def test_lite0_has_the_published_size_and_sees_images_as_in_its_pretraining() -> None:
    """4.7 M parameters in the README of EfficientNet-Lite; timm counts 4,652,008, 1000 classes included."""
    model = build(ModelSpec(backbone="tf_efficientnet_lite0", classes=("a", "b")))
    head = 2 * 1280 + 2
    assert sum(p.numel() for p in model.parameters()) - head + 1000 * 1280 + 1000 == 4_652_008
    cut, data = "blocks.4.2", Data(path=Path("none"))
    _spec, preprocess = specs(Model(backbone="tf_efficientnet_lite0", cut=cut), data, ("a", "b"))
    published = timm.get_pretrained_cfg("tf_efficientnet_lite0")
    assert (preprocess.mean, preprocess.std) == (published.mean, published.std) == ((0.5,) * 3, (0.5,) * 3)
    assert specs(Model(backbone="tf_efficientnet_lite0", cut=cut, channels=1), data, ("a", "b"))[1].mean == (0.5,)
    assert specs(Model(backbone="efficientnet_b0", cut=cut), data, ("a", "b"))[1].mean == (0.485, 0.456, 0.406)
