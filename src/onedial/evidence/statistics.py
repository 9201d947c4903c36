"""Statistics that several claims share: correlations and paired differences, each with an interval."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def correlate(x: Array, y: Array) -> float:
    """Returns Pearson's correlation; NaN if one of the two is constant."""
    dx, dy = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(dx @ dx) * float(dy @ dy))
    return float(dx @ dy) / scale if scale > 0 else math.nan


def bootstrap_interval(
    statistic: Callable[..., float], *columns: Array, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Returns the 95 % percentile interval of a statistic of columns whose rows are resampled together.

    Samples in which the statistic is not a number are left out.
    """
    random = np.random.default_rng(seed)
    rows = len(columns[0])
    values = [statistic(*(column[index] for column in columns)) for index in random.integers(0, rows, (draws, rows))]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def explained_share(observed: Array, predicted: Array) -> float:
    """Returns R² = 1 − Σ(y − ŷ)²/Σ(y − ȳ)²."""
    spread = float(((observed - observed.mean()) ** 2).sum())
    return 1 - float(((observed - predicted) ** 2).sum()) / spread if spread > 0 else math.nan
