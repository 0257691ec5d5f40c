"""What the reused layers start from: counted and measured by numpy on the tensors before and after."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from small import MODEL, PROTOCOL, but
from torch import Tensor, nn
from torchvision import models

from ttl_deploy.data.synthetic import write_synthetic
from ttl_deploy.errors import BadInputError, WeightsError
from ttl_deploy.spec import Data, ModelSpec, Protocol
from ttl_deploy.training.run import open_run
from ttl_deploy.training.train import check, starting_model, train
from ttl_deploy.transfer import TransferModel, build, initialise
from ttl_deploy.transfer.inits import INITS
from ttl_deploy.transfer.inits.gabor import gabor_bank


def a_model(**how: object) -> TransferModel:
    fields: dict[str, object] = {"backbone": "resnet18", "method": "ftl", "classes": ("a", "b"), **how}
    torch.manual_seed(5)
    return build(ModelSpec(**fields))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def source() -> dict[str, Tensor]:
    """A trained network's numbers as far as they matter: means that are not 0, norms that are not 1 and 0."""
    torch.manual_seed(3)
    state = models.resnet18().state_dict()
    return {
        name: tensor + 0.01 + 0.1 * torch.rand_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


@pytest.fixture(scope="module")
def file(source: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file({name: tensor.clone() for name, tensor in source.items()}, path)
    return str(path)


def started(file: str, init: str, **how: object) -> dict[str, NDArray[np.float64]]:
    model = a_model(**how)
    initialise(model, file, init)
    return numbers(model.network_state())


def numbers(state: dict[str, Tensor]) -> dict[str, NDArray[np.float64]]:
    return {name: tensor.double().numpy() for name, tensor in state.items()}


def is_norm(name: str) -> bool:
    return "bn" in name or "downsample.1" in name


def test_stats_have_the_sources_mean_and_deviation_and_nothing_else_of_it(file: str, source: dict[str, Tensor]) -> None:
    """Bounds are 4.5 standard errors of a mean, a deviation and a correlation of n independent normal numbers."""
    ours = started(file, "stats")
    weights = [name for name in ours if not name.startswith("head.") and not is_norm(name)]
    assert len(weights) == 20
    for name in weights:
        before, after = source[name].double().numpy().ravel(), ours[name].ravel()
        n = before.size
        assert abs(after.mean() - before.mean()) < 4.5 * before.std() / math.sqrt(n), name
        assert abs(after.std() / before.std() - 1) < 4.5 / math.sqrt(2 * n), name
        assert abs(np.corrcoef(before, after)[0, 1]) < 4.5 / math.sqrt(n), name


def test_stats_set_norms_to_one_and_zero(file: str) -> None:
    ours = started(file, "stats")
    expected = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
    norms = [name for name in ours if is_norm(name)]
    assert len(norms) == 20 * 5
    assert {name for name in norms if not (ours[name] == expected[name.rpartition(".")[2]]).all()} == set()


def test_stats_draw_biases_and_tensors_that_are_no_layers_weight(tmp_path: Path) -> None:
    """As the class token and the position embedding of a transformer, which lie beside its layers."""
    from ttl_deploy.transfer.inits import Part

    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.zeros(1, 4000))
            self.inner = nn.Sequential(nn.Linear(2, 4000), nn.LayerNorm(4))

    given = {"x.position": torch.full((1, 4000), 2.0), "x.inner.0.bias": 3 + torch.randn(4000)}
    given |= {"x.inner.0.weight": torch.randn(4000, 2), "x.inner.1.weight": torch.full((4,), 9.0)}
    module = Embedding()
    nn.init.constant_(module.inner[1].weight, 7.0)
    filled = INITS.get("stats").fill(Part([("x.", module)], given, ""))
    assert (module.position == 2).all(), "a deviation of 0"
    assert float(module.inner[0].bias.detach().mean()) == pytest.approx(3, abs=0.1)
    assert (module.inner[1].weight == 1).all()
    assert filled.drawn == ("x.position", "x.inner.0.weight", "x.inner.0.bias")
    assert filled.reset == ("x.inner.1.weight", "x.inner.1.bias")


@pytest.mark.parametrize(
    ("place", "below"),
    [
        ("block:2", ("conv1", "bn1", "layer1", "layer2")),
        ("layer2", ("conv1", "bn1", "layer1", "layer2")),
        ("layer2.0", ("conv1", "bn1", "layer1", "layer2.0")),
        ("0", ("conv1", "bn1")),
        ("block:0", ("conv1", "bn1")),
        ("stem", ("conv1", "bn1")),
    ],
)
@pytest.mark.parametrize("above", ["stats", "random"])
def test_units_up_to_the_named_one_are_the_sources_and_those_above_are_not(
    place: str, below: tuple[str, ...], above: str, file: str, source: dict[str, Tensor]
) -> None:
    ours = started(file, f"weights:{place}+{above}")
    built = numbers(a_model().network_state())
    for name, tensor in ours.items():
        if name.startswith("head.") or name.endswith("num_batches_tracked"):
            continue
        same = bool((tensor == source[name].double().numpy()).all())
        assert same == name.startswith(below), name
        if above == "random" and not name.startswith(below):
            assert (tensor == built[name]).all(), name


def test_three_ways_follow_each_other(file: str, source: dict[str, Tensor]) -> None:
    ours = started(file, "weights:stem+stats:block:2+random")
    built = numbers(a_model().network_state())
    assert (ours["conv1.weight"] == source["conv1.weight"].double().numpy()).all()
    assert (ours["layer4.0.conv1.weight"] == built["layer4.0.conv1.weight"]).all()
    drawn = ours["layer2.1.conv2.weight"]
    assert not (drawn == built["layer2.1.conv2.weight"]).any()
    assert not (drawn == source["layer2.1.conv2.weight"].double().numpy()).any()


@pytest.mark.parametrize(
    ("method", "how", "reused"),
    [
        ("ttl", {"cut": "layer3.0"}, ("conv1", "bn1", "layer1", "layer2", "layer3.0")),
        ("tf", {"cut": "layer2.0"}, ("conv1", "bn1", "layer1", "layer2.0")),
        ("lwft", {"layers": 2}, ("conv1", "bn1", "layer")),
    ],
)
def test_every_method_starts_by_it(
    method: str, how: dict[str, object], reused: tuple[str, ...], file: str, source: dict[str, Tensor]
) -> None:
    """What TF slims is random, as without it; a unit that LWFT freezes may be drawn too."""
    ours = started(file, "weights:layer1+stats", method=method, **how)
    built = numbers(a_model(method=method, **how).network_state())
    for name, tensor in ours.items():
        if name.startswith(("conv1", "layer1")) and not name.endswith("num_batches_tracked"):
            assert (tensor == source[name].double().numpy()).all(), name
        elif name.startswith("head.") or not name.startswith(reused):
            assert (tensor == built[name]).all(), name
        elif not is_norm(name):
            spread = source[name].double().numpy().std()
            assert tensor.std() == pytest.approx(spread, rel=4.5 / math.sqrt(2 * tensor.size))
            assert not (tensor == built[name]).any()


def test_a_unit_above_a_models_own_is_no_error(file: str) -> None:
    """A search asks every cut for it."""
    whole = started(file, "weights", method="ttl", cut="layer1.0")
    cut = started(file, "weights:block:3+stats", method="ttl", cut="layer1.0")
    assert all((cut[name] == tensor).all() for name, tensor in whole.items())


def test_the_report_tells_what_was_taken_and_what_was_drawn(file: str) -> None:
    report = initialise(a_model(), file, "weights:block:2+stats")
    # conv1, bn1 and two stages of two blocks of two convolutions and norms, one shortcut; a norm has four tensors.
    assert (report.matched, report.wanted, report.drawn, report.reset) == (50, 50, 10, 20)
    assert "50 of 50 tensors of the reused layers loaded, weights:block:2+stats: 10 drawn, 20 of norms" in str(report)
    assert report.unused == 2, "the classifier"
    whole = initialise(a_model(), file)
    assert "drawn" not in str(whole)
    assert (whole.drawn, whole.reset) == (0, 0)


def test_the_deviation_of_a_grey_networks_first_layer_is_that_of_the_summed_one(
    file: str, source: dict[str, Tensor]
) -> None:
    ours = started(file, "stats", channels=1)["conv1.weight"]
    assert ours.std() == pytest.approx(source["conv1.weight"].double().sum(1).numpy().std(), rel=0.05)


def test_of_random_weights_the_same_seed_gives_what_it_gave(file: str) -> None:
    built = a_model().network_state()
    for weights, init in (("random", "weights"), (file, "random"), ("nowhere.pth", "random")):
        model = a_model()
        assert str(initialise(model, weights, init)) == "weights: random"
        assert all(torch.equal(tensor, built[name]) for name, tensor in model.network_state().items())


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("weights:block:9+stats", "'block:9' is no layer or block of resnet18"),
        ("weights:layer2.7+random", r"'layer2\.7' is no layer or block of resnet18; .*layer2"),
        ("weights:17+stats", "'17' is no layer or block"),
        ("weights:+stats", "no layer is named"),
        ("weights:block:2", r"nothing is said of the layers above 'block:2'; .*weights:block:2\+random"),
        ("weights:block:3+stats:block:1+random", "'block:1' is not above what is before it"),
        ("statistics", "unknown initialisation 'statistics'; .*stats"),
        ("", "unknown initialisation ''"),
    ],
)
def test_a_start_that_cannot_be_is_one_line_before_data_is_read(init: str, said: str, tmp_path: Path) -> None:
    model = but(MODEL, weights="imagenet", init=init)
    with pytest.raises(BadInputError, match=said) as told:
        check(Data(path=tmp_path / "nothing.csv"), model, Protocol(device="cpu"))
    assert "\n" not in str(told.value)


