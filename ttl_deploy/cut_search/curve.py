"""Where a learning curve is going: a power law through the values so far, and the most that it could still reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEWEST = 5
"""Epochs below which nothing is forecast."""

_SURE = 4.0
"""How many standard deviations a curve is still thought able to go beyond its fit."""

_EXPONENTS = np.geomspace(0.05, 3.0, 16).tolist()


def highest(values: Sequence[float], horizon: int) -> float:
    """An upper bound of the best value after `horizon` epochs.

    A power law a - b * e^(-c) with a at most 1 and b at least 0 is fitted to the values for every exponent c of a grid.
    Few epochs leave the exponent open, and with it where the curve ends, so every exponent counts whose squared error S
    is within four standard deviations of the best one's (the likelihood's profile: S <= S_min * (1 + 16 / (n - 3))).
    The bound is the highest of their forecasts plus four standard deviations of the values about the law, and never
    below what was reached. 1 where nothing can be said: fewer than `FEWEST` epochs.

    Args:
        values: A metric in 0 to 1 after each epoch.
        horizon: Epochs.
    """
    if len(values) < FEWEST:
        return 1.0
    seen = np.asarray(values, dtype=np.float64)
    top = min(1.0, float(seen.max()))
    fits = [_fit(seen, exponent, horizon) for exponent in _EXPONENTS]
    least = min(error for error, _reached in fits)
    spread = _SURE * float(np.sqrt(least / (len(seen) - 3)))
    likely = [reached for error, reached in fits if error <= least * (1 + _SURE**2 / (len(seen) - 3)) + 1e-12]
    return max(top, min(1.0, max(likely) + spread))


def _fit(seen: NDArray[np.float64], exponent: float, horizon: int) -> tuple[float, float]:
    """Squared error of the best law with this exponent, and its value at the horizon.

    With the exponent given the law is a line in e^(-c); a line that leaves the bounds is moved to the nearest bound.
    """
    power = np.arange(1, len(seen) + 1, dtype=np.float64) ** -exponent
    slope, a = np.polynomial.Polynomial.fit(power, seen, 1, domain=[]).coef[::-1]
    b = -slope
    if b < 0:
        a, b = seen.mean(), 0.0
    elif a > 1:
        a, b = 1.0, power @ (1.0 - seen) / (power @ power)
    return float(np.sum((a - b * power - seen) ** 2)), float(a - b * float(horizon) ** -exponent)
