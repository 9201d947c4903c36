"""95 % intervals that take into account that groups of one prompt are not independent.

Prompts are the units that were sampled; groups and rollouts of one prompt resemble each other. Shares of groups get
Wilson's interval at the effective number of groups: their number divided by the design effect measured between prompts
(Rao & Scott 1992). A log with one group per prompt therefore gets the plain Wilson interval. Ratios of sums get a
jackknife interval over prompts, with Student's quantile at the effective number of prompts (smaller than their number
where some weigh more than others). Other statistics are bootstrapped over prompts. `docs/decisions/intervals.md` has
the simulated coverage of each interval.
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

__all__ = [
    "Interval",
    "bootstrap",
    "clustered_wilson",
    "design_effect",
    "difference_interval",
    "discoveries",
    "log_ratio_interval",
    "ratio_interval",
]


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

    If the clusters are a sample, `hits` and `total` are the sums over all clusters. Where prompts have several groups,
    the design effect is only an estimate; Student's quantile allows for that.
    """
    h, n = np.asarray(each_hits, dtype=np.float64), np.asarray(each, dtype=np.float64)
    if n.sum() == 0 or (len(n) < 2 and n.sum() > 1):
        return None
    effect = design_effect(h, n)
    share, of = float(h.sum() if hits is None else hits), float(n.sum() if total is None else total)
    quantile = normal_quantile() if n.sum() == len(n) else t_quantile(len(n) - 1)
    return score_interval(share / of, of / effect, quantile)


def ratio_interval(top: ArrayLike, bottom: ArrayLike, *, share: bool = True) -> Interval | None:
    """Interval of Σtop/Σbottom over clusters (C,); None if fewer than two have any weight.

    The jackknife gives the variance, (C − 1)/C · Σ((top − ratio·bottom)/(1 − bottom/Σbottom))²/(Σbottom)² (Cochran
    1977, section 6.17). The quantile is Student's at the effective number of clusters, Kish's (Σbottom)²/Σbottom²,
    which is C if all weigh the same. With `share` the ratio lies in [0, 1] by nature: a score interval at the number of
    trials with that variance keeps it there, and where all clusters agree it counts each of them as one trial.
    """
    t, b = _with_weight(top, bottom)
    if len(b) < 2 or (b.sum() - b).min() <= 0:
        return None
    ratio, part, number = float(t.sum() / b.sum()), b / b.sum(), _effective(b)
    variance = (len(b) - 1) / len(b) * float((((t - ratio * b) / (1 - part)) ** 2).sum()) / float(b.sum()) ** 2
    quantile = t_quantile(max(number - 1, 1.0))
    if not share:
        reach = quantile * float(np.sqrt(variance))
        return ratio - reach, ratio + reach
    inside = variance > 0 and 0 < ratio < 1
    return score_interval(ratio, ratio * (1 - ratio) / variance if inside else number, quantile)


def log_ratio_interval(top: ArrayLike, bottom: ArrayLike) -> Interval | None:
    """Interval of the positive ratio Σtop/Σbottom over clusters (C,), by the jackknife of its logarithm.

    Sums of lengths have long tails: on the plain scale the interval from a few prompts covers only 65 to 90 %. None if
    there are fewer than four clusters, if the effective number is below two, or if the ratio without one of them is 0
    or infinite.
    """
    t, b = _with_weight(top, bottom)
    without = t.sum() - t, b.sum() - b
    number = min(_effective(b), _effective(t)) if len(b) > 3 else 0.0
    if number < 2 or min(part.min() for part in without) <= 0:
        return None
    logs = np.log(without[0] / without[1])
    variance = (len(b) - 1) / len(b) * float(((logs - logs.mean()) ** 2).sum())
    center, reach = float(np.log(t.sum() / b.sum())), t_quantile(number - 1) * float(np.sqrt(variance))
    return float(np.exp(center - reach)), float(np.exp(center + reach))


def difference_interval(early: tuple[Array, Array], late: tuple[Array, Array]) -> Interval | None:
    """Interval of Σtop/Σbottom of `late` minus that of `early`; both are (top, bottom) of the same clusters, (C,) each.

    The intervals of the two shares are combined by squaring and adding, with the correlation of their residuals
    (Newcombe 1998b, method 10), so that the interval has a width even if both shares are 0 or 1. None if one share has
    no interval.
    """
    spans, shares, residuals = [], [], []
    for top, bottom in (early, late):
        span = ratio_interval(top, bottom)
        if span is None:
            return None
        spans.append(span)
        shares.append(float(top.sum() / bottom.sum()))
        residuals.append(top - shares[-1] * bottom)
    scale = float(np.sqrt((residuals[0] ** 2).sum() * (residuals[1] ** 2).sum()))
    together = float(residuals[0] @ residuals[1]) / scale if scale > 0 else 0.0
    (low, high), (less, more), change = spans[0], spans[1], shares[1] - shares[0]
    down, up = shares[1] - less, high - shares[0]
    rise, fall = more - shares[1], shares[0] - low
    below = np.sqrt(max(0.0, down**2 - 2 * together * down * up + up**2))
    above = np.sqrt(max(0.0, rise**2 - 2 * together * rise * fall + fall**2))
    return change - float(below), change + float(above)


def _with_weight(top: ArrayLike, bottom: ArrayLike) -> tuple[Array, Array]:
    """The clusters that have any of either."""
    t, b = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    return t[(t != 0) | (b != 0)], b[(t != 0) | (b != 0)]


def _effective(weights: Array) -> float:
    """How many clusters of equal weight count as much (Kish 1965); 0 without any weight."""
    square = float((weights**2).sum())
    return float(weights.sum()) ** 2 / square if square else 0.0


def bootstrap(
    sums: Array, statistic: Callable[[Array], Array], *, replicates: int = 1000, seed: int = 0
) -> tuple[Array, Array]:
    """Percentile interval of a statistic of summed columns, with clusters drawn with replacement.

    `sums` (C, S) per cluster; `statistic` maps totals (R, S) to (R,) or (R, M). More than `BLOCKS` clusters are first
    pooled at random into that many blocks, which keeps the interval valid and the cost bounded. Percentiles are spread
    in the way that Student's t spreads a normal interval (Hesterberg 2015, section 5.3), because percentiles of few
    clusters are too narrow. NaN for fewer than two clusters.
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
    """Which of `tried` hypotheses to name, smallest p-values first, so that a share `rate` of those named is expected
    to be false.

    Benjamini and Hochberg (1995). `chances` may leave out hypotheses that are no candidates; `tried` counts them, and
    each counts as a p-value of 1. Returns a mask.
    """
    from scipy.stats import false_discovery_control  # takes longer to load than the rest of the package

    chances = np.asarray(chances, dtype=np.float64)
    if not len(chances):
        return np.zeros(0, dtype=bool)
    others = np.ones(max(0, (tried or 0) - len(chances)))
    return np.asarray(false_discovery_control(np.concatenate([chances, others]))[: len(chances)] <= rate)