def test_weights_that_are_needed_and_random_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="needs weights, and they are random"):
        check(Data(path=tmp_path / "nothing.csv"), but(MODEL, init="stats"), Protocol(device="cpu"))


def test_a_source_without_the_layers_that_need_it_is_refused(file: str, tmp_path: Path) -> None:
    save_file({"layer4.1.conv2.weight": load_file(file)["layer4.1.conv2.weight"]}, tmp_path / "top.safetensors")
    with pytest.raises(WeightsError, match="none of the 5 tensors"):
        initialise(a_model(), str(tmp_path / "top.safetensors"), "weights:stem+random")


def test_a_run_records_its_start_and_begins_at_it(file: str, source: dict[str, Tensor], tmp_path: Path) -> None:
    images = write_synthetic(tmp_path / "set", images=60, size=32, seed=1)
    data = Data(path=images / "labels.csv", cache=tmp_path / "cache")
    model = but(MODEL, weights=file, init="weights:stem+stats")
    run = train(data, model, but(PROTOCOL, epochs=1), tmp_path / "run")
    assert open_run(run.folder).config.init == "weights:stem+stats"
    assert "weights:stem+stats: 2 drawn, 4 of norms" in run.metrics()["weights"]
    begun = starting_model(run).network_state()
    assert torch.equal(begun["conv1.weight"], source["conv1.weight"])
    assert not torch.equal(begun["layer1.0.conv1.weight"], source["layer1.0.conv1.weight"])
    plain = train(data, but(MODEL, weights="random"), but(PROTOCOL, epochs=1), tmp_path / "plain")
    asked = train(data, but(MODEL, weights=file, init="random"), but(PROTOCOL, epochs=1), tmp_path / "asked")
    for name in ("config.yaml", "best.safetensors"):
        assert (plain.folder / name).read_bytes() == (asked.folder / name).read_bytes()
    assert "init" not in (plain.folder / "config.yaml").read_text()


