"""Folds are those of scikit-learn, which this package does not wait for."""

import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from ttl_deploy.data.folds import grouped_folds, stratified_folds

CASES = [(images, classes, count, seed) for seed in range(12) for images, classes, count in ((40, 2, 5), (90, 4, 3))]


def of_scikit_learn(divided: Iterable[tuple[Any, Any]], size: int) -> Any:
    folds = np.empty(size, dtype=np.int64)
    for fold, (_, chosen) in enumerate(divided):
        folds[chosen] = fold
    return folds


@pytest.mark.parametrize(("images", "classes", "count", "seed"), CASES)
def test_single_images_are_divided_as_scikit_learn_does(images: int, classes: int, count: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(classes, size=images)
    theirs = of_scikit_learn(StratifiedKFold(count, shuffle=True, random_state=seed).split(labels, labels), images)
    np.testing.assert_array_equal(stratified_folds(labels, count, seed), theirs)


@pytest.mark.parametrize(("images", "classes", "count", "seed"), CASES)
@pytest.mark.parametrize("patients", [7, 30])
def test_groups_are_divided_as_scikit_learn_does(
    images: int, classes: int, count: int, seed: int, patients: int
) -> None:
    random = np.random.default_rng(seed)
    labels, groups = random.integers(classes, size=images), random.integers(patients, size=images)
    named = np.array([f"patient {group}" for group in groups])
    for those in (groups, named):
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        theirs = of_scikit_learn(splitter.split(labels, labels, those), images)
        np.testing.assert_array_equal(grouped_folds(labels, those, count, seed), theirs)


def test_a_division_waits_for_no_scikit_learn() -> None:
    code = (
        "import sys, numpy as np\nfrom ttl_deploy.data.folds import grouped_folds\nimport ttl_deploy.data.splits\n"
        "grouped_folds(np.arange(8) % 2, np.arange(8) // 2, 2, 0)\n"
        "print({'sklearn', 'scipy', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
