"""Who is sampled, and how often. Oracles: enumeration of every outcome, brute force, hand values, stationarity."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from onedial.core.allocator_table import ALLOCATORS, change_allocator
from onedial.core.maths.logit_normal import rate_moments
from onedial.training.budget.belief import Prediction
from onedial.training.budget.noise_aware import (
    choose_noise_aware,
    inclusion_probabilities,
    learning_value,
    spend,
    systematic_sample,
)
from onedial.training.budget.rules import RULES, scale_to_budget
from onedial.training.budget.scene import Scene, count_candidates


def scene(name: str, rates: Any, *, budget: float, variance: float = 1e-4, seed: int = 0, **options: Any) -> Scene:
    """Candidates whose solve rates are known almost surely."""
    mean = np.log(np.asarray(rates) / (1 - np.asarray(rates)))
    spread = np.full(len(mean), variance)
    predicted = Prediction(mean, spread, rate_moments(mean, spread))
    row = change_allocator(ALLOCATORS[name], options).for_groups(8)
    ones, zeros = np.ones(len(mean)), np.zeros(len(mean))
    rng = np.random.default_rng(seed)
    return Scene(row, budget, 4, 8, predicted, predicted.draw(rng), zeros, ones, rng)


RATES = np.array([0.02, 0.1, 0.3, 0.5, 0.6, 0.9, 0.99, 0.45])


def test_mopps_takes_the_nearest_to_one_half() -> None:
    tries = RULES["mopps"](scene("mopps", RATES, budget=24)).tries
    assert tries.tolist() == [0, 0, 0, 8, 8, 0, 0, 8]


def test_spo_draws_single_rollouts_by_the_standard_deviation() -> None:
    """Oracle: with one draw the shares are the weights √(pq) + 0.05; 4,000 draws, five standard errors."""
    counts = sum(RULES["spo"](scene("spo", RATES, budget=1, seed=seed)).tries for seed in range(4000))
    weight = np.sqrt(RATES * (1 - RATES)) + 0.05
    assert counts / 4000 == pytest.approx(weight / weight.sum(), abs=5 * (0.25 / 4000) ** 0.5)
    assert RULES["spo"](scene("spo", RATES, budget=6)).tries.max() == 1


def test_vip_minimizes_the_summed_variance() -> None:
    """Oracle: brute force over all splits of 16 rollouts over four prompts with 2 … 7 each."""
    rates = np.array([0.02, 0.2, 0.5, 0.9])
    tries = RULES["vip"](scene("vip", rates, budget=16, most=7)).tries
    spread = rates * (1 - rates)
    splits = [np.array(n) for n in itertools.product(range(2, 8), repeat=4) if sum(n) == 16]
    assert (spread / (tries - 1)).sum() == pytest.approx(min((spread / (n - 1)).sum() for n in splits), rel=1e-3)


def test_the_papers_rule_gives_tries_in_proportion_to_1_over_pq() -> None:
    rates = np.array([0.5, 0.2, 0.1])
    tries = RULES["paper"](scene("paper", rates, budget=213, most=200)).tries
    assert tries.sum() == 213 and tries / tries[0] == pytest.approx(0.25 / (rates * (1 - rates)), rel=0.03)


def test_rounding_goes_to_the_largest_remainders() -> None:
    """Hand value: 4.3, 4.9, 4.8 add up to 14; two of the three are rounded up."""
    asked = scene("paper", [0.5, 0.5, 0.5], budget=14, most=200, least=2)
    assert scale_to_budget(np.array([4.3, 4.9, 4.8]), asked).tolist() == [4, 5, 5]
    assert scale_to_budget(np.array([4.9, 4.3, 4.8]), asked).tolist() == [5, 4, 5]


def test_spending_is_optimal_within_one_jump() -> None:
    """Oracle: brute force on concave gains of four prompts."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        spread, cost = rng.uniform(0.01, 0.25, 4), rng.uniform(0.5, 2, 4)
        gains = learning_value(np.arange(6.0)[None, :], spread[:, None], 0.5)
        tries = spend(gains, cost, 8.0)
        assert tries @ cost <= 8.0
        value = gains[np.arange(4), tries].sum()
        best = max(
            gains[np.arange(4), n].sum() for n in itertools.product(range(6), repeat=4) if np.array(n) @ cost <= 8.0
        )
        assert value >= best - gains[:, 1].max()
        assert 8.0 - tries @ cost < 2.0, "the budget is spent"


