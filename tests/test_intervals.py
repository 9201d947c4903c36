"""Intervals over prompts. Oracles: published values, scipy, simulated coverage at the nominal 95 %."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from onedial.analysis.findings.intervals import (
    bootstrap,
    clustered_wilson,
    design_effect,
    discoveries,
    ratio_interval,
)
from onedial.core.maths.estimators import wilson_interval


def test_wilson_by_hand_and_at_the_ends() -> None:
    low, high = wilson_interval(8, 10)  # published example values .4902, .9433
    assert (low, high) == (pytest.approx(0.4902, abs=2e-4), pytest.approx(0.9433, abs=2e-4))
    assert (
        wilson_interval(0, 10)[0] == 0.0 and wilson_interval(10, 10)[1] == 1.0 and wilson_interval(0, 0) == (0.0, 1.0)
    )


def test_design_effect_counts_identical_groups_once() -> None:
    # oracle: every prompt repeats one verdict ten times, so 1,000 groups are worth 100
    verdict = np.random.default_rng(0).random(100) < 0.3
    assert design_effect(10.0 * verdict, np.full(100, 10.0)) == pytest.approx(10.0, rel=0.02)
    low, high = clustered_wilson(10.0 * verdict, np.full(100, 10.0)) or (0, 0)
    assert (low, high) == pytest.approx(wilson_interval(float(verdict.sum()), 100.0), rel=0.02)


def test_ratio_interval_by_hand() -> None:
    # oracle: the linearized variance written out; scipy's t interval where every denominator is 1
    top, bottom = np.array([3.0, 1.0, 4.0, 1.0, 5.0]), np.array([4.0, 2.0, 4.0, 3.0, 7.0])
    ratio = 14 / 20
    error = np.sqrt(((top - ratio * bottom) ** 2).sum() * 5 / 4) / 20
    reach = stats.t.ppf(0.975, 4) * error
    assert ratio_interval(top, bottom, share=False) == pytest.approx((ratio - reach, ratio + reach), rel=1e-12)
    plain = stats.ttest_1samp(top, 0.0).confidence_interval(0.95)
    assert ratio_interval(top, np.ones(5), share=False) == pytest.approx((plain.low, plain.high), rel=1e-12)
    assert ratio_interval([1.0], [2.0]) is None and ratio_interval([0.0, 0.0], [0.0, 0.0]) is None
    low, high = ratio_interval([0.0] * 6, [3.0] * 6) or (1.0, 0.0)
    assert low == 0.0 and 0.3 < high < 0.6, "six prompts that agree do not prove that all do"


def ratio_coverage(clusters: int, a: float, b: float, draws: int, *, tokens: bool, seed: int = 0) -> float:
    """How often the interval of a share over prompts holds the true mean a/(a + b)."""
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(draws):
        each = rng.integers(2, 9, clusters).astype(float)
        right = rng.binomial(each.astype(int), rng.beta(a, b, clusters))
        weight = rng.gamma(4, 100, clusters) if tokens else 1.0
        interval: Any = ratio_interval(right * weight, each * weight)
        hits += interval[0] <= a / (a + b) <= interval[1]
    return hits / draws


@pytest.mark.parametrize("clusters", [8, 30])
def test_ratio_interval_of_few_prompts_covers(clusters: int) -> None:
    # simulation; percentiles of a bootstrap cover 89 % of 8 prompts
    assert ratio_coverage(clusters, 1.0, 3.0, 600, tokens=False) >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("a", "b"), [(1.0, 3.0), (0.5, 0.5), (3.0, 3.0)])
@pytest.mark.parametrize("clusters", [15, 30, 100])
def test_ratio_interval_covers(clusters: int, a: float, b: float, tokens: bool) -> None:
    assert 0.92 <= ratio_coverage(clusters, a, b, 3000, tokens=tokens, seed=1) <= 0.98


def clustered_coverage(clusters: int, a: float, b: float, draws: int) -> float:
    rng, hits = np.random.default_rng(4), 0
    for _ in range(draws):
        silent = rng.binomial(5, rng.beta(a, b, clusters)).astype(float)
        interval: Any = clustered_wilson(silent, np.full(clusters, 5.0))
        hits += interval[0] <= a / (a + b) <= interval[1]
    return hits / draws


def test_clustered_wilson_covers() -> None:
    # simulation. Groups of a prompt share its rate; the truth is the mean rate; 95 % wanted
    assert 0.92 <= clustered_coverage(30, 1.0, 3.0, 600) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(("a", "b"), [(1.0, 3.0), (0.5, 0.5), (0.3, 3.0)])
@pytest.mark.parametrize("clusters", [15, 30, 150])
def test_clustered_wilson_covers_at_any_size(clusters: int, a: float, b: float) -> None:
    assert 0.92 <= clustered_coverage(clusters, a, b, 3000) <= 0.985


@pytest.mark.parametrize(("clusters", "draws"), [(10, 300), pytest.param(40, 1000, marks=pytest.mark.slow)])
def test_bootstrap_of_a_difference_covers(clusters: int, draws: int) -> None:
    # simulation: the difference of two shares of the same prompts, as between the first and last third of a log
    rng, hits = np.random.default_rng(5), 0
    for seed in range(draws):
        early = rng.beta(1, 3, clusters)
        columns = [rng.binomial(4, rate).astype(float) for rate in (early, (early + 1) / 2)]
        sums = np.stack([columns[0], columns[1], np.full(clusters, 4.0)], axis=1)
        low, high = bootstrap(sums, lambda t: (t[:, 1] - t[:, 0]) / t[:, 2], replicates=400, seed=seed)
        hits += low <= 0.625 - 0.25 <= high
    assert 0.92 <= hits / draws <= 0.985


def test_discoveries_count_what_was_not_a_candidate() -> None:
    # oracle: Benjamini and Hochberg's step-up by hand: p(r) ≤ r·rate/m; .03 passes among 3 tests, not among 30
    chances = np.array([0.03, 0.001, 0.5])
    assert discoveries(chances, 0.05).tolist() == [True, True, False]
    assert discoveries(chances, 0.05, tried=30).tolist() == [False, True, False]
    assert discoveries(np.array([]), 0.05, tried=30).tolist() == []
