"""The synthetic learner: its costs by counting, its gradient and its silent share by the closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.maths import dispersion
from onedial.training.budget.allocation import Allocation, Fixed, RolloutRequest, UniformSchedule
from onedial.training.budget.simulate import Learner, Look, Trace, World, _compare, compare_allocators, simulate

ROW = ALGORITHMS["naive_grpo"]
SMALL = World(prompts=60, held_out=40, topics=6, dimensions=16)


def fixed(look: Look) -> Fixed:
    return Fixed(16, UniformSchedule(8))


def test_every_generated_token_is_counted() -> None:
    trace = simulate(SMALL, fixed, ROW, learning_rate=1.0, max_tokens=10**9, max_iterations=5)
    assert trace.rollouts.tolist() == [0, 128, 256, 384, 512, 640]
    # lengths 60 (wrong) and 40 (correct): the tokens say how many were correct
    correct = (60 * trace.rollouts - trace.tokens) / 20
    assert (correct == correct.round()).all() and 0 < correct[-1] < trace.rollouts[-1]
    assert (np.diff(trace.silent_tokens) >= 0).all() and trace.silent_tokens[-1] <= trace.tokens[-1]


def test_a_simulation_repeats_and_another_seed_differs() -> None:
    limits = {"learning_rate": 1.0, "max_tokens": 50_000}
    first, again = (simulate(SMALL, fixed, ROW, **limits) for _ in range(2))
    other = simulate(replace(SMALL, seed=1), fixed, ROW, **limits)
    assert np.array_equal(first.accuracy, again.accuracy) and np.array_equal(first.tokens, again.tokens)
    assert not np.array_equal(first.accuracy[: len(other.accuracy)], other.accuracy[: len(first.accuracy)])


def test_silent_share_is_that_of_the_solve_rates() -> None:
    """Oracle: E[p^G + q^G] over the prompts, five standard errors of 3,000 groups."""
    learner = Learner(SMALL)
    groups = [learner.answer(RolloutRequest(position, 8), 1) for position in range(3000)]
    wanted = float(dispersion.expected_silent_share(learner.solve_rates(), 8))
    assert np.mean([not group.mixed for group in groups]) == pytest.approx(wanted, abs=5 * (0.25 / 3000) ** 0.5)
    dead = learner.solve_rates() == 0
    assert dead.any()
    assert all(max(g.rewards) == 0 for g in groups if dead[int(g.prompt.text)])


@pytest.mark.parametrize("row", ["dr_grpo", "naive_grpo"])
def test_the_mean_step_is_the_expected_gradient(row: str) -> None:
    """Oracle: E[gradient of a group] = W(p)·∇p with ∇p = pq·u, by the closed form of `dispersion.weight`."""
    world = replace(SMALL, rho=1e6, dead_share=0.0)
    learner = Learner(world)
    position = next(p for p in range(60) if 0.2 < learner.solve_rates()[learner.prompt_at(p)] < 0.8)
    number = learner.prompt_at(position)
    p, skill = learner.solve_rates()[number], learner._skills[number]
    steps = []
    for _ in range(4000):
        learner.theta = np.zeros(world.dimensions)
        learner.learn(Allocation([learner.answer(RolloutRequest(position, 8), 1)], {}), ALGORITHMS[row], 1.0)
        steps.append(learner.theta)
    along = np.array(steps) @ skill / (skill @ skill)
    wanted = float(dispersion.weight(p, 8, alpha=ALGORITHMS[row].dial)) * p * (1 - p)
    assert along.mean() == pytest.approx(wanted, abs=5 * along.std() / 4000**0.5)


def test_noise_has_the_size_that_rho_says() -> None:
    """Oracle: the score of a rollout is noise of squared norm 4/ρ where the reward tells nothing (advantage ±1)."""
    world = replace(SMALL, rho=0.01)
    learner = Learner(world)
    group = learner.answer(RolloutRequest(0, 400), 1)
    position = 0
    while not group.mixed:
        position += 1
        group = learner.answer(RolloutRequest(position, 400), 1)
    steps = []
    for _ in range(300):
        learner.theta = np.zeros(world.dimensions)
        learner.learn(Allocation([group], {}), ROW, 1.0)
        steps.append(learner.theta)
    noise = np.var(steps, axis=0, ddof=1).sum() * 400  # A² averages 1, so a step has 1/400 of one rollout's noise
    assert noise == pytest.approx(4 / world.rho, rel=0.1)


def test_an_allocator_beside_itself_needs_the_same() -> None:
    allocators = {"one": fixed, "two": fixed}
    first, second = compare_allocators(
        SMALL, allocators, ROW, target=0.35, learning_rates=[1.0], max_tokens=400_000, seeds=3
    )
    assert first.reached == second.reached == 3
    assert second.ratio == 1.0 and second.interval == (1.0, 1.0) and second.tokens == first.tokens


def test_a_target_out_of_reach_is_said_to_be_so() -> None:
    (only,) = compare_allocators(
        SMALL, {"a": fixed}, ROW, target=0.9999, learning_rates=[0.1], max_tokens=20_000, seeds=2
    )
    assert only.reached == 0 and only.interval is None and np.isnan(only.ratio)


def test_each_allocator_gets_its_own_learning_rate_on_seeds_of_its_own() -> None:
    """Oracle: the tokens of every rate on the tuning seeds, one by one."""
    rates, limits = (0.02, 1.0), {"target": 0.35, "max_tokens": 200_000}
    (found,) = compare_allocators(SMALL, {"a": fixed}, ROW, learning_rates=rates, seeds=1, **limits)
    costs = [
        simulate(replace(SMALL, seed=seed), fixed, ROW, learning_rate=rate, **limits).cost_to(0.35)
        for rate in rates
        for seed in (1, 2)
    ]
    assert max(costs[2:]) < min(costs[:2]) and found.learning_rate == 1.0


def test_prompts_share_their_skills_as_the_world_says() -> None:
    """Oracle: E[u_i · u_j] = shared for two topics, shared + topical within one; all of norm 2."""
    world = World(prompts=300, held_out=300, topics=2, dimensions=400, shared=0.2, topical=0.5, dead_share=0.3)
    learner = Learner(world)
    cosines = learner._skills @ learner._skills.T / 4.0
    assert np.diag(cosines) == pytest.approx(np.ones(600))
    others = cosines[np.triu_indices(600, 1)]
    within, between = others[others > 0.45], others[others <= 0.45]
    assert within.mean() == pytest.approx(0.7, abs=0.05) and between.mean() == pytest.approx(0.2, abs=0.12)
    assert len(within) == pytest.approx(600 * 599 / 4, rel=0.05), "two topics, half of the prompts each"
    rates = learner.solve_rates()
    assert len(rates) == 300 and (rates == 0).mean() == pytest.approx(0.3, abs=0.08)
    assert (learner._rates(slice(300, None)) > 0).all() and learner.accuracy() > 0


def test_every_epoch_is_another_shuffle_of_all_prompts() -> None:
    learner = Learner(SMALL)
    epochs = [[learner.prompt_at(60 * epoch + place) for place in range(60)] for epoch in range(3)]
    assert all(sorted(order) == list(range(60)) for order in epochs) and epochs[0] != epochs[1] != epochs[2]
    assert learner.answer(RolloutRequest(61, 1), 1).prompt.text == str(epochs[1][1])


def trace(tokens: list[float], accuracy: list[float], silent: float = 0.0) -> Trace:
    column = np.array(tokens)
    return Trace(column / 10, column, np.full(len(tokens), silent), np.array(accuracy))


def test_a_comparison_by_hand() -> None:
    """Two of three pairs reach 0.5: ratios 200/100 and 800/100, of logarithmic mean log 4."""
    own = [
        trace([0, 100, 200], [0.1, 0.5, 0.6], silent=20),
        trace([0, 50, 100], [0.1, 0.4, 0.5], silent=30),
        trace([0, 700], [0.1, 0.2], silent=50),
    ]
    assert own[1].cost_to(0.5) == 100 and own[1].cost_to(0.5, of="rollouts") == 10 and own[2].cost_to(0.5) == np.inf
    found = _compare("a", 0.3, np.array([200.0, 800.0, 300.0]), own, 0.5)
    assert (found.name, found.learning_rate, found.reached) == ("a", 0.3, 2)
    assert found.ratio == pytest.approx(4.0) and found.tokens == pytest.approx(100.0)
    assert found.silent_token_share == pytest.approx(100 / 1000)
    half = 12.706204736 * np.log(2) * np.sqrt(2) / np.sqrt(2)  # Student's quantile with one degree; deviation √2·log 2
    assert found.interval == pytest.approx((4 / np.exp(half), 4 * np.exp(half)))
    single = _compare("a", 0.3, np.array([200.0, np.inf, np.inf]), own, 0.5)
    assert single.interval is None and single.ratio == pytest.approx(2.0)


def test_a_simulation_ends_at_the_first_of_its_limits() -> None:
    limits = {"learning_rate": 1.0, "max_tokens": 10**9}
    by_tokens = simulate(SMALL, fixed, ROW, learning_rate=1.0, max_tokens=10_000)
    assert by_tokens.tokens[-2] < 10_000 <= by_tokens.tokens[-1]
    assert len(simulate(SMALL, fixed, ROW, **limits, max_iterations=3).tokens) == 4
    start = Learner(SMALL).accuracy()
    reached = simulate(SMALL, fixed, ROW, **limits, max_iterations=200, target=start + 0.02)
    assert reached.accuracy[-1] >= start + 0.02 > reached.accuracy[-2]
