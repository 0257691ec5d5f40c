"""The set whose best cut is known: its construction holds, and the default search finds the cut."""

from pathlib import Path

import numpy as np
import pytest
from small import NETWORK, TRIALS, but

from ttl_deploy.cut_search.known_cut import CLASSES, best_cut, receptive_fields, write_known_cut
from ttl_deploy.cut_search.search import search
from ttl_deploy.spec import AugmentSpec, Data
from ttl_deploy.spec.search import Budget, SearchOptions


def test_receptive_fields_are_where_gradients_reach() -> None:
    """Independent of the formula: the pixels that one feature in the middle depends on."""
    import torch
    from torch import nn

    from ttl_deploy.zoo import BACKBONES

    modules = BACKBONES.get("resnet18").build()
    fields = receptive_fields("resnet18")
    images = torch.ones(1, 3, 161, 161, requires_grad=True)
    features = images
    for cut in ("stem", "layer1.0", "layer1.1", "layer2.0"):
        for layer in modules[cut].modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.constant_(layer.weight, 0.01)
        features = modules[cut].eval()(features)
        middle = features.shape[-1] // 2
        (gradient,) = torch.autograd.grad(features[0, :, middle, middle].sum(), images, retain_graph=True)
        columns = np.flatnonzero(gradient[0, 0].abs().sum(0).numpy())
        # Max pooling passes one of its inputs on, so that its part of the gradient may be narrower by 2 pixels.
        assert 0 <= fields[cut] - (np.ptp(columns) + 1) <= 4


def test_the_best_cut_follows_from_the_distance() -> None:
    assert [best_cut("resnet18", distance) for distance in (2, 16, 30)] == ["stem", "layer1.0", "layer1.1"]
    with pytest.raises(ValueError, match="no cut of resnet18 sees"):
        best_cut("resnet18", 1000)


def test_classes_differ_across_the_distance_and_nowhere_else(tmp_path: Path) -> None:
    """The correlation of pixels tells the classes at the distance of the dots, not at half of it or at none."""
    arrays = np.load(write_known_cut(tmp_path / "set.npz", images=200, mislabelled=0.0))
    images, labels = arrays["train_images"].astype(float) - 128, arrays["train_labels"][:, 0]

    def correlation(shift: int, label: int) -> float:
        own = images[labels == label]
        return float((own[:, :, : 64 - shift] * own[:, :, shift:]).mean() / own.var())

    assert correlation(16, 0) > 0.2
    assert correlation(16, 1) < -0.2
    for shift in (1, 8):
        assert correlation(shift, 0) == pytest.approx(correlation(shift, 1), abs=0.06)
    assert images[labels == 0].mean() == pytest.approx(images[labels == 1].mean(), abs=0.5)
    assert images[labels == 0].std() == pytest.approx(images[labels == 1].std(), rel=0.03)


@pytest.mark.slow
def test_the_default_strategy_finds_the_smallest_cut_that_suffices(tmp_path: Path) -> None:
    """One seed; `benchmarks/search_known_cut.py` runs ten."""
    data = write_known_cut(tmp_path / "set.npz", images=400, seed=3)
    outcome = search(
        Data(path=data, classes=CLASSES, cache=tmp_path / "cache"),
        but(NETWORK, image_size=64, channels=1),
        but(TRIALS, epochs=8, augment=AugmentSpec(crop_scale=1.0, rotation=0.0)),
        tmp_path / "search",
        options=SearchOptions(
            threads=1, latency=False, prefer="smaller", divisions=1, budget=Budget(parameters=700_000)
        ),
    )
    assert outcome.result["cut"] == best_cut("resnet18", 16)
    assert outcome.result["test"]["auprc"] > 0.8
