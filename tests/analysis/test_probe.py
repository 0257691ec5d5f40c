"""Linear probes on features whose answer is known."""

import numpy as np
import pytest

from ttl_deploy.analysis.probe import probe
from ttl_deploy.tasks import Multiclass

AB = Multiclass(("a", "b"))


def test_a_probe_finds_a_linear_class_and_nothing_in_noise() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=200)
    noise = generator.normal(size=(200, 8))
    told = noise.copy()
    told[:, 3] += 6 * labels
    patients = [f"p{i // 2}" for i in range(200)]
    right = [probe(f[:120], labels[:120], patients[:120], f[120:], AB).argmax(1) == labels[120:] for f in (told, noise)]
    assert right[0].mean() > 0.97
    assert 0.3 < right[1].mean() < 0.7


def test_probabilities_keep_the_place_of_a_class_that_training_lacks() -> None:
    generator = np.random.default_rng(1)
    labels = np.array([0, 2] * 20)
    features = generator.normal(size=(40, 3)) + 4 * labels[:, None]
    answers = probe(features, labels, [str(i) for i in range(40)], features, Multiclass(("a", "b", "c")))
    assert answers.shape == (40, 3)
    assert (answers[:, 1] == 0).all()
    assert answers.sum(1) == pytest.approx(1)
    assert (answers.argmax(1) == labels).all()
