"""A baseline from what is believed about a prompt before it is sampled, and the number of tries that this belief is
worth.

A belief with mean m of the reward counts like ν earlier tries with that mean. Together with it, the n tries of a group
give each rollout a baseline that is independent of the rollout itself, so the gradient stays unbiased and silent groups
also have a gradient: one correct rollout of a prompt believed to be solved half of the time has an advantage of 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def posterior_baseline(rewards: Sequence[float], mean: float, strength: float) -> Array:
    """(n,) b_i = (ν·m + Σ_{j≠i} r_j)/(ν + n − 1) with ν = `strength` and m = `mean`, the belief before the draw.

    ν → 0 is leave-one-out (RLOO), ν → ∞ the belief alone (SPO, arXiv:2509.13232, §3.1). With ν = 0 a group of one has
    its own reward as baseline, so that its advantage is 0.
    """
    own = np.asarray(rewards, dtype=np.float64)
    weight = strength + len(own) - 1
    if weight <= 0:
        return own
    return np.asarray((strength * mean + own.sum() - own) / weight)


def effective_tries(tries: ArrayLike, strength: ArrayLike) -> Array:
    """m(n, ν) = n(ν + n − 1)/(ν + n): n tries with this baseline are worth as many tries with a known baseline.

    The variance of (r − b_i), with b_i from ν + n − 1 tries, is pq·(ν + n)/(ν + n − 1), and it is averaged over n of
    them. ν = 0: n − 1; ν → ∞: n. Shapes broadcast.
    """
    n, nu = np.asarray(tries, dtype=np.float64), np.asarray(strength, dtype=np.float64)
    total = np.maximum(nu + n, 1e-12)
    return np.asarray(np.maximum(n * (nu + n - 1.0) / total, 0.0))
