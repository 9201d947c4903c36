"""Where planning stops, what it warns of, and the width of its intervals. Oracles: closed forms and exact bounds."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from onedial.analysis.planning.backtest import backtest_plan
from onedial.analysis.planning.counts import PromptCounts
from onedial.analysis.planning.discount import find_discount
from onedial.analysis.planning.export import export
from onedial.analysis.planning.limits import check_counts, check_plan_options, list_cautions, split_passes
from onedial.analysis.planning.planner import plan
from onedial.analysis.planning.posterior import believe
from onedial.analysis.planning.rho import assume_rho
from onedial.analysis.planning.strata import build_strata, rank_within
from onedial.core.errors import DataError


def counts_of(k: Any, n: Any, **options: Any) -> PromptCounts:
    k = np.asarray(k, dtype=float)
    n = np.broadcast_to(np.asarray(n, dtype=float), k.shape).copy()
    return PromptCounts(tuple(f"p{i}" for i in range(len(k))), k, n, np.ones_like(n), **options)


# --- options and counts ----------------------------------------------------------------------------------------


def test_the_ends_of_every_option_are_allowed_and_what_lies_beyond_is_not() -> None:
    fine = {"budget": 100.0, "unit": "rollouts", "group_size": 8, "fixed_size": None, "audit": 0.1}
    for name, allowed, refused in [
        ("group_size", (2, 4096), (1, 4097)),
        ("fixed_size", (2, 4096), (1, 4097)),
        ("audit", (0.0, 0.999), (-0.001, 1.0)),
        ("budget", (1e-9, 1e300), (0.0, -1.0)),
    ]:
        for value in allowed:
            check_plan_options(**fine | {name: value})  # type: ignore[arg-type]
        for value in refused:
            with pytest.raises(DataError, match=f"--{name.replace('_', '-')} "):
                check_plan_options(**fine | {name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("rho", "allowed"), [(1e-9, True), (1e9, True), (0.0, False), (-1.0, False)])
def test_rho_is_any_positive_number(rho: float, allowed: bool) -> None:
    if allowed:
        assert assume_rho(rho).value == rho
        return
    with pytest.raises(DataError, match=r"--rho .*: must lie in \[1e-09, 1e\+09\]"):
        assume_rho(rho)


def test_tokens_need_a_known_length_and_two_tries_are_the_least() -> None:
    check_counts(counts_of([1, 2], 4, tokens=np.array([np.nan, 0.5])), "tokens")
    for tokens in (None, np.array([np.nan, np.nan]), np.zeros(2)):
        with pytest.raises(DataError, match="nothing of completion lengths"):
            check_counts(counts_of([1, 2], 4, tokens=tokens), "tokens")
        check_counts(counts_of([1, 2], 4, tokens=tokens), "rollouts")
    check_counts(counts_of([1, 1], 2), "rollouts")
    with pytest.raises(DataError, match="single try"):
        check_counts(counts_of([1, 1, 1], [1, 1, 4]), "rollouts")


@pytest.mark.parametrize(
    ("budget", "passes"), [(1, 1), (240, 1), (240 + 1e-10, 1), (241, 2), (480, 2), (481, 3), (240_000, 1000)]
)
def test_passes_are_the_fewest_of_at_most_one_group_per_prompt(budget: float, passes: int) -> None:
    assert split_passes(budget, 240) == (passes, pytest.approx(budget / passes))


def test_more_than_a_thousand_passes_are_refused_with_the_most() -> None:
    with pytest.raises(DataError, match="plan at most 240,000 at once"):
        split_passes(240_001, 240)


def test_the_least_budget_that_is_named_is_enough_and_no_more() -> None:
    counts = counts_of([1, 2, 3], 4)
    with pytest.raises(DataError, match="less than one group of 8; give at least 16 rollouts") as told:
        plan(counts, 5, fixed_size=8, audit=0.5)
    least = int(re.findall(r"at least (\d+)", str(told.value))[0])
    assert plan(counts, least, fixed_size=8, audit=0.5).tries.sum() == 8
    with pytest.raises(DataError, match="less than one group"):
        plan(counts, least - 1, fixed_size=8, audit=0.5)


# --- warnings --------------------------------------------------------------------------------------------------


def told(counts: PromptCounts, size: int = 2, funded: float = 1e6) -> str:
    return " ".join(list_cautions(believe(counts), size, funded))


def test_each_caution_begins_where_it_says() -> None:
    many = [1, 2, 3] * 40  # 120 prompts: few funded means fewer than 16
    assert told(counts_of(many, 4)) == ""
    assert "Only 3 tries per prompt" in told(counts_of(many, 3)) and "tries per" not in told(counts_of(many, 4), 4)
    assert "G = 5 exceeds the 4 tries" in told(counts_of(many, 4), 5)
    assert "Only 15 prompts are funded" in told(counts_of(many, 4), funded=15)
    assert "funded" not in told(counts_of(many, 4), funded=16)
    assert "funded" in told(counts_of(many * 20, 4), funded=49), "at most fifty are asked for"
    assert "funded" not in told(counts_of(many * 20, 4), funded=50)
    assert "Only 29 prompts" in told(counts_of(many[:29], 4)) and "weak" not in told(counts_of(many[:30], 4))


def test_tries_that_follow_difficulty_are_told_from_tries_that_do_not() -> None:
    rng = np.random.default_rng(0)
    rates = rng.beta(0.7, 0.7, 600)
    by_plan = np.where(abs(rates - 0.5) > 0.3, 16, 4)
    by_chance = rng.permutation(by_plan)
    for n, follows in ((by_plan, True), (by_chance, False), (np.full(600, 8), False)):
        assert ("different numbers of tries" in told(counts_of(rng.binomial(n, rates), n))) is follows
    same = counts_of([2, 4] * 60, [4, 8] * 60)  # every rate is one half: nothing to follow
    assert "different numbers" not in told(same)


# --- intervals -------------------------------------------------------------------------------------------------


def test_where_rates_are_known_the_interval_is_the_luck_of_the_groups_alone() -> None:
    # oracle: a million tries determine each rate; the share of N silent groups is then a mean of N coin flips
    rates = np.repeat([0.2, 0.5, 0.9], 200)
    beliefs = believe(counts_of(rates * 1e6, 1e6))
    each = rates**8 + (1 - rates) ** 8
    value, (low, high) = beliefs.silent(8)
    assert value == pytest.approx(each.mean(), abs=2e-3)
    # other prompts of the same kind: a flip with the mean chance, whose spread includes that between prompts
    flips = 1.96 * np.sqrt(each.mean() * (1 - each.mean()) / 600)
    between = 1.96 * each.std() / np.sqrt(600)
    assert flips < (high - low) / 2 < np.hypot(flips, between) * 1.1
    # these prompts again: each flips its own coin
    _, (low, high) = beliefs.silent(8, new_prompts=False)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt((each * (1 - each)).mean() / 600), rel=0.05)
    chosen = rates == 0.9
    value, (low, high) = beliefs.predict_silent(chosen, 8)
    assert value == pytest.approx(each[-1], abs=2e-3)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(each[-1] * (1 - each[-1]) / 200), rel=0.1)


def test_refitted_priors_vary_as_much_as_prompts_drawn_anew_and_may_leave_the_fit() -> None:
    # oracle: the mean solve rate of N prompts drawn with replacement, whose standard error is known
    rng = np.random.default_rng(4)
    k = rng.binomial(8, rng.beta(0.8, 1.2, 400))
    beliefs = believe(counts_of(k, 8))
    means = beliefs.replicates(0, 200) @ beliefs.prior.points
    assert means.mean() == pytest.approx(k.mean() / 8, abs=0.005)
    assert means.std() == pytest.approx(k.std() / 8 / np.sqrt(400), rel=0.2)
    # a prior without any mass below one half is no reason to believe that no prompt is there
    high = np.where(beliefs.prior.points < 0.5, 0.0, beliefs.prior.mass)
    moved = replace(beliefs, prior=replace(beliefs.prior, mass=high / high.sum())).replicates(0, 5)
    assert (moved[:, beliefs.prior.points < 0.5].sum(axis=1) > 0.3).all()


def test_priors_refitted_to_survivors_are_of_all_prompts() -> None:
    # oracle: the Beta that made the rates; the prompts that show have a higher mean
    rng = np.random.default_rng(5)
    k = rng.binomial(6, rng.beta(1.0, 2.5, 3000))
    beliefs = believe(counts_of(k[(k > 0) & (k < 6)], 6, survivors_only=True))
    assert beliefs.replicates(0, 3) @ beliefs.prior.points == pytest.approx(1 / 3.5, abs=0.03)
    assert k[(k > 0) & (k < 6)].mean() / 6 > 1 / 3.5 + 0.08


def test_nothing_chosen_says_nothing() -> None:
    value, interval = believe(counts_of([1, 2, 3], 4)).predict_silent(np.zeros(3, dtype=bool), 8)
    assert np.isnan(value) and interval == (0.0, 1.0)


def test_four_tries_can_be_halved_and_three_cannot() -> None:
    rng = np.random.default_rng(0)
    rates = rng.beta(0.6, 0.6, 300)
    check = backtest_plan(counts_of(rng.binomial(4, rates), 4), 600, 8, unit="rollouts", rho=0.05)
    assert check is not None and check.prompts == 300 and check.group_size == 2, "two tries are left to look at"
    assert backtest_plan(counts_of(rng.binomial(3, rates), 3), 600, 8, unit="rollouts", rho=0.05) is None
    k = rng.binomial(4, rates[:100])
    assert backtest_plan(counts_of(k, 4), 300, 8, unit="rollouts", rho=0.05) is not None
    assert backtest_plan(counts_of(k[:99], 4), 300, 8, unit="rollouts", rho=0.05) is None


# --- strata and history ----------------------------------------------------------------------------------------


def test_costs_fall_into_twelve_equal_parts_of_each_count() -> None:
    # oracle: 1,200 prompts with equal counts and different lengths are twelve strata of a hundred, each at its mean
    tokens = np.random.default_rng(0).permutation(np.arange(1.0, 1201.0))
    counts = counts_of([2] * 1200, 4, tokens=tokens)
    strata = build_strata(believe(counts), tokens)
    assert strata.count.tolist() == [100.0] * 12
    order = np.argsort(tokens)
    assert strata.cost == pytest.approx(tokens[order].reshape(12, 100).mean(axis=1))
    assert (np.diff(strata.number[order]) >= 0).all(), "longer answers are in a dearer stratum"
    assert strata.cost_of_all == pytest.approx(tokens.sum())
    unknown = np.where(tokens > 1000, np.nan, tokens)
    filled = build_strata(believe(counts), unknown)
    assert filled.cost_of_all == pytest.approx(np.where(tokens > 1000, 500.5, tokens).sum()), "the mean of the known"


def test_ranks_are_a_random_order_within_each_stratum() -> None:
    counts = counts_of([0] * 50 + [2] * 30, 4)
    strata = build_strata(believe(counts), None)
    rank = rank_within(strata, 0)
    assert sorted(rank[:50]) == list(range(50)) and sorted(rank[50:]) == list(range(30))
    assert (rank != rank_within(strata, 1)).any() and (rank == rank_within(strata, 0)).all()
    first = [int(np.argmin(rank_within(strata, seed)[:50])) for seed in range(200)]
    assert len(set(first)) > 40, "each of fifty comes first sometimes"


def test_a_still_policy_is_not_discounted_and_few_visits_are_not_judged() -> None:
    rng = np.random.default_rng(2)
    prompts, visits = 600, 4
    rates = rng.beta(0.8, 0.8, prompts)
    k = rng.binomial(8, rates[:, None], (prompts, visits)).astype(float)

    def visited(k: np.ndarray) -> PromptCounts:
        number, iteration = np.indices(k.shape)
        history = (number.ravel(), iteration.ravel(), k.ravel(), np.full(k.size, 8.0))
        return counts_of(k.sum(axis=1), 8.0 * k.shape[1], history=history)

    assert find_discount(visited(k)) == 1.0
    assert find_discount(replace(visited(k), history=None)) == 1.0
    moved = np.where(np.arange(visits) < visits - 2, 8 - k[:, -1:], k)  # turned round before the last two visits
    assert find_discount(visited(moved)) == 0.2
    assert find_discount(visited(moved[:30])) < 1.0 and find_discount(visited(moved[:29])) == 1.0


def test_weights_of_the_funded_are_the_expected_optimal_ones() -> None:
    # oracle: E[m/(1 + ρmσ²)] over each posterior with m = size − 1, in mean 1 over the funded
    rng = np.random.default_rng(1)
    made = plan(counts_of(rng.binomial(8, rng.beta(0.8, 0.8, 400)), 8), 1500, fixed_size=4, rho=0.5)
    belief, p = made.beliefs.belief[made.beliefs.number], made.beliefs.prior.points
    weight = belief @ (3 / (1 + 0.5 * 3 * p * (1 - p)))
    funded = made.tries > 0
    assert 0 < funded.sum() < 400
    assert made.weight[funded] == pytest.approx(weight[funded] / weight[funded].mean())
    assert not made.weight[~funded].any()


def test_exported_betas_are_proper_even_where_nothing_varies() -> None:
    for k in (0.0, 1e6):
        a, b = believe(counts_of([k] * 50, 1e6)).beta()
        assert (a > 0).all() and (b > 0).all() and np.isfinite(a + b).all()
        assert a / (a + b) == pytest.approx(np.full(50, k / 1e6), abs=1e-3)


def test_impossible_counts_are_refused_with_the_prompts_name() -> None:
    for k, n in (([1, -1], 4), ([1, 5], 4), ([1, 1], [4, 0]), ([1, np.nan], 4)):
        with pytest.raises(DataError, match="prompt 'p1': .* right of"):
            counts_of(k, n)
    assert counts_of([0, 4], 4).k.tolist() == [0, 4]
    with pytest.raises(DataError, match="no prompt has counts"):
        counts_of([], 4)


def test_an_exported_plan_keeps_its_texts_readable(tmp_path: Path) -> None:
    counts = counts_of([2, 2, 2], 4)
    texts = pl.DataFrame({"prompt_id": counts.ids, "prompt": ["Größe?", "面积", "π/2"], "answer": ["1", "2", "3"]})
    export(plan(counts, 24), texts, "onedial", tmp_path / "plan.json")
    written = (tmp_path / "plan.json").read_text(encoding="utf-8")
    assert all(text in written for text in texts["prompt"]), "a person looks prompts up in this file"
