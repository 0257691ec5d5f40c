"""Grad-CAM against a computation by hand, on maps, tokens and volumes; and how local a map is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from outlined import train_masks, write_pairs
from small import MODEL, PROTOCOL, but
from torch import Tensor, nn

from ttl_deploy.analysis.analyses import ANALYSES, gradcam
from ttl_deploy.analysis.finding import Finding, Sheet
from ttl_deploy.analysis.gradcam import Above, concentration, enlarged, grid_of, pooled, weighed
from ttl_deploy.analysis.subject import Asked, Subject
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Data, InputSpec, Model, ModelSpec
from ttl_deploy.training.run import finished_run
from ttl_deploy.training.train import train
from ttl_deploy.transfer import TransferModel, build
from ttl_deploy.verbs.analyze import analyze

CLASSES = ("healthy", "ill")


def made(backbone: str, cut: str, size: tuple[int, ...] = (32, 32), **more: str) -> TransferModel:
    torch.manual_seed(3)
    given = InputSpec(kind="image" if len(size) == 2 else "volume", size=size)
    spec = ModelSpec(backbone=backbone, method="ttl", cut=cut, classes=CLASSES, input=given, **more)
    return build(spec).eval()


def by_hand(features: Tensor, gradient: Tensor) -> Tensor:
    """(N, *positions) of both (N, C, *positions): the mean gradient of each channel times its map, summed, cut at 0."""
    weights = gradient.flatten(2).mean(2)
    return torch.einsum("nc,nc...->n...", weights, features).clamp_min(0)


def through(model: TransferModel, images: Tensor, cut: str, classes: Tensor) -> tuple[Tensor, Tensor]:
    """A unit's features and the gradient of the explained logits with respect to them, without captum."""
    features, place = images, [unit.name for unit in model.chain].index(cut)
    for unit in model.chain[: place + 1]:
        features = model.unit(unit)(features)
    kept = features.detach().requires_grad_()
    logits = kept
    for unit in model.chain[place + 1 :]:
        logits = model.unit(unit)(logits.clone())
    logits = model.head(logits)
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), kept)
    return kept.detach(), gradient


@pytest.mark.parametrize(
    ("backbone", "cut", "at", "size"),
    [
        ("resnet18", "layer2.0", "layer1.1", (32, 32)),
        ("densenet121", "denseblock1", "stem", (32, 32)),
        ("resnext3d50", "layer1.0", "stem", (8, 32, 32)),
    ],
)
def test_maps_are_the_mean_gradients_sum_of_features(backbone: str, cut: str, at: str, size: tuple[int, ...]) -> None:
    model, classes = made(backbone, cut, size), torch.tensor([0, 1, 1])
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = by_hand(*through(model, images, at, classes))
    found = weighed(Above(model, at).eval(), images, classes)
    assert found.shape == expected.shape
    assert float(expected.max()) > 0
    assert torch.allclose(found, expected, atol=1e-6 * float(expected.max()) + 1e-9)


