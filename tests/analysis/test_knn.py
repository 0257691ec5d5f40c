"""Votes of nearest neighbours against scikit-learn's, and labels that nobody knows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from ttl_deploy.analysis.knn import vote
from ttl_deploy.tasks import Multiclass, Multilabel

ABC = Multiclass(("a", "b", "c"))


def weights(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of scikit-learn's cosine distance, 1 - cosine."""
    return np.asarray(np.exp((1 - distances) / 0.1))


@pytest.mark.parametrize("k", [1, 7, 40])
def test_votes_are_scikit_learns(k: int) -> None:
    generator = np.random.default_rng(0)
    bank, queries = generator.normal(size=(40, 6)) + 0.5, generator.normal(size=(700, 6))
    labels = generator.integers(3, size=40)
    theirs = KNeighborsClassifier(k, metric="cosine", weights=weights).fit(bank, labels)
    assert vote(bank, labels, queries, ABC, k) == pytest.approx(theirs.predict_proba(queries), abs=1e-9)


def test_a_bank_smaller_than_k_votes_as_a_whole() -> None:
    generator = np.random.default_rng(1)
    bank, labels = generator.normal(size=(5, 3)), np.array([0, 1, 2, 1, 0])
    assert (vote(bank, labels, bank, ABC) == vote(bank, labels, bank, ABC, 5)).all()


def test_a_neighbour_of_unknown_label_has_no_vote_in_it() -> None:
    """Three neighbours of equal weight: yes, no, unknown of the first label; unknown of the second."""
    task = Multilabel(("x", "y"))
    bank, labels = np.ones((3, 2)), np.array([[1, -1], [0, -1], [-1, -1]])
    assert vote(bank, labels, np.ones((1, 2)), task) == pytest.approx(np.array([[0.5, 0.5]]))
    labels[2, 0] = 1
    assert vote(bank, labels, np.ones((1, 2)), task)[0, 0] == pytest.approx(2 / 3)
