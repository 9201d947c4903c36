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
    difference_interval,
    discoveries,
    log_ratio_interval,
    ratio_interval,
)
from onedial.core.maths.estimators import wilson_interval


def test_wilson_by_hand_and_at_the_ends() -> None:
    low, high = wilson_interval(8, 10)  # published: .4902 … .9433; two of few, so that the end is a Poisson number's
    assert low == pytest.approx(0.4902, abs=2e-4) and stats.poisson.cdf(1, 10 * (1 - high)) == pytest.approx(0.95)
    low, high = wilson_interval(15, 30)  # ½ ± z·√(1/120 + z²/3600)/(1 + z²/30) by hand
    assert (low, high) == (pytest.approx(0.3315, abs=2e-4), pytest.approx(0.6685, abs=2e-4))
    assert (
        wilson_interval(0, 10)[0] == 0.0 and wilson_interval(10, 10)[1] == 1.0 and wilson_interval(0, 0) == (0.0, 1.0)
    )


def test_three_of_more_than_fifty_are_few() -> None:
    # oracles: scipy's Wilson interval, and the Poisson number whose chance of three or more is 5 %
    for seen, trials in ((3, 50), (4, 51), (8, 20)):
        wilson = stats.binomtest(seen, trials).proportion_ci(method="wilson")
        assert wilson_interval(seen, trials) == (pytest.approx(wilson.low), pytest.approx(wilson.high))
    assert stats.poisson.sf(2, 51 * wilson_interval(3, 51)[0]) == pytest.approx(0.05)
    assert stats.poisson.sf(1, 50 * wilson_interval(2, 50)[0]) == pytest.approx(0.05)


def test_design_effect_counts_identical_groups_once() -> None:
    # oracle: every prompt repeats one verdict ten times, so 1,000 groups are worth 100
    verdict = np.random.default_rng(0).random(100) < 0.3
    assert design_effect(10.0 * verdict, np.full(100, 10.0)) == pytest.approx(10.0, rel=0.02)
    low, high = clustered_wilson(10.0 * verdict, np.full(100, 10.0)) or (0, 0)
    assert (low, high) == pytest.approx(wilson_interval(float(verdict.sum()), 100.0), rel=0.02)


def test_ratio_interval_by_hand() -> None:
    # oracle: the jackknife written out, with Kish's number of clusters; scipy's t interval where all denominators are 1
    top, bottom = np.array([3.0, 1.0, 4.0, 1.0, 5.0]), np.array([4.0, 2.0, 4.0, 3.0, 7.0])
    ratio, without = 14 / 20, np.array([(14 - t) / (20 - b) for t, b in zip(top, bottom, strict=True)])
    error = np.sqrt(0.8 * ((without - ratio) ** 2).sum())
    reach = stats.t.ppf(0.975, 20**2 / 94 - 1) * error
    assert ratio_interval(top, bottom, share=False) == pytest.approx((ratio - reach, ratio + reach), rel=1e-12)
    plain = stats.ttest_1samp(top, 0.0).confidence_interval(0.95)
    assert ratio_interval(top, np.ones(5), share=False) == pytest.approx((plain.low, plain.high), rel=1e-12)
    assert ratio_interval([1.0], [2.0]) is None and ratio_interval([0.0, 0.0], [0.0, 0.0]) is None
    assert ratio_interval([1.0, 0.0], [2.0, 0.0]) is None, "one prompt has all the weight"
    low, high = ratio_interval([0.0] * 6, [3.0] * 6) or (1.0, 0.0)
    assert low == 0.0 and 0.3 < high < 0.6, "six prompts that agree do not prove that all do"


def test_log_ratio_interval_by_hand() -> None:
    # oracle: the jackknife written out; exchanging the two sums gives the reciprocals
    top, bottom = np.array([3.0, 1.0, 4.0, 2.0, 5.0]), np.array([4.0, 2.0, 4.0, 3.0, 7.0])
    logs = np.log([(15 - t) / (20 - b) for t, b in zip(top, bottom, strict=True)])
    number = min(20**2 / 94, 15**2 / 55)
    reach = stats.t.ppf(0.975, number - 1) * np.sqrt(0.8 * ((logs - logs.mean()) ** 2).sum())
    found = log_ratio_interval(top, bottom)
    assert found == pytest.approx((0.75 * np.exp(-reach), 0.75 * np.exp(reach)), rel=1e-12)
    assert log_ratio_interval(bottom, top) == pytest.approx((1 / found[1], 1 / found[0]), rel=1e-12)
    assert log_ratio_interval(top[:3], bottom[:3]) is None
    assert log_ratio_interval([1.0, 0.0, 0.0], [2.0, 1.0, 1.0]) is None, "without one prompt the ratio is 0"
    assert log_ratio_interval([99.0, 1.0, 1.0, 1.0], [99.0, 1.0, 1.0, 1.0]) is None, "one prompt nearly alone"


