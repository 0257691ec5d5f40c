from pathlib import Path

import pytest
import torch
from small import small_input
from torch import nn

from ttl_deploy import export, train
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Data, Model, ModelSpec, Protocol
from ttl_deploy.transfer import TransferModel, build
from ttl_deploy.transfer.heads import HEADS, fits
from ttl_deploy.transfer.model import _resolved
from ttl_deploy.zoo import BACKBONES, Backbone, CutPoint

CLASSES = ("a", "b", "c")


def make(backbone: str = "resnet18", **fields: object) -> TransferModel:
    return build(ModelSpec(backbone=backbone, classes=CLASSES, input=small_input(backbone, 64), **fields))  # type: ignore[arg-type]


def shapes_of(backbone: str, **fields: object) -> TransferModel:
    """A model without values: for what layers there are, and whether they fit together."""
    with torch.device("meta"):
        return make(backbone, **fields)


def on_meta(model: TransferModel) -> torch.Tensor:
    return torch.empty(2, *model.spec.input_shape, device="meta")


def middle(backbone: str) -> str:
    points = BACKBONES.get(backbone).cut_points
    return points[len(points) // 2].name


@pytest.mark.parametrize(
    ("backbone", "head"),
    [(n, h) for n in BACKBONES.names() for h in HEADS.names() if h != "unet" and fits(HEADS.get(h), BACKBONES.get(n))],
)
def test_ttl_holds_nothing_above_the_cut(backbone: str, head: str) -> None:
    cut = middle(backbone)
    model = shapes_of(backbone, method="ttl", cut=cut, head=head)
    assert [unit.name for unit in model.chain if unit.cut][-1] == cut
    # Nothing but a last norm follows.
    assert len(model.chain) - 1 - [unit.name for unit in model.chain].index(cut) <= 1
    logits = model.eval()(on_meta(model))
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("slim", [2, 4, 8])
@pytest.mark.parametrize("backbone", [name for name in BACKBONES.names() if BACKBONES.get(name).unslimmed is None])
def test_tf_divides_the_channels_above_the_cut_in_every_family(backbone: str, slim: int) -> None:
    cut = middle(backbone)
    full, slimmed = shapes_of(backbone), shapes_of(backbone, method="tf", cut=cut, slim=slim)
    assert slimmed(on_meta(slimmed)).shape == (2, 3)
    for unit in slimmed.plan.reused:
        assert _widths(slimmed.unit(unit)) == _widths(full.unit(unit))
    for unit in slimmed.plan.slimmed:
        before, after = _widths(full.unit(unit)), _widths(slimmed.unit(unit))
        # A projection may come on top, where the first slim unit's skip changes width.
        for wide, narrow in zip(before, after, strict=False):
            assert narrow <= wide // slim + 4  # EfficientNet rounds to multiples of 8


def _widths(unit: nn.Module) -> list[int]:
    return [
        m.out_channels
        for n, m in unit.named_modules()
        if isinstance(m, nn.Conv2d | nn.Conv3d) and not n.startswith(("se.", "down", "proj."))
    ]


def test_tf_in_the_middle_of_a_stage_projects_the_skip() -> None:
    model = make("resnet50", method="tf", cut="layer3.2")
    assert model.units["layer3_3"].downsample is not None  # type: ignore[union-attr]
    assert model.units["layer3_4"].downsample is None  # type: ignore[union-attr]


def test_lwft_freezes_weights_and_statistics_below_the_cut_and_scales_the_rates() -> None:
    model = make(method="lwft", cut="layer3").train()
    before = {k: v.clone() for k, v in model.network_state().items()}
    optimizer = torch.optim.SGD(model.parameter_groups(1.0))
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.1]
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in model.head.parameters()}
    model(torch.rand(4, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    after = model.network_state()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("layer4.", "head.")) for name in changed)
    assert any(name.endswith("running_mean") for name in changed)


@pytest.mark.parametrize(("layers", "trained"), [(1, 0), (2, 1), (3, 2), (10, 9)])
def test_lwft_counts_layers_from_the_head(layers: int, trained: int) -> None:
    model = make(method="lwft", layers=layers)
    assert len(model.chain) - len(model.plan.frozen) == trained


def test_a_batch_norm_alone_is_no_layer_of_lwft() -> None:
    """DenseNet's last batch norm goes with the dense layer below it: two layers are the head and that dense layer."""
    top = "denseblock4.denselayer16"
    head, two, cut = (
        make("densenet121", method="lwft", **fields) for fields in ({"layers": 1}, {"layers": 2}, {"cut": top})
    )
    trained = {unit.name for unit in two.chain} - {unit.name for unit in two.plan.frozen}
    assert trained == {top, "norm5"}
    assert {unit.name for unit in head.plan.frozen} == {unit.name for unit in head.chain}
    assert cut.plan.frozen == head.plan.frozen
    # With the head: the stem, 58 dense layers and 3 transitions.
    assert make("densenet121", method="lwft", layers=63).plan.frozen == ()
    with pytest.raises(BadInputError, match="with the head there are 63"):
        make("densenet121", method="lwft", layers=64)


def test_ftl_trains_everything_at_one_rate() -> None:
    model = make()
    (group,) = model.parameter_groups(1e-4)
    assert len(group["params"]) == len(list(model.parameters()))
    assert group["lr"] == 1e-4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "ttl"}, "method ttl needs a cut"),
        ({"method": "ftl", "cut": "layer3"}, "takes no cut"),
        ({"method": "tf", "cut": "layer4.1"}, "nothing is left to slim"),
        ({"method": "lwft"}, "either a cut"),
        ({"method": "lwft", "layers": 99}, "99 layers do not exist"),
        ({"method": "tl"}, "unknown method 'tl'"),
        ({"head": "gpa"}, "unknown head 'gpa'"),
        (
            {"head": "cls"},
            "head cls cannot read the features of resnet18, which are maps; choose head gap or flatten or un",
        ),
    ],
)
def test_impossible_specs_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        make(**fields)


def test_one_channel_in() -> None:
    for backbone in ("resnet18", "densenet121", "efficientnet_b0"):
        model = build(
            ModelSpec(backbone=backbone, method="ttl", cut=middle(backbone), classes=CLASSES, image_size=64, channels=1)
        )
        assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize("command", ["train", "export"])
def test_a_command_parses_a_cut_for_each_set_of_classes_and_no_more(
    command: str, synthetic: Path, pixel_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = []
    resolve_cut = Backbone.resolve

    def counted(self: Backbone, cut: str | int) -> CutPoint:
        parsed.append(cut)
        return resolve_cut(self, cut)

    data = Data(path=synthetic / "labels.csv", cache=pixel_cache)
    protocol = Protocol(epochs=1, batch_size=16, device="cpu", precision="fp32", operating_point="youden")
    network = Model(backbone="resnet18", cut="block:1", image_size=32, weights="random")
    if command == "export":
        train(data, network, protocol, tmp_path / "run")
    _resolved.cache_clear()
    monkeypatch.setattr(Backbone, "resolve", counted)
    if command == "train":
        train(data, network, protocol, tmp_path / "run")
        # Before the data is read, and with the classes that were found in it.
        assert parsed.count("block:1") == 2
    else:
        export(tmp_path / "run", cache=pixel_cache)
    # In the network's own words, each time looked up and divided at.
    assert len(parsed) <= 6
