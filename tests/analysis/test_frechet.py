"""The Fréchet distance against closed forms and the root of the product of covariances; and of a run's sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm
from small import MODEL, PROTOCOL, but

from ttl_deploy.analysis.analyses import ANALYSES
from ttl_deploy.analysis.analyses.fid import SAME_INPUT
from ttl_deploy.analysis.features import pooled_features
from ttl_deploy.analysis.frechet import by_chance, frechet
from ttl_deploy.analysis.subject import Asked, Subject
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Data
from ttl_deploy.training.run import finished_run
from ttl_deploy.training.train import train


def cross(mean: list[float], deviations: list[float]) -> np.ndarray:
    """Points with exactly this mean and these deviations along the axes, uncorrelated."""
    axes = np.diag(deviations) * np.sqrt((2 * len(mean) - 1) / 2)
    return np.concatenate((axes, -axes)) + mean


def test_of_two_gaussians_along_the_axes_it_is_the_closed_form() -> None:
    """Means apart by 3 and 4; deviations 1, 2 and 3, 5: 25 + (1 - 3)^2 + (2 - 5)^2."""
    assert frechet(cross([0, 0], [1, 2]), cross([3, 4], [3, 5])) == pytest.approx(38)
    assert frechet(cross([0, 0], [1, 2]), cross([0, 0], [1, 2])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("first", "second"), [(60, 80), (200, 6), (5, 7)])
def test_it_is_the_formula_with_the_root_of_a_matrix(first: int, second: int) -> None:
    """More images than features, fewer, and both."""
    generator = np.random.default_rng(first)
    x = generator.normal(size=(first, 12)) @ generator.normal(size=(12, 12)) + 1
    y = generator.normal(size=(second, 12)) * generator.random(12)
    one, other = np.cov(x.T), np.cov(y.T)
    half = sqrtm(one).real
    root = np.trace(sqrtm(half @ other @ half + 1e-13 * np.eye(12)).real)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(one) + np.trace(other) - 2 * root
    assert frechet(x, y) == pytest.approx(expected, rel=1e-4)
    assert frechet(x, y) == pytest.approx(frechet(y, x))
    assert frechet(x.astype(np.float32), y.astype(np.float32)) == pytest.approx(expected, rel=1e-4)


def test_one_image_and_no_number_are_refused() -> None:
    with pytest.raises(ValueError, match="needs two images"):
        frechet(np.ones((1, 3)), np.ones((4, 3)))
    with pytest.raises(ValueError, match="not finite"):
        frechet(np.full((3, 3), np.nan), np.ones((4, 3)))


def test_images_of_one_kind_are_as_far_apart_as_by_chance_and_others_farther() -> None:
    generator = np.random.default_rng(0)
    x, y, groups = generator.normal(size=(60, 20)), generator.normal(size=(60, 20)), np.arange(120)
    drawn = by_chance(x, y, 0, 20, groups)
    assert len(set(drawn)) == 20
    assert frechet(x, y) < max(drawn)
    assert frechet(x, y + 1) > 2 * max(by_chance(x, y + 1, 0, 20, groups))


def test_patients_are_dealt_out_whole() -> None:
    """Four patients of two alike images each: there are but three ways to deal them out, two to a side."""
    x, y = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([[5.0], [5.0], [9.0], [9.0]])
    drawn = by_chance(x, y, 0, 40, np.array([0, 0, 1, 1, 2, 2, 3, 3]))
    assert len({round(value, 9) for value in drawn}) == 3


def test_a_runs_sides_are_compared_in_its_starting_network(synthetic: Path, pixel_cache: Path, tmp_path: Path) -> None:
    data = Data(path=synthetic / "labels.csv", cache=pixel_cache)
    folder = train(data, MODEL, but(PROTOCOL, epochs=1), tmp_path / "run").folder
    subject = Subject(finished_run(folder), Asked(cache=pixel_cache))
    finding = ANALYSES.get("fid").look([subject, subject])
    (row,) = finding.tables[""].as_dicts()
    sides = [subject.side("train"), subject.side("test")]
    own = [
        pooled_features(subject.start, ["layer1.0"], subject.prepared, rows, subject.config)["layer1.0"]
        for rows in sides
    ]
    assert (row["first"], row["second"]) == ("training side", "test side")
    assert (row["images_first"], row["images_second"]) == tuple(map(len, sides))
    assert row["distance"] == pytest.approx(frechet(*own), rel=1e-6)
    assert "64 features of resnet18 after layer1.0, as run began" in finding.sentence
    assert "not the published FID" in finding.sentence
    assert ("too large" in finding.sentence) == (min(map(len, sides)) <= 64)
    other = train(data, but(MODEL, image_size=48), but(PROTOCOL, epochs=1), tmp_path / "other").folder
    with pytest.raises(BadInputError, match="of another size or kind than run"):
        SAME_INPUT.check([subject, Subject(finished_run(other))])
