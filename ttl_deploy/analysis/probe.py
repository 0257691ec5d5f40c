"""Linear probes: how well a logistic regression on one layer's features tells the classes apart.

The paper trains classifiers on intermediate features after finetuning (section 3.3); here they rank cuts before any
truncated model is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.tasks import UNKNOWN, Task

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisation strengths that cross-validation chooses from."""

_FOLDS = 4


def probe(
    train: NDArray[np.floating],
    labels: NDArray[np.int64],
    groups: Sequence[str],
    test: NDArray[np.floating],
    task: Task,
    *,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Class probabilities of images from a logistic regression on other images' features.

    Multinomial for exclusive classes; one for each label where an image has any of them.

    Args:
        train: (N, channels).
        labels: (N,) or (N, K), as the task has them.
        groups: Patient of each, so that cross-validation keeps patients together.
        test: (M, channels).
        task: What they mean.
        seed: Of the folds.

    Returns:
        (M, K).
    """
    if labels.ndim == 1:
        return _fitted(train, labels, groups, test, len(task.classes), seed)
    return np.stack([_of_label(train, column, groups, test, seed) for column in labels.T], axis=1)


def probing(labels: NDArray[np.int64], groups: Sequence[str]) -> bool:
    """Whether there is a fold in which `probe` can be fitted; labels of images that may have several can always be."""
    if labels.ndim > 1:
        return True
    sides = [set(np.asarray(groups)[labels == label].tolist()) for label in np.unique(labels)]
    return len(sides) > 1 and min(map(len, sides)) >= _FOLDS


def _of_label(
    train: NDArray[np.floating],
    column: NDArray[np.int64],
    groups: Sequence[str],
    test: NDArray[np.floating],
    seed: int,
) -> NDArray[np.float64]:
    """(M,) the probability of one label, from the images of which it is known; its frequency where all are alike."""
    known = column != UNKNOWN
    truth, owners = column[known], np.asarray(groups)[known]
    if min(len(np.unique(owners[truth == side])) for side in (0, 1)) < 2:
        return np.full(len(test), float(truth.mean()) if len(truth) else 0.5)
    return _fitted(train[known], truth, owners.tolist(), test, 2, seed)[:, 1]


def _fitted(
    train: NDArray[np.floating],
    labels: NDArray[np.int64],
    groups: Sequence[str],
    test: NDArray[np.floating],
    classes: int,
    seed: int,
) -> NDArray[np.float64]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = list(StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed).split(train, labels, np.asarray(groups)))
    usable = [(a, b) for a, b in folds if len(np.unique(labels[a])) == len(np.unique(labels)) and len(b)]
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=usable, scoring=_likelihood)
    search.fit(train.astype(np.float64), labels)
    probabilities = np.zeros((len(test), classes))
    probabilities[:, search.classes_] = search.predict_proba(test.astype(np.float64))
    return probabilities


def _likelihood(model: Any, features: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean log-likelihood; unlike scikit-learn's own scorer it takes folds in which a class is missing."""
    from sklearn.metrics import log_loss

    return -float(log_loss(labels, model.predict_proba(features), labels=model.classes_))
