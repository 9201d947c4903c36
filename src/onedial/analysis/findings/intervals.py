"""95 % intervals that know that groups of one prompt are not independent.

Prompts are the units that were sampled; groups and rollouts of one prompt resemble each other. Shares of groups
get Wilson's interval at the effective number of groups (the number over the design effect measured between prompts,
Rao & Scott 1992), so that a log with one group per prompt gives the plain Wilson interval. Everything else is
bootstrapped over prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Interval = tuple[float, float]

Z = 1.959963984540054
BLOCKS = 4096


def wilson(hits: float, n: float, z: float = Z) -> Interval:
    """Wilson's score interval of a share; (0, 1) for n = 0. `n` need not be whole."""
    if n <= 0:
        return (0.0, 1.0)
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # at the ends the algebra gives exactly 0 and 1, the floating point nearly
    low = 0.0 if hits <= 0 else max(0.0, float(middle - half))
    return (low, 1.0 if hits >= n else min(1.0, float(middle + half)))


def design_effect(hits: ArrayLike, n: ArrayLike) -> float:
    """Variance of Σhits/Σn between clusters over the binomial variance; at least 1. `hits`, `n` per cluster (C,)."""
    hits, n = np.asarray(hits, dtype=np.float64), np.asarray(n, dtype=np.float64)
    clusters, total = len(n), float(n.sum())
    if clusters < 2 or total == clusters:
        return 1.0
    share = float(hits.sum()) / total
    binomial = share * (1 - share) / total
    if binomial == 0.0:
        # unanimous throughout: nothing to measure the likeness by, so a prompt counts once
        return total / clusters
    between = float(((hits - share * n) ** 2).sum()) / total**2 * clusters / (clusters - 1)
    return max(1.0, between / binomial)


def clustered_wilson(
    each_hits: ArrayLike, each: ArrayLike, *, hits: float | None = None, total: float | None = None
) -> Interval | None:
    """Interval of Σhits/Σn with clusters = prompts (C,); None for a single prompt with several groups.

    Where the clusters are a sample of all, `hits` and `total` are the sums over all of them.
    """
    h, n = np.asarray(each_hits, dtype=np.float64), np.asarray(each, dtype=np.float64)
    if n.sum() == 0 or (len(n) < 2 and n.sum() > 1):
        return None
    effect = design_effect(h, n)
    share = h.sum() if hits is None else hits
    return wilson(float(share) / effect, float(n.sum() if total is None else total) / effect)


def bootstrap_ratio(
    top: ArrayLike, bottom: ArrayLike, *, share: bool = True, replicates: int = 1000
) -> Interval | None:
    """Interval of Σtop/Σbottom over clusters (C,); None for fewer than two.

    With `share` the ratio lies in [0, 1] by nature, and one that is 0 (or 1) in every cluster gives the bootstrap
    nothing to resample; Wilson over clusters stands in.
    """
    sums = np.stack([np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)], axis=1)
    if share and len(sums) >= 2 and not sums[:, 0].any():
        return wilson(0.0, float(len(sums)))
    if share and len(sums) >= 2 and (sums[:, 0] == sums[:, 1]).all():
        return wilson(float(len(sums)), float(len(sums)))

    def ratio(total: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(total[:, 0] / total[:, 1])

    low, high = bootstrap(sums, ratio, replicates=replicates)
    return None if np.isnan(low).any() else (float(low[()]), float(high[()]))


def bootstrap(
    sums: Array, statistic: Callable[[Array], Array], *, replicates: int = 1000, seed: int = 0
) -> tuple[Array, Array]:
    """Percentile interval of a statistic of summed columns, clusters drawn with replacement.

    `sums` (C, S) per cluster; `statistic` maps totals (R, S) to (R,) or (R, M). More than `BLOCKS` clusters are
    first pooled at random into that many blocks, which leaves the interval valid and the cost bounded. NaN where
    there are fewer than two clusters.
    """
    sums = np.asarray(sums, dtype=np.float64)
    if len(sums) > 1:
        block, draws = _draws(len(sums), replicates, seed)
    if len(sums) > BLOCKS:
        sums = np.stack([np.bincount(block, weights=column, minlength=BLOCKS) for column in sums.T], axis=1)
    if len(sums) < 2:
        nothing = np.full_like(statistic(sums.sum(axis=0, keepdims=True))[0], np.nan, dtype=np.float64)
        return np.asarray(nothing), np.asarray(nothing)
    # a draw may miss every cluster with a denominator; it is left out, unless all draws do
    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(draws.astype(np.float64) @ sums)
    if np.isnan(values).all(axis=0).any():
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    low, high = np.nanpercentile(values, [2.5, 97.5], axis=0)
    return np.asarray(low), np.asarray(high)


@lru_cache(maxsize=2)
def _draws(clusters: int, replicates: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Each cluster's block, and how often a replicate draws each block: alike for all figures over these clusters."""
    rng = np.random.default_rng(seed)
    block = rng.permutation(clusters) % BLOCKS if clusters > BLOCKS else np.arange(clusters)
    of = min(clusters, BLOCKS)
    return block, rng.multinomial(of, np.full(of, 1 / of), size=replicates).astype(np.uint16)


def discoveries(chances: NDArray[np.float64], rate: float, tried: int | None = None) -> NDArray[np.bool_]:
    """Which of `tried` hypotheses with the smallest p-values to name so that a share `rate` is named by chance.

    Benjamini and Hochberg (1995): the largest r with p₍ᵣ₎ ≤ r·rate/tried, and all before it. `chances` may leave out
    hypotheses that are not candidates (p near 1); `tried` counts them.
    """
    order = np.sort(chances)
    fine = np.flatnonzero(order <= rate * np.arange(1, len(order) + 1) / (tried or len(order)))
    return np.asarray(chances <= order[fine[-1]]) if len(fine) else np.zeros(len(chances), dtype=bool)
