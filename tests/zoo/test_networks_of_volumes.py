"""The 3-D networks of the zoo against torchvision's, against their 2-D twins, and against the published counts."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.video import r3d_18

from ttl_deploy.cli.main import run
from ttl_deploy.complexity import count, cut_costs
from ttl_deploy.errors import BadInputError, WeightsError
from ttl_deploy.spec import InputSpec, ModelSpec
from ttl_deploy.transfer import TransferModel, build, initialise
from ttl_deploy.zoo import BACKBONES
from ttl_deploy.zoo.penet import Block

CUTS = {"resnext3d50": 17, "resnext3d101": 34, "penet": 17, "r3d_18": 9}
TWINS = {"resnext3d50": (3, 4, 6, 3), "resnext3d101": (3, 4, 23, 3)}

PAPER = {
    ("resnext3d101", "ftl", None): (47.523, 66.325),
    ("resnext3d101", "tf", "block:3"): (36.080, 64.899),
    ("resnext3d101", "ttl", "layer3.18"): (26.112, 60.668),
    ("penet", "ftl", None): (28.399, 51.714),
}
"""Parameters (M) and MACs (G) of an independent rebuild of the paper's Table 2, its layers counted with ptflops."""


def spec(backbone: str, size: tuple[int, ...] = (8, 32, 32), channels: int = 3, **fields: object) -> ModelSpec:
    taken = InputSpec(kind="volume", size=size, channels=channels)
    return ModelSpec(backbone=backbone, classes=("a", "b"), input=taken, **fields)  # type: ignore[arg-type]


