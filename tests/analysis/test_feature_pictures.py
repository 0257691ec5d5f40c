"""Pictures made for filters: they raise what they were made to raise, and the same again from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small import MODEL, PROTOCOL, but
from torch import Tensor

from ttl_deploy.analysis.analyses import ANALYSES, features
from ttl_deploy.analysis.finding import Grids
from ttl_deploy.analysis.subject import Asked, Subject
from ttl_deploy.spec import Data, InputSpec, PreprocessSpec
from ttl_deploy.training.run import finished_run
from ttl_deploy.training.train import train

RULE = PreprocessSpec(image_size=32)


@pytest.fixture(scope="module")
def run(synthetic: Path, pixel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = Data(path=synthetic / "labels.csv", cache=pixel_cache)
    return train(data, MODEL, but(PROTOCOL, epochs=1), tmp_path_factory.mktemp("seen") / "run").folder


def test_a_filter_of_one_colour_gets_it() -> None:
    """The first filter answers to red, the second to the lack of green: both pictures end near the extremes."""

    def answers(images: Tensor) -> Tensor:
        return torch.stack([images[0, 0].mean(), -images[1, 1].mean()])

    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, 32, 32, generator=generator)
    made, before, after = features.raised(answers, start, RULE, generator)
    assert made.shape == (2, 3, 32, 32)
    assert made[0, 0].mean() > 0.9
    assert made[1, 1].mean() < 0.1
    assert abs(made[0, 1].mean() - 0.5) < 0.1
    assert after[0] == pytest.approx((made[0, 0].mean() - RULE.mean[0]) / RULE.std[0], rel=1e-4)
    assert min(np.array(after) - np.array(before)) > 1


def test_total_variation_is_the_mean_difference_of_neighbours() -> None:
    stripes = torch.tensor([[[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]]])
    assert features.total_variation(stripes).tolist() == [1.0]
    assert features.total_variation(torch.ones(2, 3, 4, 5, 6)).tolist() == [0.0, 0.0]


def test_every_filter_shown_answers_more_to_its_picture_than_to_noise(run: Path) -> None:
    told = [ANALYSES.get("features").look([Subject(finished_run(run), Asked(seed=seed))]) for seed in (0, 0, 1)]
    rows = told[0].tables[""].as_dicts()
    assert list(dict.fromkeys(row["cut"] for row in rows)) == ["stem", "layer1.0"]
    assert len(rows) == 2 * features.FILTERS
    assert all(float(row["reached"] or 0) > float(row["noise"] or 0) for row in rows)
    figure = told[0].figures[""]
    assert isinstance(figure, Grids)
    assert [(title, grid.shape) for title, grid in figure.grids] == [
        ("after stem", (9, 32, 32, 3)),
        ("after layer1.0", (9, 32, 32, 3)),
    ]
    assert told[0].tables == told[1].tables
    assert told[0].tables != told[2].tables


def test_a_network_of_one_size_keeps_it_and_others_are_shown_small(run: Path) -> None:
    subject = Subject(finished_run(run))
    model = subject.config.model

    def size(backbone: str, side: int) -> tuple[int, ...]:
        changed = model.model_copy(update={"backbone": backbone, "input": InputSpec(size=(side, side))})
        told = Subject(finished_run(run))
        told.__dict__["config"] = subject.config.model_copy(update={"model": changed})
        return features.size_of(told)

    assert size("resnet18", 224) == (112, 112)
    assert size("resnet18", 64) == (64, 64)
    assert size("deit_tiny_patch16_224", 224) == (224, 224)
