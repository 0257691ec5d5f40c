"""Where feature reuse ends: never above the first cut for networks that share nothing, and by the paper's rule."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ttl_deploy.analysis.features import sampled_features
from ttl_deploy.analysis.reuse import Reuse, detect_cut, overlap
from ttl_deploy.analysis.svcca import random_coefficients
from ttl_deploy.cut_search.evidence import _reuse
from ttl_deploy.spec import InputSpec, ModelSpec, PreprocessSpec
from ttl_deploy.transfer import TransferModel, build

SIZE = 64
CUTS = ["stem", "layer1.0", "layer1.1", "layer2.0"]
CONFIG: Any = SimpleNamespace(accelerator="cpu", batch_size=50, preprocess=PreprocessSpec.of(InputSpec.image(SIZE, 3)))


class Smooth:
    """Images that resemble each other as x-rays do: a common shape and smooth differences."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(count, 1, 8, 8, generator=generator) + 2 * torch.rand(1, 1, 8, 8, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bicubic").clamp(0, 3) / 3
        self.images = (255 * fine).to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        self.labels = np.zeros(count, dtype=np.int64)

    def shown(self, indices: Any) -> Any:
        return indices

    def input_pixels(self, inputs: Any) -> Any:
        return self.images[inputs]

    def input_targets(self, inputs: Any) -> Any:
        return self.labels[inputs]


def random_network(seed: int) -> TransferModel:
    torch.manual_seed(seed)
    return build(ModelSpec(backbone="resnet18", classes=("a", "b"), image_size=SIZE)).eval()


@pytest.fixture(scope="module")
def images() -> Any:
    return Smooth(300)


def compared(images: Any, seeds: tuple[int, ...]) -> list[Reuse]:
    models = [random_network(seed) for seed in seeds]
    rows = np.arange(len(images.labels))
    features = sampled_features(models, CUTS, images, rows, CONFIG)
    return [_reuse(cut, features[cut], 0).as_reuse() for cut in CUTS]


def test_two_unrelated_random_networks_reuse_nothing(images: Any) -> None:
    """The cut is the first one, although against Gaussian features even their stems would count as reused."""
    reuses = compared(images, (0, 1, 2, 3))
    assert all(reuse.tells for reuse in reuses)
    assert detect_cut(reuses) == "stem"
    assert overlap(np.array(reuses[0].coefficients), np.array(reuses[0].gaussian)) < 0.5
    assert all(reuse.mean > reuse.gaussian_mean + 0.1 for reuse in reuses)


def test_a_network_that_kept_its_features_reuses_all_of_them(images: Any) -> None:
    assert detect_cut(compared(images, (0, 0, 2, 3))) == CUTS[-1]


def test_every_image_gives_one_row_at_the_same_place_in_all_networks(images: Any) -> None:
    first, second = sampled_features([random_network(0)] * 2, CUTS, images, np.arange(300), CONFIG)["layer1.0"]
    assert first.shape == (300, 64)
    np.testing.assert_array_equal(first, second)


CHANCE = tuple(random_coefficients(2000, (30, 30)).tolist())
TOLD, LOST = tuple(np.linspace(0.6, 1, 30).tolist()), tuple(1.02 * c for c in CHANCE)


def at(name: str, coefficients: tuple[float, ...], rows: int = 90) -> Reuse:
    return Reuse(name, coefficients, CHANCE, CHANCE, rows, components=30)


def test_the_cut_is_the_last_of_the_first_run_that_is_told_from_chance() -> None:
    """Appendix C.1, step 4: a layer that exceeds chance again above the end of reuse does not bring it back."""
    cuts = [at("a", TOLD), at("b", TOLD), at("c", LOST), at("d", TOLD), at("e", LOST)]
    assert detect_cut(cuts) == "b"
    assert detect_cut(cuts[2:]) == "d"
    assert detect_cut(cuts, threshold=0.0) == "a"
    assert detect_cut([at("d", LOST), at("e", LOST)]) == "d"
    assert detect_cut(cuts, threshold=1.0) == "e"


def test_with_fewer_images_than_three_for_each_component_there_is_no_answer() -> None:
    assert detect_cut([at("a", TOLD), at("b", TOLD, rows=89), at("c", LOST)]) is None
    assert detect_cut([at("a", TOLD), at("b", LOST), at("c", TOLD, rows=89)]) == "a"
