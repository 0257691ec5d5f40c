"""Where a learning curve is going: a power law through the best values so far, and the most it could still reach."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

FEWEST = 5
"""Epochs below which nothing is forecast."""

_SURE = 3.0
"""How many standard deviations above the fit a curve is still thought able to go."""


def highest(values: Sequence[float], horizon: int) -> float:
    """An upper bound of the best value after `horizon` epochs.

    A power law a - b * e^(-c) with a at most 1 is fitted to the running maximum of the values; the bound is its value
    at the horizon plus three standard deviations, of the fit's residuals and of the forecast's own uncertainty
    together. 1 where nothing can be said: fewer than `FEWEST` epochs, or no fit.

    Args:
        values: A metric in 0 to 1 after each epoch.
        horizon: Epochs.
    """
    if len(values) < FEWEST:
        return 1.0
    best = np.maximum.accumulate(np.asarray(values, dtype=np.float64))
    epochs = np.arange(1, len(best) + 1, dtype=np.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)
            bounds = ([best[-1], 0.0, 0.05], [1.0 + 1e-9, 2.0, 3.0])
            start = (min(1.0, best[-1] + 0.01), min(1.9, max(1e-3, best[-1] - best[0])), 0.7)
            fitted, covariance = curve_fit(_power, epochs, best, p0=start, bounds=bounds, maxfev=2000)
    except (RuntimeError, ValueError, OptimizeWarning):
        return 1.0
    reached = float(_power(np.array([float(horizon)]), *fitted)[0])
    slope = _gradient(float(horizon), *fitted)
    variance = float(slope @ covariance @ slope) + float(np.mean((_power(epochs, *fitted) - best) ** 2))
    return 1.0 if not np.isfinite(variance) else min(1.0, max(reached, best[-1]) + _SURE * float(np.sqrt(variance)))


def _power(epoch: NDArray[np.float64], a: float, b: float, c: float) -> NDArray[np.float64]:
    return np.asarray(a - b * epoch**-c)


def _gradient(epoch: float, a: float, b: float, c: float) -> NDArray[np.float64]:
    """Of the power law by its parameters."""
    power = epoch**-c
    return np.array([1.0, -power, b * power * np.log(epoch)])
