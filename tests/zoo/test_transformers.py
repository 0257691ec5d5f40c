"""DeiT, ViT and Swin against timm's own networks, and what only they have: tokens, positions, windows, a last norm."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from ttl_deploy.errors import BadInputError, WeightsError
from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import METHODS, TransferModel, build, initialise
from ttl_deploy.zoo import BACKBONES, timm_network
from ttl_deploy.zoo import fetch as fetching

DEIT, SWIN = "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
PUBLISHED = {
    "deit_tiny_patch16_224": 5.72,
    "deit_small_patch16_224": 22.05,
    "deit_base_patch16_224": 86.57,
    "vit_small_patch16_224": 22.05,
    "vit_base_patch16_224": 86.57,
    "swin_tiny_patch4_window7_224": 28.29,
}
"""Millions of parameters, 1000 classes included."""
SIDE = 64


def make(backbone: str, side: int = SIDE, **fields: object) -> TransferModel:
    return build(ModelSpec(backbone=backbone, classes=("a", "b"), image_size=side, **fields))  # type: ignore[arg-type]


def reference(name: str, side: int = SIDE, **fields: Any) -> nn.Module:
    """timm's network; nothing of it is zero or alike."""
    torch.manual_seed(1)
    network: nn.Module = timm.create_model(name, num_classes=2, img_size=side, **fields)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return network.eval()


