"""A solve rate whose logit is Gaussian: its moments, and the update by k successes in n tries.

p = σ(ℓ) with ℓ ~ N(μ, τ²). Integrals over ℓ are Gauss–Hermite sums; the update places them around the mode of the
posterior (adaptive quadrature: Liu and Pierce 1994, Biometrika 81, Eq. 3), so that it is exact enough for any k of n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(25)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_NEWTON_STEPS = 60


@dataclass(frozen=True)
class RateMoments:
    """Moments of p, each of the shape of μ.

    mean       E[p]
    variance   Var[p]
    spread     E[p(1 − p)]: the variance of a reward, given p, on average
    """

    mean: Array
    variance: Array
    spread: Array

    @property
    def strength(self) -> Array:
        """ν = E[pq]/Var[p]: the number of tries that the belief is worth; a + b for a Beta(a, b)."""
        return np.asarray(self.spread / np.maximum(self.variance, 1e-12))


def rate_moments(mean: ArrayLike, variance: ArrayLike) -> RateMoments:
    """Moments of p = σ(ℓ), ℓ ~ N(mean, variance), in logits. Shapes broadcast."""
    center, std = np.asarray(mean, dtype=np.float64), np.sqrt(np.asarray(variance, dtype=np.float64))
    rates = expit(center[..., None] + std[..., None] * _NODES)
    first = np.asarray(rates @ _WEIGHTS)
    second = np.asarray(((rates - first[..., None]) ** 2) @ _WEIGHTS)
    spread = np.asarray((rates * (1.0 - rates)) @ _WEIGHTS)
    return RateMoments(first, second, spread)


def update_logit(mean: float, variance: float, solved: float, tries: float) -> tuple[float, float]:
    """Mean and variance of ℓ after `solved` of `tries` (fractions weigh less), under the prior N(mean, variance)."""
    if tries <= 0:
        return mean, variance
    mode = mean
    for _ in range(_NEWTON_STEPS):
        rate = float(expit(mode))
        curvature = 1.0 / variance + tries * rate * (1.0 - rate)
        step = ((mean - mode) / variance + solved - tries * rate) / curvature
        mode += max(-2.0, min(2.0, step))  # a full step from a flat tail overshoots
        if abs(step) < 1e-10:
            break
    scale = curvature**-0.5
    points = mode + scale * _NODES
    log_density = -0.5 * (points - mean) ** 2 / variance + solved * points - tries * np.logaddexp(0.0, points)
    log_density = log_density + 0.5 * _NODES**2
    mass = _WEIGHTS * np.exp(log_density - log_density.max())
    mass = mass / mass.sum()
    center = float(points @ mass)
    return center, float((points - center) ** 2 @ mass)