def stir(network: nn.Module) -> nn.Module:
    """Statistics and scales of norms as after training."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return network.eval()


def with_weights(model: TransferModel, state: dict[str, Tensor]) -> TransferModel:
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    head = {f"head.{name}": tensor for name, tensor in state.items() if name.startswith("fc.")}
    model.load_network_state(body | head)
    return model.eval()


def test_every_network_of_volumes_is_tested_here() -> None:
    assert set(CUTS) == {name for name in BACKBONES.names() if BACKBONES.get(name).dims == 3}


@pytest.mark.parametrize("name", CUTS)
def test_cuts_are_stem_and_blocks_and_the_stride_is_that_within_a_slice(name: str) -> None:
    points = BACKBONES.get(name).cut_points
    assert len(points) == CUTS[name]
    assert [point.block for point in points if point.ends_block] == [1, 2, 3, 4]
    strides = [point.stride for point in points if point.ends_block]
    # torchvision's has no pooling in its stem. The rows of all are halved once more than their slices. Of 208 rows the
    # last stage has 7, which is 208 / 30.
    assert strides == ([2, 4, 8, 16] if name == "r3d_18" else [4, 8, 16, 30])


def test_the_chain_computes_what_torchvisions_network_computes() -> None:
    network = stir(r3d_18(num_classes=2))
    volumes = torch.rand(2, 3, 8, 32, 32)
    with torch.no_grad():
        found = with_weights(build(spec("r3d_18")), network.state_dict())(volumes)
        torch.testing.assert_close(found, network(volumes), rtol=1e-4, atol=1e-5)


def inflated(tensor: Tensor, depth: int) -> Tensor:
    """A 2-D kernel as the middle slice of a 3-D one."""
    kernel = torch.zeros(*tensor.shape[:2], depth, *tensor.shape[2:])
    kernel[:, :, depth // 2] = tensor
    return kernel


@pytest.mark.parametrize("name", TWINS)
def test_of_one_slice_a_resnext_computes_what_its_2d_twin_computes(name: str) -> None:
    """ResNeXt 32x4d of torchvision has the same widths; `layer3.18.conv2.weight` is so named in both."""
    twin = stir(ResNet(Bottleneck, TWINS[name], num_classes=2, groups=32, width_per_group=4))
    state = {k: inflated(v, v.shape[-1]) if v.ndim == 4 else v for k, v in twin.state_dict().items()}
    images = torch.rand(2, 3, 64, 64)
    model = with_weights(build(spec(name, (8, 64, 64))), state)
    with torch.no_grad():
        torch.testing.assert_close(model(images[:, :, None]), twin(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("network", "printed"), PAPER.items())
def test_parameters_and_macs_are_the_papers(network: tuple[str, str, str | None], printed: tuple[float, float]) -> None:
    backbone, method, cut = network
    one_output = {"task": {"kind": "multilabel"}, "classes": ("embolism",)}
    taken = InputSpec(kind="volume", size=(32, 208, 208))
    made = ModelSpec.model_validate({"backbone": backbone, "method": method, "cut": cut, "input": taken, **one_output})
    with torch.device("meta"):
        cost = count(build(made), made.input_shape)
    assert (round(cost.parameters / 1e6, 3), round(cost.layer_macs / 1e9, 3)) == printed


def test_the_last_stage_is_slimmed_from_1024_to_512() -> None:
    with torch.device("meta"):
        model = build(spec("resnext3d101", (32, 64, 64), method="tf", cut="block:3"))
    block = model.units["layer4_0"]
    assert isinstance(block.conv2, nn.Conv3d)
    assert (block.conv2.out_channels, block.conv2.groups) == (512, 32)


def penet_block(block: Block, features: Tensor) -> Tensor:
    """PENet's block, written from its description with functions alone; 16 channels a group."""
    state = dict(block.named_parameters())

    def norm(name: str, value: Tensor) -> Tensor:
        return functional.group_norm(value, value.shape[1] // 16, state[f"{name}.weight"], state[f"{name}.bias"])

    def activated(value: Tensor) -> Tensor:
        return torch.where(value > 0, value, 0.01 * value)

    stride = 2 if features.shape[1] == 256 else 1
    skip = norm("down_sample.1", functional.conv3d(features, state["down_sample.0.weight"], stride=stride))
    inner = activated(norm("norm1", functional.conv3d(features, state["conv1.weight"])))
    grouped = functional.conv3d(inner, state["conv2.weight"], stride=stride, padding=1, groups=32)
    outer = norm("norm3", functional.conv3d(activated(norm("norm2", grouped)), state["conv3.weight"]))
    means = outer.mean(dim=(2, 3, 4))
    squeezed = activated(means @ state["se_block.excite.0.weight"].T + state["se_block.excite.0.bias"])
    gate = torch.sigmoid(squeezed @ state["se_block.excite.2.weight"].T + state["se_block.excite.2.bias"])
    return activated(outer * gate[:, :, None, None, None] + skip)


@pytest.mark.parametrize(("unit", "channels"), [("encoders.0.penet_blocks.0", 64), ("encoders.1.penet_blocks.0", 256)])
def test_a_penet_block_computes_what_its_description_says(unit: str, channels: int) -> None:
    block = stir(BACKBONES.get("penet").build()[unit])
    assert isinstance(block, Block)
    features = torch.randn(2, channels, 4, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(block(features), penet_block(block, features), rtol=1e-4, atol=1e-5)


def test_a_penet_block_begins_as_its_skip_and_is_left_out_as_often_as_its_place_says() -> None:
    blocks = list(BACKBONES.get("penet").build().values())[1:]
    survivals = [block.survival for block in blocks if isinstance(block, Block)]
    assert survivals == pytest.approx([1 - i / 16 * 0.5 for i in range(16)])
    last = blocks[-1]
    features = torch.randn(1, 2048, 1, 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(last.eval()(features), functional.leaky_relu(features))
        torch.manual_seed(0)
        # What is left out is not even rectified.
        left_out = [torch.equal(last.train()(features), features) for _ in range(400)]
    expected = 1 - survivals[-1]
    assert sum(left_out) / 400 == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 400))


def test_penets_own_files_load_and_one_channel_is_as_three_alike(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("weights") / "penet.pth.tar"
    cut = {"method": "ttl", "cut": "block:1"}
    colour, grey = build(spec("penet", **cut)), build(spec("penet", channels=1, **cut))
    stir(colour)
    state = {k.replace("penet_blocks", "xnet_blocks"): v for k, v in colour.network_state().items()}
    torch.save({"model_state": {f"module.{name}": tensor for name, tensor in state.items()}}, file)
    report = initialise(grey, str(file))
    assert (report.missing, report.adapted) == ((), True)
    grey.head.load_state_dict(colour.head.state_dict())
    volume = torch.rand(1, 1, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(grey.eval()(volume), colour.eval()(volume.expand(-1, 3, -1, -1, -1)))


@pytest.mark.parametrize("name", ["resnext3d101", "penet"])
def test_weights_that_no_program_can_fetch_are_told_with_their_home(name: str) -> None:
    with pytest.raises(WeightsError, match=r"told of at github\.com/.*--weights FILE"):
        initialise(build(spec(name, method="ttl", cut="stem")), "imagenet")


def test_a_volume_that_is_too_small_is_told_with_its_three_sides() -> None:
    with pytest.raises(BadInputError, match="an image of 16 pixels is too small"):
        build(ModelSpec(backbone="densenet121", classes=("a", "b"), image_size=16))
    backbone = BACKBONES.get("r3d_18")
    with pytest.raises(BadInputError, match="the size of one volume is 3 numbers, not 2"):
        backbone.input_spec("64x64")
    with pytest.raises(BadInputError, match="the size of one image is 2 numbers, not 3"):
        BACKBONES.get("resnet18").input_spec("16x64x64")


def test_a_size_of_volumes_is_said_as_three_numbers_or_one() -> None:
    backbone = BACKBONES.get("r3d_18")
    assert backbone.input_spec("16x64x64").shape == (3, 16, 64, 64)
    assert backbone.input_spec(28, channels=1).shape == (1, 28, 28, 28)
    assert backbone.input_spec().shape == (3, 16, 112, 112)


def test_the_cuts_of_a_network_of_volumes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cuts", "r3d_18", "--image-size", "8x32x32"]) == 0
    shown = capsys.readouterr().out
    assert "9 cut points at 8x32x32 pixels" in shown
    assert "1x2x2" in shown
    backbone = BACKBONES.get("r3d_18")
    costs = cut_costs(backbone, backbone.input_spec())
    # torchvision's table of weights: 33,371,472 parameters with 400 classes, 40.697 GFLOPS of layers without norms.
    assert costs[-1].parameters == 33_371_472 - 512 * 400 - 400
    assert costs[-1].macs / 1e9 == pytest.approx(40.697, rel=0.005)
