"""`timm:NAME`: features are timm's own, names are recorded in full, and what cannot be cut says why."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ttl_deploy import export, train
from ttl_deploy.cli.main import run
from ttl_deploy.errors import BadInputError, WeightsError
from ttl_deploy.formats.onnx_graph import to_onnx
from ttl_deploy.spec import Data, Model, ModelSpec, Protocol
from ttl_deploy.training.run import open_run
from ttl_deploy.training.train import load_model, specs
from ttl_deploy.transfer import METHODS, TransferModel, build, initialise
from ttl_deploy.zoo import BACKBONES, timm_network
from ttl_deploy.zoo import fetch as fetching

LAST_NORM = {"test_convnext": "head.norm", "test_mambaout": "head.norm", "test_vit2": "fc_norm"}
"""The norm that timm has after its pooling, and our chain before it."""
FAMILIES = [
    *("test_resnet", "test_byobnet", "test_efficientnet", "mobilenetv3_small_050", "regnetx_002", "test_nfnet"),
    *("test_vit", "test_vit2", "test_convnext", "test_mambaout"),
]


def make(name: str, **fields: object) -> TransferModel:
    side = timm.get_pretrained_cfg(name).input_size[-1]  # type: ignore[union-attr]
    return build(ModelSpec(backbone=f"timm:{name}", classes=("a", "b"), image_size=side, **fields))  # type: ignore[arg-type]


def stirred(name: str) -> nn.Module:
    torch.manual_seed(1)
    network: nn.Module = timm.create_model(name, num_classes=2)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return network.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_chain_gives_timms_features(name: str, tmp_path: Path) -> None:
    network, model = stirred(name), make(name).eval()
    save_file(network.state_dict(), tmp_path / "timm.safetensors")
    report = initialise(model, str(tmp_path / "timm.safetensors"))
    assert (report.missing, report.matched) == ((), report.wanted)
    features = images = torch.rand(2, *model.spec.input_shape)
    with torch.no_grad():
        for unit in model.chain:
            features = model.unit(unit)(features)
        expected = network.forward_features(images)  # type: ignore[operator]
        if name in LAST_NORM:
            expected = network.get_submodule(LAST_NORM[name])(expected)
        if BACKBONES.get(f"timm:{name}").layout == "channels_last":
            expected = expected.permute(0, 3, 1, 2)
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_mambaout"])
@pytest.mark.parametrize("method", sorted({*METHODS.names()} - {"tf"}))
def test_every_method_that_applies_trains_a_step(name: str, method: str) -> None:
    model = make(name, method=method, cut=None if method == "ftl" else "block:1").train()
    before = {key: value.clone() for key, value in model.network_state().items()}
    optimizer = torch.optim.SGD(model.parameter_groups(0.1))
    images = torch.rand(2, *model.spec.input_shape)
    nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
    optimizer.step()
    after = model.network_state()
    assert not torch.equal(after["head.fc.weight"], before["head.fc.weight"])
    stem = BACKBONES.get(f"timm:{name}").first_weight
    assert torch.equal(after[stem], before[stem]) == (method == "lwft")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_a_cut_exports_and_agrees(name: str) -> None:
    model = make(name, method="ttl", cut="block:2").eval()
    images = torch.rand(2, *model.spec.input_shape)
    session = onnxruntime.InferenceSession(to_onnx(model).SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model(images).numpy()
    np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, rtol=1e-3, atol=1e-4)


def test_a_name_and_its_tag_are_recorded_in_full_and_load_again(
    synthetic: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    network = Model(backbone="timm/test_resnet.r160_in1k", method="ttl", cut="layer2", image_size=32, weights="random")
    protocol = Protocol(epochs=1, batch_size=16, device="cpu", precision="fp32")
    done = train(Data(path=synthetic / "labels.csv", cache=pixel_cache), network, protocol, tmp_path / "run")
    found = open_run(tmp_path / "run")
    assert found.config.model.backbone == "timm:test_resnet.r160_in1k"
    model = load_model(found)
    assert [unit.name for unit in model.chain] == ["stem", "layer1.0", "layer2.0"]
    assert done.config.preprocess.mean == (0.5, 0.5, 0.5)
    artifact = export(tmp_path / "run", cache=pixel_cache)
    assert artifact.manifest.model.backbone == "timm:test_resnet.r160_in1k"


def test_channels_that_differ_in_pretraining_are_seen_as_there() -> None:
    data = Data(path=Path("none"))
    name = "timm:vit_base_patch16_clip_224"
    published = timm.get_pretrained_cfg("vit_base_patch16_clip_224")
    preprocess = specs(Model(backbone=name, method="ftl"), data, ("a", "b"))[1]
    assert (preprocess.mean, preprocess.std) == (published.mean, published.std)  # type: ignore[union-attr]
    grey = specs(Model(backbone=name, method="ftl", channels=1), data, ("a", "b"))[1]
    assert grey.mean == pytest.approx((sum(published.mean) / 3,))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "timm has no network 'resnet81'; nearest: resnet"),
        ("resnet18.a9", r"cannot be cut: RuntimeError: Invalid pretrained tag \(a9\)"),
        ("pvt_v2_b0", "timm:pvt_v2_b0 cannot be cut: its blocks do not run one after the other .*missing 1 required"),
        (
            "cait_xxs24_224",
            "cannot be cut: its blocks, one after the other, are not all that it computes; choose",
        ),
        ("pit_ti_224", "timm:pit_ti_224 cannot be cut: "),
    ],
)
def test_what_cannot_be_cut_says_why(name: str, message: str) -> None:
    for form in ("timm:", "timm/"):
        with pytest.raises(BadInputError, match=message):
            BACKBONES.get(form + name)


def test_tf_of_a_network_of_timm_is_refused_in_one_line() -> None:
    with pytest.raises(BadInputError, match="tf cannot slim timm:test_vit: how timm's layers are divided is not known"):
        make("test_vit", method="tf", cut="block:2")


def test_cuts_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cuts", "timm:test_vit"]) == 0
    assert "blocks.5" in capsys.readouterr().out


def test_a_tag_s_weights_are_fetched_from_where_timm_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, **_kwargs: object) -> dict[str, torch.Tensor]:
        asked.append(url)
        return dict(timm.create_model("resnet18").state_dict())

    monkeypatch.setattr(fetching.torch.hub, "load_state_dict_from_url", download)
    for tag in ("a1_in1k", "tv_in1k"):
        spec = ModelSpec(backbone=f"timm/resnet18.{tag}", method="ttl", cut="stem", classes=("a", "b"), image_size=32)
        assert initialise(build(spec), "imagenet").missing == ()
    assert asked == [timm.get_pretrained_cfg(f"resnet18.{tag}").url for tag in ("a1_in1k", "tv_in1k")]  # type: ignore[union-attr]


def test_offline_the_error_names_the_address_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **_fields: object) -> nn.Module:
        raise FileNotFoundError("An error happened while trying to locate the file on the Hub")

    model = make("test_vit", method="ttl", cut="stem")
    monkeypatch.setattr(timm_network.timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"huggingface\.co/timm/test_vit\.r160_in1k.*--weights FILE"):
        initialise(model, "imagenet")
