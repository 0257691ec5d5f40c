"""Linear probes: how well a logistic regression on one layer's features tells the classes apart.

The paper trains classifiers on intermediate features after finetuning (section 3.3); here they rank cuts before any
truncated model is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisation strengths that cross-validation chooses from."""

_FOLDS = 4


def probe(
    train: NDArray[np.floating],
    labels: NDArray[np.int64],
    groups: Sequence[str],
    test: NDArray[np.floating],
    classes: int,
    *,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Class probabilities of images from a multinomial logistic regression on other images' features.

    Args:
        train: (N, channels).
        labels: (N,).
        groups: Patient of each, so that cross-validation keeps patients together.
        test: (M, channels).
        classes: K.
        seed: Of the folds.

    Returns:
        (M, K).
    """
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