def test_large_rho_makes_groups_small() -> None:
    """The utility of a second try of the same prompt vanishes with ρ: more prompts, fewer tries."""
    rates = np.linspace(0.05, 0.95, 40)
    sizes = []
    for rho in (0.001, 0.1, 10.0, 1000.0):
        tries = choose_noise_aware(scene("adaptive", rates, budget=80, rho=rho, most=32, variance=1.0)).tries
        sizes.append(float(tries[tries > 0].mean()))
        assert tries.sum() == 80
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] <= 3.0 < sizes[0]


def test_hopeless_and_solved_prompts_get_nothing_while_others_are_uncertain() -> None:
    tries = choose_noise_aware(scene("adaptive", [0.001, 0.5, 0.4, 0.999], budget=16)).tries
    assert tries[[0, 3]].tolist() == [0, 0] and tries.sum() == 16


def test_inclusion_probabilities_add_up_and_keep_their_floor() -> None:
    worth = np.array([0.0, 0.0, 1.0, 1.0, 20.0])
    inclusion = inclusion_probabilities(worth, 2, 0.1)
    assert inclusion.sum() == pytest.approx(2) and inclusion[4] == 1.0
    assert inclusion[:2].min() >= 0.1 * 2 / 5 and inclusion[2] == inclusion[3] > inclusion[0]
    assert inclusion_probabilities(np.zeros(4), 2, 0.1).tolist() == [0.5] * 4


def test_a_systematic_sample_has_the_probabilities_that_it_says() -> None:
    """Oracle: the share of starts in [0, 1) that draw each index, exact on a grid finer than the cuts."""
    inclusion = np.array([0.5, 0.125, 1.0, 0.375])
    for order in itertools.permutations(range(4)):
        counts = np.zeros(4)
        for start in (np.arange(64) + 0.5) / 64:
            drawn = systematic_sample(inclusion, float(start), np.array(order))
            assert len(drawn) == 2 == len(set(drawn.tolist()))
            counts[drawn] += 1
        assert counts / 64 == pytest.approx(inclusion)


def test_candidates_of_data_sets_and_streams() -> None:
    row = ALLOCATORS["mopps"]
    assert count_candidates(row, 8, None) == 1024 and count_candidates(row, 8, 1000) == 1000
    assert count_candidates(row, 8, 50_000) == 4096 and count_candidates(row, 8, 5) == 5
    assert count_candidates(change_allocator(row, {"candidates": 40}), 8, 1000) == 40
    few = ALLOCATORS["adaptive"]
    assert count_candidates(few, 8, None) == count_candidates(few, 8, 50_000) == 24 and count_candidates(few, 8, 5) == 5


def test_most_rollouts_of_a_prompt_are_the_group_size() -> None:
    row = ALLOCATORS["adaptive"]
    assert [row.for_groups(g).most for g in (16, 7, 2, 1)] == [16, 7, 2, 2]
    assert change_allocator(row, {"most": 40}).for_groups(8).most == 40


def test_a_spread_is_drawn_in_part_and_averaged_for_the_rest() -> None:
    """Identities: explore=0 is E[pq] of the belief, explore=1 is pq of one drawn rate; all have the same mean."""
    mean, variance = np.full(20_000, -1.5), np.full(20_000, 3.0)
    belief = Prediction(mean, variance, rate_moments(mean, variance))
    none, part, all_of_it = (belief.draw_spread(np.random.default_rng(1), share) for share in (0.0, 0.25, 1.0))
    assert none == pytest.approx(belief.rate.spread)
    drawn = belief.draw(np.random.default_rng(1))
    assert all_of_it == pytest.approx(drawn * (1 - drawn), abs=1e-9)
    assert [part.mean(), all_of_it.mean()] == pytest.approx([none[0]] * 2, rel=0.02)
    assert 0 < part.std() < all_of_it.std()


def test_thompson_draws_follow_the_belief() -> None:
    """Oracle: the normal's own quantiles: half of the draws on either side of the median rate."""
    mean, variance = np.full(4000, -1.0), np.full(4000, 4.0)
    drawn = Prediction(mean, variance, rate_moments(mean, variance)).draw(np.random.default_rng(0))
    assert np.mean(drawn < expit(-1.0)) == pytest.approx(0.5, abs=0.04)
    assert np.mean(drawn < expit(1.0)) == pytest.approx(0.841, abs=0.03)
