"""95 % intervals that know that groups of one prompt are not independent.

Prompts are the units that were sampled; groups and rollouts of one prompt resemble each other. Shares of groups
get Wilson's interval at the effective number of groups (the number over the design effect measured between prompts,
Rao & Scott 1992), so that a log with one group per prompt gives the plain Wilson interval. Ratios of sums get the
linearized interval of a ratio estimator (Cochran 1977, section 6.8), with Student's quantile; other statistics are
bootstrapped over prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onedial.core.maths.estimators import normal_quantile, score_interval, t_quantile

Array = NDArray[np.float64]
Interval = tuple[float, float]

BLOCKS = 4096

__all__ = ["Interval", "bootstrap", "clustered_wilson", "design_effect", "discoveries", "ratio_interval"]


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

    Where the clusters are a sample of all, `hits` and `total` are the sums over all of them. Where prompts have
    several groups the design effect is an estimate, for which Student's quantile allows.
    """
    h, n = np.asarray(each_hits, dtype=np.float64), np.asarray(each, dtype=np.float64)
    if n.sum() == 0 or (len(n) < 2 and n.sum() > 1):
        return None
    effect = design_effect(h, n)
    share, of = float(h.sum() if hits is None else hits), float(n.sum() if total is None else total)
    quantile = normal_quantile() if n.sum() == len(n) else t_quantile(len(n) - 1)
    return score_interval(share / of, of / effect, quantile)


def ratio_interval(top: ArrayLike, bottom: ArrayLike, *, share: bool = True) -> Interval | None:
    """Interval of Σtop/Σbottom over clusters (C,); None for fewer than two, or where Σbottom is 0.

    The residuals top − ratio·bottom give the variance. With `share` the ratio lies in [0, 1] by nature: the score
    interval at the number of trials with that variance keeps it there, and counts clusters that all agree once each.
    """
    t, b = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    clusters, base = len(b), float(b.sum())
    if clusters < 2 or base == 0:
        return None
    ratio, quantile = float(t.sum()) / base, t_quantile(clusters - 1)
    variance = float(((t - ratio * b) ** 2).sum()) * clusters / (clusters - 1) / base**2
    if not share:
        reach = quantile * float(np.sqrt(variance))
        return ratio - reach, ratio + reach
    inside = variance > 0 and 0 < ratio < 1
    return score_interval(ratio, ratio * (1 - ratio) / variance if inside else float(clusters), quantile)


def bootstrap(
    sums: Array, statistic: Callable[[Array], Array], *, replicates: int = 1000, seed: int = 0
) -> tuple[Array, Array]:
    """Percentile interval of a statistic of summed columns, clusters drawn with replacement.

    `sums` (C, S) per cluster; `statistic` maps totals (R, S) to (R,) or (R, M). More than `BLOCKS` clusters are
    first pooled at random into that many blocks, which leaves the interval valid and the cost bounded. Percentiles
    are spread as Student's t spreads a normal interval (Hesterberg 2015, section 5.3), because those of few clusters
    are too narrow. NaN where there are fewer than two clusters.
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
    tail = 100 * NormalDist().cdf(-t_quantile(len(sums) - 1) * np.sqrt(len(sums) / (len(sums) - 1)))
    low, high = np.nanpercentile(values, [tail, 100 - tail], axis=0)
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

    Benjamini and Hochberg (1995). `chances` may leave out hypotheses that are not candidates; `tried` counts them, and
    each counts as a p-value of 1.
    """
    from scipy.stats import false_discovery_control  # takes longer to load than the rest of the package

    chances = np.asarray(chances, dtype=np.float64)
    if not len(chances):
        return np.zeros(0, dtype=bool)
    others = np.ones(max(0, (tried or 0) - len(chances)))
    return np.asarray(false_discovery_control(np.concatenate([chances, others]))[: len(chances)] <= rate)