def ratio_coverage(clusters: int, a: float, b: float, draws: int, *, spread: float, seed: int = 0) -> float:
    """How often the interval of a share over prompts holds the true mean a/(a + b); `spread` of the log weights."""
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(draws):
        each = rng.integers(2, 9, clusters).astype(float)
        right = rng.binomial(each.astype(int), rng.beta(a, b, clusters))
        weight = np.exp(spread * rng.standard_normal(clusters))
        interval: Any = ratio_interval(right * weight, each * weight)
        hits += interval[0] <= a / (a + b) <= interval[1]
    return hits / draws


@pytest.mark.parametrize(("clusters", "spread"), [(8, 0.0), (30, 0.0), (8, 1.5)])
def test_ratio_interval_of_few_prompts_covers(clusters: int, spread: float) -> None:
    # simulation; percentiles of a bootstrap cover 89 % of 8 prompts, the linearized interval 80 % with long tails
    assert ratio_coverage(clusters, 1.0, 3.0, 600, spread=spread) >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize(("a", "b"), [(1.0, 3.0), (0.5, 0.5), (3.0, 3.0)])
@pytest.mark.parametrize("clusters", [4, 8, 15, 30, 100])
def test_ratio_interval_covers(clusters: int, a: float, b: float, spread: float) -> None:
    assert 0.93 <= ratio_coverage(clusters, a, b, 3000, spread=spread, seed=1) <= 0.995


def length_coverage(clusters: int, spread: float, draws: int, *, seed: int = 0) -> float:
    """How often the interval of wrong over right lengths holds the truth: lognormal between prompts and within."""
    rng, hits, known = np.random.default_rng(seed), 0, 0
    for _ in range(draws):
        scale = np.exp(spread * rng.standard_normal(clusters))
        k = rng.integers(1, 8, clusters)
        right, wrong = (
            scale * [np.exp(spread * rng.standard_normal(n)).mean() for n in number] for number in (k, 8 - k)
        )
        interval = log_ratio_interval(1.3 * wrong, right)
        known += interval is not None
        hits += interval is not None and interval[0] <= 1.3 <= interval[1]
    return hits / known


@pytest.mark.parametrize(("clusters", "spread"), [(5, 1.0), (20, 1.0)])
def test_length_ratios_of_few_prompts_cover(clusters: int, spread: float) -> None:
    # simulation; the linearized interval on the plain scale covers 80 to 87 %
    assert length_coverage(clusters, spread, 600) >= 0.925


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.3, 1.0, 1.5])
@pytest.mark.parametrize("clusters", [4, 5, 8, 20, 50])
def test_length_ratios_cover(clusters: int, spread: float) -> None:
    assert 0.93 <= length_coverage(clusters, spread, 2000, seed=1) <= 0.995


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


def test_a_share_of_hardly_any_is_held() -> None:
    # closed form: exact coverage over the binomial. Wilson's own interval holds a share of 0.2/80 in 82 %
    for trials in (30, 80, 400):
        seen = np.arange(trials + 1)
        spans = np.array([wilson_interval(float(k), float(trials)) for k in seen])
        for share in np.linspace(0.05, 8, 60) / trials:
            held = (spans[:, 0] <= share) & (share <= spans[:, 1])
            assert stats.binom.pmf(seen[held], trials, share).sum() > 0.915, (trials, share)


def test_difference_of_paired_shares_by_hand() -> None:
    # oracle: with 12 and 2 discordant pairs of 50 the plain interval is 0.2 ± 1.96·√(14 − 10²/50)/50
    early = (np.repeat([1.0, 1.0, 0.0, 0.0], [36, 2, 12, 0]), np.ones(50))
    late = (np.repeat([1.0, 0.0, 1.0, 0.0], [36, 2, 12, 0]), np.ones(50))
    found = difference_interval(early, late)
    assert found is not None and found == pytest.approx((0.064, 0.336), abs=0.03)
    assert difference_interval(early, early) == pytest.approx((0.0, 0.0), abs=0.05)
    assert difference_interval(late, early) == pytest.approx((-found[1], -found[0]))
    none = difference_interval((np.zeros(50), np.ones(50)), (np.zeros(50), np.ones(50)))
    assert none is not None and none[0] < -0.05 and none[1] > 0.05, "nothing seen is not nothing there"


def test_discoveries_count_what_was_not_a_candidate() -> None:
    # oracle: Benjamini and Hochberg's step-up by hand: p(r) ≤ r·rate/m; .03 passes among 3 tests, not among 30
    chances = np.array([0.03, 0.001, 0.5])
    assert discoveries(chances, 0.05).tolist() == [True, True, False]
    assert discoveries(chances, 0.05, tried=30).tolist() == [False, True, False]
    assert discoveries(np.array([]), 0.05, tried=30).tolist() == []
