"""Intervals of what solve rates imply. Oracles: linear programs, unbiased estimates, simulated coverage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import binom

from onedial.core.maths.dispersion import silent_probability, unbiased_powers
from onedial.core.maths.estimators import share_interval
from onedial.core.maths.likelihood_region import LEVELS, MOST_CELLS, likelihood_region
from onedial.core.maths.mixing import Cells, count_cells, npmle

Rates = Callable[[np.random.Generator, int], np.ndarray]


def ends(rng: np.random.Generator, prompts: int) -> np.ndarray:
    """15 % of the prompts at 0, 20 % at 1, the rest Beta(.8, .8)."""
    part = rng.random(prompts)
    return np.where(part < 0.15, 0.0, np.where(part < 0.35, 1.0, rng.beta(0.8, 0.8, prompts)))


TRUTHS: dict[str, Rates] = {
    "ends": ends,
    "two sided": lambda rng, prompts: rng.beta(0.4, 0.8, prompts),
    "hard": lambda rng, prompts: rng.beta(0.3, 3.0, prompts),
    "alike": lambda rng, prompts: np.full(prompts, 0.3),
}


def middle(points: np.ndarray) -> np.ndarray:
    return ((points > 0.25) & (points < 0.75)).astype(float)


def test_determined_figures_have_the_interval_of_their_unbiased_estimate() -> None:
    # oracle: the mean over prompts of the unbiased silent share, with the score interval over prompts
    rng = np.random.default_rng(3)
    k = rng.binomial(12, rng.beta(0.5, 0.8, 800))
    region = likelihood_region(count_cells(k, np.full(800, 12))[0])
    for size in (2, 4, 8, 12):
        right, wrong = unbiased_powers(k, 12, size)
        plain = share_interval(np.minimum(right + wrong, 1.0).tolist())
        interval = region.interval(silent_probability(region.points, size))
        assert interval == pytest.approx((plain.low, plain.high), abs=0.006)


@pytest.mark.parametrize("size", [2, 4, 8, 32])
def test_with_endless_prompts_the_bounds_are_those_of_a_linear_program(size: int) -> None:
    # oracle: the least and largest share over all distributions with exactly these frequencies of k of 4
    points = np.sin(np.pi / 2 * np.arange(101) / 100) ** 2
    truth = np.zeros(101)
    truth[[0, 20, 40, 55, 70, 85, 100]] = [0.1, 0.2, 0.2, 0.15, 0.15, 0.1, 0.1]
    chance = binom.pmf(np.arange(5)[:, None], 4, points)
    cells = Cells(np.arange(5.0), np.full(5, 4.0), 1e9 * (chance @ truth), np.ones(5))
    silent = silent_probability(points, size)
    equal = {"A_eq": chance, "b_eq": chance @ truth, "bounds": (0, None)}
    low, high = (sign * linprog(sign * silent, **equal).fun for sign in (1, -1))
    assert likelihood_region(cells, points).interval(silent) == pytest.approx((low, high), abs=0.003)
    assert size > 4 or high - low < 1e-6, "what four tries determine has one value"
    assert size < 32 or high - low > 0.2, "what they do not has bounds"


def test_posterior_means_are_bounded_by_a_fractional_program() -> None:
    # oracle: Charnes and Cooper's linear program for E[h·w]/E[w], again with endless prompts
    points = np.sin(np.pi / 2 * np.arange(81) / 80) ** 2
    truth = np.zeros(81)
    truth[[4, 20, 40, 60, 74]] = 0.2
    chance = binom.pmf(np.arange(4)[:, None], 3, points)
    cells = Cells(np.arange(4.0), np.full(4, 3.0), 1e9 * (chance @ truth), np.ones(4))
    seen, silent = chance[2], silent_probability(points, 8)
    matrix = np.vstack([np.hstack([chance, -(chance @ truth)[:, None]]), np.r_[seen, 0.0]])
    fixed = {"A_eq": matrix, "b_eq": np.r_[np.zeros(4), 1.0], "bounds": (0, None)}
    low, high = (sign * linprog(sign * np.r_[silent * seen, 0.0], **fixed).fun for sign in (1, -1))
    assert likelihood_region(cells, points).interval(silent, seen) == pytest.approx((low, high), abs=0.003)


def test_intervals_hold_their_own_estimate_and_narrow_with_prompts() -> None:
    rng, widths = np.random.default_rng(0), []
    for prompts in (100, 10_000):
        cells = count_cells(rng.binomial(8, ends(rng, prompts)), np.full(prompts, 8))[0]
        region, fitted = likelihood_region(cells), npmle(cells)
        assert region.top >= float(region.share @ np.log(region.kernel @ fitted.mass)) - 1e-9, "beats 400 EM steps"
        for size in (4, 64):
            silent = silent_probability(region.points, size)
            low, high = region.interval(silent)
            assert low <= silent @ region.mass <= high
            widths.append(high - low)
    assert widths[2] < widths[0] / 5, "determined: as 1/√prompts"
    assert widths[3] > 0.2, "not determined: bounds stay"


def test_thinned_tries_lose_at_most_a_third() -> None:
    assert LEVELS[:4] == (1, 2, 3, 4)
    assert all(low < high <= 1.5 * low for low, high in zip(LEVELS[1:], LEVELS[2:], strict=False))


def test_many_distinct_counts_and_huge_ones_are_bounded_work() -> None:
    # oracle: the mean is determined whatever the tries; an interval of it over prompts
    rng = np.random.default_rng(1)
    n = rng.integers(2, 400, 3000)
    k = rng.binomial(n, rng.beta(0.5, 0.5, 3000))
    region = likelihood_region(count_cells(k, n)[0])
    assert len(region.share) > MOST_CELLS and len(region.share) < 300
    plain = share_interval((k / n).tolist())
    assert region.interval(region.points) == pytest.approx((plain.low, plain.high), abs=0.01)
    rates = rng.beta(0.5, 0.5, 300)
    for tries in (1e9, 1e18):
        region = likelihood_region(count_cells(np.round(rates * tries), np.full(300, tries))[0])
        low, high = region.interval(silent_probability(region.points, 8))
        assert low <= float(silent_probability(rates, 8).mean()) <= high < low + 0.12


def coverage(truth: Rates, prompts: int, tries: int, draws: int, *, seed: int = 0) -> dict[str, float]:
    """How often the intervals hold the truth: silent share by group size, mean, and the share between ¼ and ¾."""
    many = truth(np.random.default_rng(99), 1_000_000)
    sizes = (4, 8, 16, 64)
    want = {f"G={size}": float(silent_probability(many, size).mean()) for size in sizes}
    want |= {"mean": float(many.mean()), "middle": float(middle(many).mean())}
    hits, rng = dict.fromkeys(want, 0), np.random.default_rng(seed)
    for _ in range(draws):
        region = likelihood_region(count_cells(rng.binomial(tries, truth(rng, prompts)), np.full(prompts, tries))[0])
        values = {f"G={size}": silent_probability(region.points, size) for size in sizes}
        values |= {"mean": region.points, "middle": middle(region.points)}
        for name, value in values.items():
            low, high = region.interval(value)
            hits[name] += low - 1e-6 <= want[name] <= high + 1e-6
    return {name: hit / draws for name, hit in hits.items()}


def test_coverage_where_a_bootstrap_of_one_fit_failed() -> None:
    # simulation, 1,000 prompts of 4 tries; the bootstrap held the silent share at G = 64 in 15 % of the draws
    found = coverage(ends, 1000, 4, 40)
    assert min(found.values()) >= 0.85, found  # 38 of 40 wanted; fewer than 34 has a chance of one in a hundred


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "tries"), [(200, 16), (1000, 4), (1000, 8)])
def test_coverage(prompts: int, tries: int) -> None:
    """Simulation of the nominal 95 %: 92 to 98 % over all truths where the tries determine the figure, more elsewhere.

    200 draws of each truth have a standard error of 1.5 points, all 800 of them 0.8. Prompts that are all alike put the
    truth on the edge of what is possible, where the likelihood ratio is not χ²₁: 200 of them were held in 87 %.
    """
    found = [coverage(truth, prompts, tries, 200, seed=tries) for truth in TRUTHS.values()]
    for name in found[0]:
        each = [hits[name] for hits in found]
        assert min(each) >= 0.85 and np.mean(each) >= 0.92, (name, found)
        assert min(hits for truth, hits in zip(TRUTHS, each, strict=True) if truth != "alike") >= 0.89, (name, found)
        if name in ("G=4", "mean"):
            assert np.mean(each) <= 0.98, (name, found)