def body_and_head(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    state = network.state_dict()
    head = {f"head.fc.{name.rpartition('.')[2]}": state.pop(name) for name in list(state) if name.startswith("head.")}
    return state, head


def test_every_transformer_of_the_zoo_is_tested_here() -> None:
    assert set(PUBLISHED) == {name for name in BACKBONES.names() if name.startswith(("deit_", "vit_", "swin_"))}


@pytest.mark.parametrize("name", [DEIT, "vit_small_patch16_224", SWIN])
def test_the_chain_computes_what_timms_network_computes(name: str) -> None:
    network = reference(name)
    body, head = body_and_head(network)
    model = make(name).eval()
    model.load_network_state(body | head)
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(model(images), network(images), rtol=1e-4, atol=1e-4)


def test_the_head_mean_is_timms_average_of_the_image_s_tokens() -> None:
    network = reference(DEIT, global_pool="avg", fc_norm=False)
    body, head = body_and_head(network)
    model = make(DEIT, head="mean").eval()
    model.load_network_state(body | head)
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(model(images), network(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "millions"), PUBLISHED.items())
def test_parameters_are_as_published(name: str, millions: float) -> None:
    with torch.device("meta"):
        units = BACKBONES.get(name).build().values()
        whole = sum(p.numel() for p in timm.create_model(name).parameters())
    body = sum(p.numel() for unit in units for p in unit.parameters())
    width = BACKBONES.get(name).cut_points[-1].channels
    assert body + 1000 * width + 1000 == whole
    assert round(whole / 1e6, 2) == millions


def test_cuts_follow_every_block_and_their_strides_are_those_of_the_patches() -> None:
    deit, swin = BACKBONES.get(DEIT).cut_points, BACKBONES.get(SWIN).cut_points
    assert [(point.name, point.channels, point.stride) for point in deit] == [
        ("stem", 192, 16),
        *((f"blocks.{i}", 192, 16) for i in range(12)),
    ]
    assert [(point.channels, point.stride) for point in swin if point.ends_block] == [
        (96, 4),
        (192, 8),
        (384, 16),
        (768, 32),
    ]
    assert len(swin) == 13


@pytest.mark.parametrize("name", [DEIT, SWIN])
def test_the_last_norm_follows_a_cut(name: str, tmp_path: Path) -> None:
    network = reference(name)
    save_file(network.state_dict(), tmp_path / "timm.safetensors")
    model = make(name, method="ttl", cut="block:1").eval()
    report = initialise(model, str(tmp_path / "timm.safetensors"))
    assert (report.missing, report.matched) == ((), report.wanted)
    assert model.chain[-1] == BACKBONES.get(name).tail
    images = torch.rand(2, 3, SIDE, SIDE)
    features = images
    with torch.no_grad():
        for unit in model.chain[:-1]:
            features = model.unit(unit)(features)
        # The first block of DeiT, the first stage of Swin.
        taken = network.forward_intermediates(images, indices=[0], intermediates_only=True)[0]  # type: ignore[operator]
    found = features[:, 1:].transpose(1, 2).reshape(taken.shape) if name == DEIT else features.permute(0, 3, 1, 2)
    torch.testing.assert_close(found, taken, rtol=1e-4, atol=1e-4)
    kept = model.network_state()["norm.weight"]
    # Where the features are narrower than the top's, the norm is new.
    torch.testing.assert_close(kept, network.state_dict()["norm.weight"] if name == DEIT else torch.ones(96))


@pytest.mark.parametrize("side", [(64, 64), (32, 96)])
def test_positions_of_another_image_size_are_resampled_as_timm_does(side: tuple[int, int], tmp_path: Path) -> None:
    network = reference(DEIT, 224)
    save_file(network.state_dict(), tmp_path / "timm.safetensors")
    model = build(ModelSpec(backbone=DEIT, classes=("a", "b"), image_size=side))  # type: ignore[call-arg]
    assert initialise(model, str(tmp_path / "timm.safetensors")).missing == ()
    expected = resample_abs_pos_embed(network.state_dict()["pos_embed"], [side[0] // 16, side[1] // 16])
    torch.testing.assert_close(model.network_state()["pos_embed"], expected)


def test_windows_of_another_image_size_take_the_weights_of_224_pixels(tmp_path: Path) -> None:
    save_file(reference(SWIN, 224).state_dict(), tmp_path / "timm.safetensors")
    model = make(SWIN)
    assert initialise(model, str(tmp_path / "timm.safetensors")).missing == ()
    tables = [len(t) for name, t in model.network_state().items() if name.endswith("relative_position_bias_table")]
    # Maps of 16, 8, 4 and 2 pixels: windows of 7, 7, 4 and 2.
    assert tables == [169] * 4 + [49] * 6 + [9] * 2


def test_a_file_of_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "timm.safetensors")
    with pytest.raises(WeightsError, match="none of the 150 tensors of the layers kept from deit_tiny"):
        initialise(make(DEIT), str(tmp_path / "timm.safetensors"))


@pytest.mark.parametrize("name", [DEIT, SWIN])
@pytest.mark.parametrize("method", sorted({*METHODS.names()} - {"tf"}))
def test_every_method_that_applies_trains_a_step(name: str, method: str) -> None:
    model = make(name, 32, method=method, cut=None if method == "ftl" else "block:2").train()
    optimizer = torch.optim.SGD(model.parameter_groups(0.1))
    before = {key: value.clone() for key, value in model.network_state().items()}
    nn.functional.cross_entropy(model(torch.rand(4, 3, 32, 32)), torch.tensor([0, 1, 0, 1])).backward()
    optimizer.step()
    changed = {key for key, value in model.network_state().items() if not torch.equal(before[key], value)}
    assert {"norm.weight", "head.fc.weight"} <= changed
    assert ("patch_embed.proj.weight" in changed) == (method != "lwft")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"backbone": DEIT, "method": "tf", "cut": "block:2"},
            f"tf cannot slim {DEIT}: every block adds to what",
        ),
        (
            {"backbone": SWIN, "method": "tf", "cut": "block:2"},
            f"tf cannot slim {SWIN}: the heads of its attention",
        ),
        ({"backbone": DEIT, "head": "gap"}, "which are a sequence of tokens; choose head cls or mean, or another"),
        (
            {"backbone": SWIN, "head": "mean"},
            "head mean cannot read .* choose head gap or flatten, or another",
        ),
        ({"backbone": SWIN, "head": "unet"}, "maps with their channels last; choose head gap or flatten, or another"),
        ({"backbone": DEIT, "image_size": 8}, "an image of 8 pixels is too small for this network"),
    ],
)
def test_what_a_transformer_cannot_do_is_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        build(ModelSpec(classes=("a", "b"), **{"image_size": 32, **fields}))


def test_lwft_counts_blocks_and_merging_as_layers() -> None:
    """The head, the top block with its norm, the merging below the last two blocks."""
    model = make(SWIN, 32, method="lwft", layers=4)
    trained = [unit.name for unit in model.chain if unit not in model.plan.frozen]
    assert trained == ["layers.3.downsample", "layers.3.blocks.0", "layers.3.blocks.1", "norm"]


def test_imagenet_weights_are_those_that_timm_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, **_kwargs: object) -> dict[str, Any]:
        asked.append(url)
        return {"model": reference(DEIT, 224).state_dict()}

    monkeypatch.setattr(fetching.torch.hub, "load_state_dict_from_url", download)
    assert initialise(make(DEIT, 32, method="ttl", cut="stem"), "imagenet").missing == ()
    assert asked == [timm.get_pretrained_cfg(DEIT).url]


def test_offline_the_hub_s_error_names_the_address_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **fields: object) -> nn.Module:
        raise FileNotFoundError("An error happened while trying to locate the file on the Hub")

    model = make("vit_small_patch16_224", 32, method="ttl", cut="stem")
    monkeypatch.setattr(timm_network.timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"huggingface\.co/timm/vit_small_patch16_224\.augreg.*--weights FILE"):
        initialise(model, "imagenet")