@pytest.mark.parametrize("wrapper", ["backbone.", "", "module.backbone."])
def test_files_with_the_names_of_a_numbered_sequential_load(wrapper: str, tmp_path: Path) -> None:
    """RadImageNet's published ResNet-50 is `nn.Sequential(*list(resnet50().children())[:-1])` under `backbone`."""
    torch.manual_seed(7)
    network = models.resnet50()
    state = {wrapper + k: v for k, v in nn.Sequential(*list(network.children())[:-1]).state_dict().items()}
    assert f"{wrapper}4.0.downsample.1.running_var" in state
    torch.save(state, tmp_path / "ResNet50.pt")
    model = build(ModelSpec(backbone="resnet50", method="ttl", cut="layer3.3", classes=("a", "b")))
    report = initialise(model, str(tmp_path / "ResNet50.pt"))
    assert (report.missing, report.matched) == ((), report.wanted)
    for name, tensor in model.network_state().items():
        if not name.startswith("head."):
            assert torch.equal(tensor, network.state_dict()[name]), name


def test_gabor_filters_are_waves_of_their_orientation_and_length() -> None:
    """By the two-dimensional Fourier transform of each, padded to see between the frequencies."""
    bank = gabor_bank(64, 7, 7).double().numpy()
    assert bank.shape == (64, 7, 7)
    np.testing.assert_allclose(bank.mean((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(bank.std((1, 2)), 1, atol=1e-6)
    assert len(np.unique(bank.reshape(64, -1).round(5), axis=0)) == 64
    size = 256
    grid = np.fft.fftfreq(size)
    for index, wave in enumerate(bank):
        power = np.abs(np.fft.fft2(wave, (size, size)))
        row, column = np.unravel_index(power.argmax(), power.shape)
        angle = math.degrees(math.atan2(grid[row], grid[column])) % 180
        expected = 180 / 8 * (index % 8)
        assert min(abs(angle - expected), 180 - abs(angle - expected)) < 12, index
        if index < 16:
            assert 1 / math.hypot(grid[row], grid[column]) == pytest.approx(3, rel=0.15), index


def test_a_gabor_filter_is_the_formula_of_daugman() -> None:
    """Even, horizontal, 3 pixels long, by hand: (x, y) = (0, 0), (1, 0) and (0, 1) before mean and deviation."""
    wave = gabor_bank(64, 7, 7)[0].double()
    s = 0.56 * 3
    centre, beside, above = 1.0, math.exp(-1 / (2 * s**2)) * math.cos(2 * math.pi / 3), math.exp(-0.25 / (2 * s**2))
    found = (wave[3, 3] - wave[3, 4]) / (wave[3, 3] - wave[4, 3])
    assert float(found) == pytest.approx((centre - beside) / (centre - above), rel=1e-5)


@pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "efficientnet_b0"])
@pytest.mark.parametrize("channels", [1, 3])
def test_gabor_changes_the_first_convolution_alone(backbone: str, channels: int) -> None:
    from ttl_deploy.zoo import BACKBONES

    first = BACKBONES.get(backbone).first_weight
    built = a_model(backbone=backbone, channels=channels).network_state()
    model = a_model(backbone=backbone, channels=channels)
    report = initialise(model, "imagenet", "gabor")
    assert str(report) == "weights: random, gabor: 1 tensors drawn"
    state = model.network_state()
    assert [name for name, tensor in state.items() if not torch.equal(tensor, built[name])] == [first]
    assert float(state[first].std()) == pytest.approx(float(built[first].std()), rel=0.02)
    assert all(torch.equal(state[first][:, 0], state[first][:, channel]) for channel in range(channels))


def test_gabor_filters_below_may_have_drawn_layers_above(file: str) -> None:
    ours, drawn = started(file, "gabor:stem+stats"), started(file, "stats")
    assert ours["conv1.weight"].shape == drawn["conv1.weight"].shape
    assert ours["layer4.1.conv2.weight"].mean() == pytest.approx(drawn["layer4.1.conv2.weight"].mean(), rel=0.05)


def test_kernels_that_are_no_images_take_no_gabor_filters() -> None:
    from ttl_deploy.transfer.inits import Part

    with pytest.raises(BadInputError, match=r"kernels of \(3, 3, 3\)"):
        INITS.get("gabor").fill(Part([("", nn.Conv3d(1, 4, 3))], {}, "weight"))


def test_a_search_that_hands_trained_layers_up_refuses_another_start(tmp_path: Path) -> None:
    from ttl_deploy.cut_search.search import search
    from ttl_deploy.spec import Network
    from ttl_deploy.spec.search import SearchOptions, SearchProtocol

    network = Network(backbone="resnet18", image_size=32, init="gabor")
    with pytest.raises(BadInputError, match="--init gabor would replace the layers"):
        search(
            Data(path=tmp_path / "nothing.csv"),
            network,
            SearchProtocol(device="cpu"),
            tmp_path / "out",
            options=SearchOptions(strategy="warm"),
        )


def test_the_modules_of_a_part_are_told_with_the_networks_names() -> None:
    from ttl_deploy.transfer.inits import Part

    inner = nn.Sequential(OrderedDict(conv1=nn.Conv2d(1, 1, 1)))
    named = Part([("", inner), ("x.", nn.Linear(1, 1))], {}, "").modules()
    assert [name for name, _module in named] == ["conv1.", "x."]
