"""Closed forms of maths/dispersion.py. Oracles: published grid, enumeration of all groups, Monte Carlo, identities."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from onedial.core.maths import dispersion

RATES = np.array([0.01, 0.05, 0.2, 0.37, 0.5, 0.9, 0.999])


def enumerate_sigma(p: float, size: int, power: float) -> float:
    """E[σ̂^power; mixed] by listing all 2^G groups: the slow, independent way."""
    total = 0.0
    for rewards in itertools.product((0, 1), repeat=size):
        if len(set(rewards)) > 1:
            mean = sum(rewards) / size
            sigma = math.sqrt(sum((r - mean) ** 2 for r in rewards) / size)
            total += sigma**power * math.prod(p if r else 1 - p for r in rewards)
    return total


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, 0.5])
def test_expected_sigma_is_the_enumeration_of_all_groups(size: int, power: float) -> None:
    got = dispersion.expected_sigma(RATES, size, power=power)
    assert got == pytest.approx([enumerate_sigma(p, size, power) for p in RATES], rel=1e-11, abs=1e-15)


@pytest.mark.parametrize(
    ("p", "size", "published"),
    [(0.5, 2, 0.25), (0.5, 8, 0.464), (0.5, 16, 0.484), (0.05, 2, 0.0475), (0.05, 8, 0.118), (0.05, 16, 0.155)],
)
def test_expected_sigma_at_published_points(p: float, size: int, published: float) -> None:
    # oracle: printed table; .11747 is printed there as .118, hence the tolerance of one unit in the last place
    assert float(dispersion.expected_sigma(p, size)) == pytest.approx(published, abs=1e-3)


GRID = [(0.5, (7, 11, 51)), (0.3, (9, 14, 61)), (0.1, (22, 36, 144)), (0.05, (42, 69, 273))]


@pytest.mark.parametrize(("p", "grid"), GRID)
def test_size_for_fidelity_is_the_published_grid(p: float, grid: tuple[int, ...]) -> None:
    assert tuple(dispersion.size_for_fidelity(p, target) for target in (0.9, 0.95, 0.99)) == grid


def test_fidelity_at_eight() -> None:
    assert dispersion.fidelity([0.5, 0.05], 8) == pytest.approx([0.93, 0.54], abs=0.005)  # oracle: published values


def test_large_group_expansion() -> None:
    # oracle: the asymptotic law E[σ̂] = √(pq)(1 − 1/(8Gpq)) + O(G⁻²)
    for p, size in [(0.5, 200), (0.3, 400), (0.1, 2000)]:
        law = math.sqrt(p * (1 - p)) * (1 - 1 / (8 * size * p * (1 - p)))
        assert float(dispersion.expected_sigma(p, size)) == pytest.approx(law, rel=3e-5)


def test_weight_is_constant_for_grpo_at_two_and_three() -> None:
    # oracle: identity of the theory, W = 1 and √2 whatever p: GRPO with G ≤ 3 ascends plain p
    p = np.linspace(0, 1, 41)
    assert dispersion.weight(p, 2, alpha=1.0) == pytest.approx(np.ones(41), rel=1e-12)
    assert dispersion.weight(p, 3, alpha=1.0) == pytest.approx(np.full(41, math.sqrt(2)), rel=1e-12)


@pytest.mark.parametrize("size", [2, 4, 8, 64])
def test_weight_at_the_edges(size: int) -> None:
    for alpha, edge in [(0.0, (size - 1) / size), (1.0, math.sqrt(size - 1)), (2.0, float(size))]:
        assert dispersion.weight([0.0, 1.0], size, alpha=alpha) == pytest.approx([edge, edge], rel=1e-12)


def test_hard_prompt_amplification() -> None:
    edge, middle = ([float(dispersion.weight(p, g, alpha=1.0)) for g in (4, 8, 16, 64)] for p in (0.0, 0.5))
    ratios = [e / m for e, m in zip(edge, middle, strict=True)]
    assert ratios == pytest.approx([1.07, 1.43, 2.00, 4.0], abs=0.005)  # oracle: published W(0⁺)/W(½)


def test_dr_grpo_weight_is_flat() -> None:
    # oracle: E[σ̂²] = pq(G−1)/G, the textbook variance identity
    assert dispersion.weight(RATES, 9, alpha=0.0) == pytest.approx(np.full(7, 8 / 9), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_weight_tends_to_its_limit(alpha: float) -> None:
    p = np.array([0.2, 0.5, 0.7])
    assert dispersion.weight(p, 4000, alpha=alpha) == pytest.approx(dispersion.limit_weight(p, alpha=alpha), rel=2e-3)


def test_gradient_weight_by_simulation() -> None:
    # oracle: Monte Carlo of the whole estimator on a Bernoulli policy, score of p itself; 5 standard errors
    rng, p, size, draws = np.random.default_rng(5), 0.15, 6, 200_000
    rewards = (rng.random((draws, size)) < p).astype(float)
    score = rewards / p - (1 - rewards) / (1 - p)  # d log P(r)/dp
    mean, sigma = rewards.mean(1, keepdims=True), rewards.std(1, keepdims=True)
    for alpha in (0.0, 1.0, 2.0):
        scale = np.where(sigma > 0, sigma, 1.0) ** alpha
        gradient = ((rewards - mean) / scale * score).mean(1)
        error = gradient.std() / math.sqrt(draws)
        assert abs(gradient.mean() - float(dispersion.weight(p, size, alpha=alpha))) < 5 * error


@given(p=st.floats(0, 1), size=st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_mixed_and_silent_add_to_one(p: float, size: int) -> None:
    total = float(dispersion.mixed_probability(p, size)) + float(dispersion.silent_probability(p, size))
    assert total == pytest.approx(1.0, abs=1e-12)
    pass_probability = -math.expm1(size * math.log1p(-p)) if p < 1 else 1.0  # oracle: P(mixed) = pass@G − p^G
    assert dispersion.mixed_probability(p, size) == pytest.approx(pass_probability - p**size, abs=1e-12)


def test_mixed_probability_keeps_digits_for_rare_successes() -> None:
    exact = 1 - Fraction(1, 10**12) ** 8 - (1 - Fraction(1, 10**12)) ** 8  # oracle: rational arithmetic
    assert float(dispersion.mixed_probability(1e-12, 8)) == pytest.approx(float(exact), rel=1e-10)


def test_jensen_the_mean_rate_under_predicts_silence() -> None:
    p, mass = np.array([0.0, 0.5, 1.0]), np.array([1.0, 2.0, 1.0])
    # hand: (1 + 2·2/16 + 1)/4 = .5625, at the mean rate ½ only 1/8
    assert float(dispersion.expected_silent_share(p, 4, mass=mass)) == pytest.approx(0.5625)
    assert float(dispersion.silent_probability(0.5, 4)) == pytest.approx(0.125)


@pytest.mark.parametrize(("k", "n", "size"), [(3, 8, 4), (0, 5, 2), (5, 5, 5), (7, 9, 3), (2, 3, 1)])
def test_unbiased_powers_is_the_share_of_subsets(k: int, n: int, size: int) -> None:
    # oracle: listing every subset of G rollouts
    rewards = [1] * k + [0] * (n - k)
    subsets = [sum(c) for c in itertools.combinations(rewards, size)]
    right, wrong = dispersion.unbiased_powers(k, n, size)
    assert float(right) == pytest.approx(sum(s == size for s in subsets) / len(subsets), abs=1e-12)
    assert float(wrong) == pytest.approx(sum(s == 0 for s in subsets) / len(subsets), abs=1e-12)
    assert np.isnan(dispersion.unbiased_powers(k, n, n + 1)[0])


@pytest.mark.parametrize(
    ("hits", "n", "size"),
    [(5 * 10**17, 10**18, 8), (10**9 - 5, 10**9, 64), (99_990, 100_000, 5000), (7000, 20_000, 3), (64, 128, 32)],
)
def test_subset_share_keeps_its_digits_for_any_count(hits: int, n: int, size: int) -> None:
    exact = Fraction(1)  # oracle: exact fractions
    for i in range(size):
        exact *= Fraction(hits - i, n - i)
    assert float(dispersion.subset_share(hits, n, size)) == pytest.approx(float(exact), rel=1e-11)


def test_subset_share_of_many_factors_is_bounded_in_time() -> None:
    # hand value: C(n−1, n/2)/C(n, n/2) = ½, also where a product would have 10¹⁷ factors
    assert float(dispersion.subset_share(10**18 - 10**17, 10**18, 10**17)) == 0.0
    assert float(dispersion.subset_share(10**6 - 10**4, 10**6, 5000)) == pytest.approx(
        math.exp(math.fsum(math.log1p(-(10**4) / (10**6 - i)) for i in range(5000))), rel=1e-9
    )


def test_optimal_weight_maximises_squared_cosine() -> None:
    # oracle: random search cannot beat it. Two prompts, orthogonal signals σ_x δ_x with noise Vσ²/m each:
    # maximise (Σ w s)²/Σ w²(s²·ρ·σ² + σ²/m)/... reduces to w ∝ m/(1 + ρmσ²)
    m, v, rho = np.array([3.0, 9.0]), np.array([0.25, 0.05]), 0.3
    best = dispersion.optimal_weight(m, v, rho=rho)

    def cosine(w: np.ndarray) -> float:
        return float((w @ v) ** 2 / (w**2 @ (rho * v**2 + v / m)))

    rng = np.random.default_rng(1)
    assert all(cosine(best) >= cosine(rng.random(2)) for _ in range(2000))


def test_utility_is_the_best_squared_cosine() -> None:
    # oracle: a numerical search for the weights. Prompts have orthogonal gradients of size σ²·√ρ against noise σ²/m per
    # prompt; the squared cosine of the weighted sum with the truth is largest at Σ mσ²/(1 + ρmσ²)
    rng = np.random.default_rng(2)
    for _ in range(5):
        m, v, rho = rng.integers(1, 20, 4).astype(float), rng.uniform(0.01, 0.25, 4), float(rng.uniform(0.01, 2))

        def loss(w: np.ndarray, m: np.ndarray = m, v: np.ndarray = v, rho: float = rho) -> float:
            return -float((w @ v) ** 2 / (w**2 @ (rho * v**2 + v / m)))

        best = -minimize(loss, np.ones(4), method="BFGS").fun
        assert float(dispersion.utility(m, v, rho=rho).sum()) == pytest.approx(best, rel=1e-6)
    assert float(dispersion.utility(4.0, 0.25, rho=0.5)) == pytest.approx(2 / 3)  # by hand: 1/(1 + .5)


def test_bad_rates_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        dispersion.mixed_probability([0.2, 1.2], 4)
    with pytest.raises(ValueError, match="group size 0"):
        dispersion.weight(0.5, 0, alpha=1.0)
    with pytest.raises(ValueError, match="strictly between"):
        dispersion.size_for_fidelity(0.0, 0.9)
