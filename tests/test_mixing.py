"""Distributions of solve rates behind counts. Oracles: exact integrals, direct maximization, simulated truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import differential_evolution, minimize
from scipy.special import betaln
from scipy.stats import beta, betabinom, binom

from onedial.core.maths.mixing import (
    Mixing,
    Tally,
    _beta_mass,
    beta_with_ends,
    em,
    fit_prior,
    grid,
    log_likelihood,
    npmle,
    posterior,
    predictive_score,
    tally_counts,
)


def all_cells(n: int, share: np.ndarray, prompts: float = 1e4) -> Tally:
    """Counts of n tries in exactly these shares."""
    return Tally(np.arange(n + 1.0), np.full(n + 1, float(n)), prompts * share, np.ones(n + 1))


def test_the_grid_runs_from_0_to_1_with_a_quarter_of_the_noise_between_points() -> None:
    for most, steps in ((1, 80), (8, 80), (64, 100), (400, 250), (1e9, 400)):
        points = grid(most)
        assert len(points) == steps + 1 and points[0] == 0.0 and points[-1] == 1.0
        assert points + points[::-1] == pytest.approx(1.0, abs=1e-12)
        assert np.diff(np.arcsin(np.sqrt(points))) == pytest.approx(np.pi / 2 / steps)
    middle = np.diff(grid(400))[125]
    assert middle == pytest.approx(np.sqrt(0.25 / 400) / 4, rel=0.02)


def test_cells_are_the_distinct_counts_with_their_prompts() -> None:
    tally, number = tally_counts([1, 3, 1, 1], [4, 4, 4, 8], [1, 1, 1, 2])
    assert tally.num_prompts == 4
    seen = list(zip(tally.k, tally.n, tally.groups, tally.count, strict=True))
    assert sorted(seen) == [(1, 4, 1, 2), (1, 8, 2, 1), (3, 4, 1, 1)]
    assert [(tally.k[i], tally.n[i], tally.groups[i]) for i in number] == [(1, 4, 1), (3, 4, 1), (1, 4, 1), (1, 8, 2)]
    assert tally_counts([1], [4])[0].groups.tolist() == [1.0]


@pytest.mark.parametrize("groups", [1, 2])
def test_survivors_have_the_likelihood_of_groups_that_were_mixed(groups: int) -> None:
    # oracle: the chance of each k given that every group is mixed, by listing the groups
    size, points = 3, np.array([0.0, 0.2, 0.7, 1.0])
    one = binom.pmf(np.arange(size + 1)[:, None], size, points)
    one[[0, -1]] = 0.0
    with np.errstate(invalid="ignore"):
        one = one / one.sum(axis=0)
    chance = one
    for _ in range(groups - 1):
        chance = np.stack([np.convolve(chance[:, j], one[:, j]) for j in range(len(points))], axis=1)
    k = np.arange(groups, groups * (size - 1) + 1.0)
    tally = Tally(k, np.full(len(k), float(size * groups)), np.ones(len(k)), np.full(len(k), float(groups)))
    found = log_likelihood(tally, points, survivors_only=True)
    assert np.isneginf(found[:, [0, -1]]).all()
    want = np.log(chance[k.astype(int)])
    scale = found[:, 1:2] - want[:, 1:2]  # a constant of each entry
    assert found[:, 1:3] - scale == pytest.approx(want[:, 1:3])


def test_the_nonparametric_fit_has_the_largest_likelihood() -> None:
    # oracle: a general maximizer over the softmax of the masses
    rng = np.random.default_rng(0)
    tally = tally_counts(rng.binomial(6, rng.beta(0.5, 0.9, 500)), np.full(500, 6))[0]
    points = np.linspace(0, 1, 13)
    kernel = np.exp(log_likelihood(tally, points))

    def loss(logits: np.ndarray) -> float:
        mass = np.exp(logits - logits.max())
        return -float(tally.count @ np.log(kernel @ (mass / mass.sum())))

    best = min(minimize(loss, start, method="L-BFGS-B").fun for start in (np.zeros(13), rng.normal(size=13)))
    start = Mixing(points, np.full(13, 1 / 13))
    fitted = npmle(tally, start=start, iterations=4000)
    assert fitted.mass.sum() == pytest.approx(1.0) and fitted.points is points
    assert -float(tally.count @ np.log(kernel @ fitted.mass)) == pytest.approx(best, abs=0.02)


def test_em_keeps_replicates_apart_and_a_start_at_the_answer_still() -> None:
    kernel = np.eye(3)  # each entry tells its point: the answer is the share itself, at once
    counts = np.array([[2.0, 1.0, 1.0], [0.0, 3.0, 1.0]])
    one = em(kernel, counts, np.full((1, 3), 1 / 3), 1)
    assert one == pytest.approx(np.array([[0.5, 0.25, 0.25], [0.0, 0.75, 0.25]]))
    assert em(kernel, counts, one, 5) == pytest.approx(one)
    assert em(kernel, counts, np.full((1, 3), 1 / 3), 0) == pytest.approx(np.full((2, 3), 1 / 3))


@pytest.mark.parametrize(
    ("zero", "one", "a", "b"), [(0.3, 0.1, 2.0, 3.0), (0.05, 0.25, 0.8, 1.5), (0.2, 0.0, 4.0, 1.0)]
)
def test_the_beta_with_ends_finds_the_shares_at_0_and_1_that_made_the_counts(
    zero: float, one: float, a: float, b: float
) -> None:
    n = 16
    share = (1 - zero - one) * betabinom.pmf(np.arange(n + 1), n, a, b)
    share[0] += zero
    share[-1] += one
    found = beta_with_ends(all_cells(n, share))
    assert found.mass[0] == pytest.approx(zero, abs=0.01) and found.mass[-1] == pytest.approx(one, abs=0.01)
    assert found.mass.sum() == pytest.approx(1.0)
    assert found.mean == pytest.approx(one + (1 - zero - one) * a / (a + b), abs=0.005)
    inner = found.mass[1:-1].cumsum() + zero
    edges = (found.points[1:-1] + found.points[2:]) / 2
    want = zero + (1 - zero - one) * beta.cdf(edges, a, b)
    assert abs(inner - want)[5:-5].max() < 0.02


@pytest.mark.parametrize("seen", [(163, 0, 1, 4, 132), (395, 20, 32, 27, 28, 48, 69, 144, 2237)])
def test_the_beta_with_ends_has_the_likelihood_that_another_search_finds(seen: tuple[int, ...]) -> None:
    # oracle: scipy's beta-binomial and differential evolution
    n, count = len(seen) - 1, np.array(seen, dtype=float)
    k = np.arange(n + 1.0)

    def loss(theta: np.ndarray) -> float:
        ends = np.exp([*theta[2:], 0.0]) / np.exp([*theta[2:], 0.0]).sum()
        chance = ends[2] * betabinom.pmf(k, n, *np.exp(theta[:2])) + ends[0] * (k == 0) + ends[1] * (k == n)
        return -float(count @ np.log(np.maximum(chance, 1e-300)))

    best = -differential_evolution(loss, [(-4, 5), (-4, 5), (-12, 6), (-12, 6)], seed=0, tol=1e-6).fun
    found = beta_with_ends(Tally(k, np.full(n + 1, float(n)), count, np.ones(n + 1)))
    assert float(count @ np.log(binom.pmf(k[:, None], n, found.points) @ found.mass)) == pytest.approx(best, abs=0.3)


def test_mass_next_to_the_ends_stays_inside() -> None:
    # oracle: the Beta distribution function; 0 and 1 are for prompts that are exactly there
    points = grid(8)
    for a, b in ((0.1, 0.3), (2.0, 0.2)):
        mass = _beta_mass(points, a, b)
        edges = (points[1:-2] + points[2:-1]) / 2
        assert mass[0] == mass[-1] == 0.0 and mass.sum() == pytest.approx(1.0)
        assert mass[1:-1].cumsum()[:-1] == pytest.approx(beta.cdf(edges, a, b))


def test_extreme_betas_stay_within_reach() -> None:
    # all prompts at one rate, and rates at both ends with nothing between: the fits go as far as they can
    sharp = beta_with_ends(all_cells(64, binom.pmf(np.arange(65), 64, 0.3)))
    assert sharp.mean == pytest.approx(0.3, abs=0.003)
    # a Beta of a = 0.3/0.7·b with b at most e⁵ has the standard deviation 0.031
    assert np.sqrt(sharp.mass @ (sharp.points - sharp.mean) ** 2) == pytest.approx(0.031, abs=0.006)
    apart = np.zeros(9)
    apart[[0, -1]] = [0.7, 0.3]
    ends = beta_with_ends(all_cells(8, apart))
    assert ends.mass[:5].sum() == pytest.approx(0.7, abs=0.01) and ends.mass[-5:].sum() == pytest.approx(0.3, abs=0.01)


def test_survivors_give_back_the_distribution_of_all_prompts() -> None:
    # oracle: exact frequencies of groups of 6 that were mixed, under Beta(1, 2.5)
    n = 6
    share = betabinom.pmf(np.arange(n + 1), n, 1.0, 2.5)[1:-1]
    tally = Tally(np.arange(1.0, n), np.full(n - 1, float(n)), 1e4 * share / share.sum(), np.ones(n - 1))
    found = beta_with_ends(tally, survivors_only=True)
    assert found.mean == pytest.approx(1 / 3.5, abs=0.01)
    assert found.mass[0] == found.mass[-1] == 0.0
    assert fit_prior(tally, survivors_only=True).mass == pytest.approx(found.mass)


def test_the_prior_lies_between_the_beta_and_the_nonparametric_fit() -> None:
    rng = np.random.default_rng(1)
    rates = np.where(rng.random(3000) < 0.5, 0.15, 0.8)  # no Beta has two peaks inside
    tally = tally_counts(rng.binomial(12, rates), np.full(3000, 12))[0]

    def fit(mixing: Mixing) -> float:
        log = log_likelihood(tally, mixing.points)
        return float(tally.count @ np.log(np.exp(log) @ mixing.mass))

    few, prior, far = beta_with_ends(tally), fit_prior(tally), npmle(tally)
    assert fit(few) + 5 < fit(prior) < fit(far)
    assert fit(fit_prior(tally, steps=100)) > fit(prior) > fit(fit_prior(tally, steps=2))
    start = 0.95 * few.mass + 0.05 / few.mass.size
    assert fit_prior(tally, steps=0).mass == pytest.approx(start)


def test_a_posterior_is_bayes_rule_on_the_grid() -> None:
    points = np.array([0.0, 0.25, 0.5, 1.0])
    prior = Mixing(points, np.array([0.1, 0.4, 0.4, 0.1]))
    tally = Tally(np.array([0.0, 1.0]), np.array([2.0, 2.0]), np.ones(2), np.ones(2))
    likelihood = binom.pmf(np.array([[0], [1]]), 2, points)
    want = likelihood * prior.mass
    assert posterior(tally, prior) == pytest.approx(want / want.sum(axis=1, keepdims=True))
    # a surviving prompt with one group: given mixed, times the chance to enter the log, which cancel
    mixed = want[1] * [0, 1, 1, 0]
    assert posterior(tally, prior, survivors_only=True)[1] == pytest.approx(mixed / mixed.sum())


def test_the_predictive_score_is_that_of_the_beta_binomial() -> None:
    # oracle: log B(k1 + k2 + a, …)/B(k1 + a, …), the exact predictive of a Beta prior, without the coefficient
    a, b = 2.0, 3.0
    points = grid(1e9)
    edges = np.concatenate([[0.0], (points[1:] + points[:-1]) / 2, [1.0]])
    prior = Mixing(points, np.diff(beta.cdf(edges, a, b)))
    first = Tally(np.array([1.0, 4.0]), np.array([4.0, 6.0]), np.array([3.0, 1.0]), np.ones(2))
    k, n = np.array([2.0, 0.0]), np.array([5.0, 3.0])
    seen = betaln(first.k + k + a, first.n - first.k + n - k + b) - betaln(first.k + a, first.n - first.k + b)
    assert predictive_score(first, k, n, prior) == pytest.approx(float(seen @ [0.75, 0.25]), abs=1e-3)
