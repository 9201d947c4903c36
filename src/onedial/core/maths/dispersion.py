"""What the standard deviation of a group's rewards does, in closed form.

One prompt is solved with probability p (q = 1 − p); a group is G independent rollouts with rewards 0 or 1, of
which k are right; σ̂ = √(k(G−k))/G is the population standard deviation (ddof 0). With advantages
A = (r − mean)/σ̂^α the group's gradient is σ̂^(2−α)·(mean score of right − mean score of wrong), and 0 when the
group is unanimous (arXiv:2607.00152 for α = 1; any α by the same algebra). All that follows is arithmetic on
k ~ Binomial(G, p). Arrays broadcast; p and q may be 0 or 1; results are float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, gammaln, xlogy

Array = NDArray[np.float64]

_CELLS = 4_000_000  # numbers held at once by the sums over k, so that long arrays of p stay in bounded memory
_FACTORS = 4096  # factors of a product before a closed form replaces it


def mixed_probability(p: ArrayLike, size: ArrayLike) -> Array:
    """P(0 < k < G) = 1 − p^G − q^G: the chance that a group of `size` rollouts is not silent. Shapes broadcast."""
    # a group of none is as silent as a group of one, and 0·log 0 is not a number
    p, size = _rate(p), np.maximum(np.asarray(size, dtype=np.float64), 1.0)
    # 1 − q^G through log1p keeps its digits for rare successes; floor 0 takes off the last rounding at G = 1
    with np.errstate(divide="ignore"):
        return np.asarray(np.maximum(-np.expm1(size * np.log1p(-p)) - p**size, 0.0))


def silent_probability(p: ArrayLike, size: ArrayLike) -> Array:
    """p^G + q^G: the chance that all rollouts of a group get the same verdict."""
    p, size = _rate(p), np.asarray(size, dtype=np.float64)
    return np.asarray(np.minimum(p**size + (1.0 - p) ** size, 1.0))


def group_sigma(k: ArrayLike, size: ArrayLike) -> Array:
    """σ̂ = √(k(G−k))/G of a group with k right among G (ddof 0); 0 when it is unanimous."""
    k, size = np.asarray(k, dtype=np.float64), np.asarray(size, dtype=np.float64)
    return np.asarray(np.sqrt(k * (size - k)) / size)


def expected_sigma(p: ArrayLike, size: int, *, power: float = 1.0) -> Array:
    """E[σ̂^power ; 0 < k < G], exact at finite G by summing over k. Shape of p.

    For large G, E[σ̂] ≈ √(pq)(1 − 1/(8Gpq)) (arXiv:2607.00152); silent groups count 0 for every `power`.
    """
    p = _rate(p)
    return weight(p, size, alpha=2.0 - power) * p * (1.0 - p)


def weight(p: ArrayLike, size: int, *, alpha: float) -> Array:
    """W(p) in E[gradient] = W(p)·∇p for groups of `size`: E[σ̂^(2−α); 0 < k < G]/(pq). Shape of p.

    Written as Σ_k C(G,k) p^(k−1) q^(G−k−1) σ̂_k^(2−α), which needs no division, so W(0⁺) and W(1⁻) are exact:
    (G−1)/G for α = 0, √(G−1) for α = 1, G for α = 2. At α = 1 it is the constant 1 for G = 2 and √2 for G = 3.
    """
    _check_size(size)
    p = _rate(p)
    k = np.arange(1, size, dtype=np.float64)
    log_sigma = np.log(k * (size - k)) / 2 - np.log(size)
    coefficient = _log_choose(size, k) + (2.0 - alpha) * log_sigma
    flat, out = p.reshape(-1), np.empty(p.size)
    step = max(1, _CELLS // max(1, size - 1))
    for start in range(0, flat.size, step):
        x = flat[start : start + step, None]
        terms = coefficient + xlogy(k - 1, x) + xlogy(size - k - 1, 1.0 - x)
        out[start : start + step] = np.exp(terms).sum(axis=-1)
    return out.reshape(p.shape)


def limit_weight(p: ArrayLike, *, alpha: float) -> Array:
    """The limit of `weight` as G → ∞: (pq)^(−α/2); infinite at p = 0 and 1 when α > 0."""
    p = _rate(p)
    with np.errstate(divide="ignore"):
        return np.asarray((p * (1.0 - p)) ** (-alpha / 2))


def fidelity(p: ArrayLike, size: int) -> Array:
    """E[σ̂]/√(pq): how near groups of `size` come to their limit, where it is 1. NaN at p = 0 and 1."""
    p = _rate(p)
    with np.errstate(invalid="ignore", divide="ignore"):
        return expected_sigma(p, size) / np.sqrt(p * (1.0 - p))


def size_for_fidelity(p: float, target: float, *, limit: int = 1 << 20) -> int:
    """The smallest G with `fidelity(p, G)` ≥ `target`, by doubling and bisection on the exact sum.

    The rule of thumb is G ≥ 1/(8(1−target)pq) (arXiv:2607.00152). Raises ValueError if none ≤ `limit` reaches it.
    """
    if not 0.0 < p < 1.0 or not 0.0 < target < 1.0:
        raise ValueError(f"p={p}, target={target}: both must lie strictly between 0 and 1")
    high = 2
    while fidelity(p, high) < target:
        high *= 2
        if high > limit:
            raise ValueError(f"p={p}, target={target}: needs more than {limit} rollouts; ask for a lower target")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fidelity(p, middle) >= target else (middle, high)
    return high


def expected_silent_share(p: ArrayLike, size: ArrayLike, *, mass: ArrayLike | None = None) -> Array:
    """E_p[p^G + q^G] over a distribution of solve rates (points `p`, weights `mass`); shape of `size`.

    x ↦ x^G + (1−x)^G is convex, so this is never below the silent probability at the mean rate (Jensen):
    plugging in the mean p under-predicts.
    """
    p, size = _rate(p).reshape(-1), np.asarray(size, dtype=np.float64)
    weights = np.full(p.shape, 1.0) if mass is None else np.asarray(mass, dtype=np.float64).reshape(-1)
    silent = [weights @ silent_probability(p, s) / weights.sum() for s in size.reshape(-1)]
    return np.asarray(silent).reshape(size.shape)


def subset_share(hits: ArrayLike, n: ArrayLike, size: ArrayLike) -> Array:
    """C(hits, G)/C(n, G): the chance that G of n samples, drawn without replacement, are all among `hits` of them.

    0 where hits < G ≤ n, NaN where n < G. Shapes broadcast. Silent groups and pass@k (arXiv:2107.03374, eq. 1) are
    both this number. It is a product of min(G, n − hits) factors: differences of log-gamma lose all digits for counts
    of 10⁹ and more. Beyond `_FACTORS` factors the beta function stands in for the product.
    """
    hits, n, size = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (hits, n, size)))
    possible = (hits >= size) & (n >= size)
    few, many = np.minimum(size, n - hits), np.maximum(size, n - hits)
    short, share = possible & (few <= _FACTORS), np.zeros(hits.shape)
    share[short] = 1.0
    for i in range(int(few[short].max(initial=0.0))):
        left = short & (i < few)
        share[left] *= (n[left] - many[left] - i) / (n[left] - i)
    long = possible & ~short
    share[long] = np.exp(betaln(n[long] - size[long] + 1, size[long]) - betaln(hits[long] - size[long] + 1, size[long]))
    return np.asarray(np.where(n >= size, share, np.nan))


def unbiased_powers(k: ArrayLike, n: ArrayLike, size: ArrayLike) -> tuple[Array, Array]:
    """Unbiased estimates of (p^G, q^G) from k right among n ≥ G tries: C(k,G)/C(n,G) and C(n−k,G)/C(n,G).

    Drawing G of the n rollouts without replacement is a group of size G; the same argument gives pass@k
    (arXiv:2107.03374, eq. 1). NaN where n < G. Shapes broadcast.
    """
    k, n = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    return subset_share(k, n, size), subset_share(n - k, n, size)


def utility(m: ArrayLike, variance: ArrayLike, *, rho: float) -> Array:
    """U(m) = mσ²/(1 + ρmσ²): how much m effective rollouts of a prompt with reward variance σ² = pq teach.

    ρ is the prompt's own signal divided by the noise of one rollout; 1/(ρσ²) rollouts give half of the maximum.
    """
    signal = np.asarray(m, dtype=np.float64) * np.asarray(variance, dtype=np.float64)
    return np.asarray(signal / (1.0 + rho * signal))


def optimal_weight(m: ArrayLike, variance: ArrayLike, *, rho: float) -> Array:
    """w = m/(1 + ρmσ²): the weight of a prompt's mean gradient that maximizes the squared cosine with the true
    gradient."""
    m = np.asarray(m, dtype=np.float64)
    return np.asarray(m / (1.0 + rho * m * np.asarray(variance, dtype=np.float64)))


def _log_choose(n: float, k: Array) -> Array:
    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))


def _rate(p: ArrayLike) -> Array:
    rate = np.asarray(p, dtype=np.float64)
    if rate.size and not (np.nanmin(rate) >= 0.0 and np.nanmax(rate) <= 1.0):
        raise ValueError(f"solve rate p between {np.nanmin(rate)} and {np.nanmax(rate)}: must lie in [0, 1]")
    return rate


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"group size {size}: must be at least 1")