def test_a_network_small_enough_to_count_on_fingers() -> None:
    """Logits are the channels' means: the gradient is 1/4 everywhere for the channel of the class, 0 for the other."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.below, self.maps = nn.Identity(), nn.Identity()

        def forward(self, features: Tensor) -> Tensor:
            return self.maps(features).mean((2, 3))  # type: ignore[no-any-return]

    image = torch.tensor([[[[4.0, -8.0], [0.0, 2.0]], [[1.0, 1.0], [1.0, -1.0]]]])
    found = weighed(Two(), image.clone(), torch.tensor([0]))  # type: ignore[arg-type]
    assert found.tolist() == [[[1.0, 0.0], [0.0, 0.5]]]
    signed = weighed(Two(), image.clone(), torch.tensor([1]), signed=True)  # type: ignore[arg-type]
    assert signed.tolist() == [[[0.25, 0.25], [0.25, -0.25]]]


def test_tokens_lie_on_the_images_grid_and_the_class_token_has_no_place() -> None:
    model, classes = made("deit_tiny_patch16_224", "blocks.1", (32, 64)), torch.tensor([1, 0])
    images = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    features, gradient = through(model, images, "blocks.0", classes)
    patches, slopes = (each[:, 1:].movedim(-1, 1).reshape(2, -1, 2, 4) for each in (features, gradient))
    found = weighed(Above(model, "blocks.0").eval(), images, classes)
    assert torch.allclose(found, by_hand(patches, slopes), atol=1e-7)
    assert grid_of(8, (32, 64)) == (2, 4)
    with pytest.raises(BadInputError, match="7 tokens are no grid"):
        grid_of(7, (32, 32))


def test_channels_that_come_last_are_weighed_as_channels() -> None:
    model, classes = made("swin_tiny_patch4_window7_224", "block:1"), torch.tensor([1, 0])
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features, gradient = through(model, images, "layers.0.blocks.1", classes)
    expected = by_hand(features.movedim(-1, 1), gradient.movedim(-1, 1))
    found = weighed(Above(model, "layers.0.blocks.1").eval(), images, classes)
    assert found.shape == (2, 8, 8)
    assert torch.allclose(found, expected, atol=1e-6)


def test_concentration_is_the_share_in_the_most_weighted_area() -> None:
    even, one, empty = np.ones((2, 5)), np.zeros((2, 5)), np.zeros((2, 5))
    one[1, 3] = 7
    found = concentration(np.stack([even, one, empty]), [0, 0.1, 0.25, 1])
    assert found[0] == pytest.approx([0, 0.1, 0.25, 1])
    assert found[1] == pytest.approx([0, 1, 1, 1])
    assert np.isnan(found[2]).all()
    assert concentration(np.array([[1.0, 3.0, 0.0, 0.0]]), [0.25, 0.5])[0] == pytest.approx([0.75, 1])


def test_a_map_on_the_coarser_grid_is_its_means() -> None:
    maps = torch.arange(16.0).reshape(1, 4, 4)
    assert pooled(maps, (2, 2)).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]
    assert torch.equal(pooled(maps, (4, 4)), maps)
    assert enlarged(torch.ones(2, 3, 4, 5), (6, 8, 10)).shape == (2, 6, 8, 10)


def test_images_are_drawn_a_class_in_turn_and_the_same_again() -> None:
    classes = np.array([0] * 50 + [1] * 3 + [2])
    taken = gradcam.drawn(classes, seed=5, count=6)
    assert sorted(classes[list(taken[:3])]) == [0, 1, 2]
    assert sorted(classes[list(taken[3:])]) == [0, 0, 1]
    assert taken == gradcam.drawn(classes, seed=5, count=6)
    assert taken != gradcam.drawn(classes, seed=6, count=6)


def looked(*runs: Path, cache: Path) -> Finding:
    return ANALYSES.get("gradcam").look([Subject(finished_run(run), Asked(cache=cache)) for run in runs])


def test_runs_stand_side_by_side_on_the_same_images(synthetic: Path, pixel_cache: Path, tmp_path: Path) -> None:
    data = Data(path=synthetic / "labels.csv", cache=pixel_cache)
    short = but(PROTOCOL, epochs=1)
    models = {"ttl": but(MODEL, cut="layer1.0"), "ftl": but(MODEL, method="ftl", cut=None, image_size=64)}
    runs = [train(data, model, short, tmp_path / name).folder for name, model in models.items()]
    finding = looked(*runs, cache=pixel_cache)
    sheet = finding.figures[""]
    assert isinstance(sheet, Sheet)
    assert [title.splitlines()[-1] for title in sheet.columns] == ["test image", "after layer1.0", "after layer4.1"]
    assert [len(row) for row in sheet.tiles] == [3] * gradcam.SHOWN
    told = finding.tables[""].as_dicts()
    assert [row["run"] for row in told] == ["ttl", "ftl"] * gradcam.SHOWN
    summary = {row["run"]: row for row in finding.tables["runs"].as_dicts()}
    assert {name: row["grid"] for name, row in summary.items()} == {"ttl": "8x8", "ftl": "2x2"}
    assert finding.facts["same_grid"] == "2x2"
    every = [row for row in finding.tables["images"].as_dicts() if row["run"] == "ttl"]
    assert len(every) == len(Subject(finished_run(runs[0])).test_side) == summary["ttl"]["images"]
    shares = [row["tenth"] for row in every if row["tenth"] is not None]
    assert summary["ttl"]["tenth"] == pytest.approx(np.median(np.array(shares, dtype=np.float64)))
    known = Subject(finished_run(runs[0])).predictions
    place = list(known.ids).index(str(told[0]["image"]))
    p = np.exp(known.logits[place].astype(np.float64))
    assert told[0]["probability"] == pytest.approx(p[int(known.labels[place])] / p.sum(), abs=1e-6)


def test_under_a_class_token_the_layer_is_the_one_below_its_block(
    synthetic: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    model = Model(backbone="deit_tiny_patch16_224", cut="blocks.2", image_size=32, weights="random")
    data = Data(path=synthetic / "labels.csv", cache=pixel_cache)
    folder = train(data, model, but(PROTOCOL, epochs=1), tmp_path / "deit").folder
    assert {row["cut"] for row in looked(folder, cache=pixel_cache).tables["runs"].as_dicts()} == {"blocks.1"}


def test_masks_are_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    folder = train_masks(write_pairs(tmp_path / "pairs"), tmp_path / "run")
    with pytest.raises(BadInputError, match="draws masks"):
        analyze(folder, what="gradcam", out=tmp_path / "a", cache=tmp_path / "cache")


def test_without_captum_it_is_left_out_with_the_extra_that_brings_it(
    trained: Path, pixel_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(Exception, match=r"pip install 'ttl-deploy\[explain\]'"):
        analyze(trained, what="gradcam", out=tmp_path / "a", cache=pixel_cache)
