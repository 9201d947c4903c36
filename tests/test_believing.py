"""Allocators that act on a belief, and Reinforce-Ada. Oracles: enumeration, a run that never stopped, hand values."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.allocator_table import ALLOCATORS, change_allocator
from onedial.core.errors import DataError
from onedial.core.maths.advantage import advantages
from onedial.core.settings import Run
from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
from onedial.training.budget.allocation import Allocation, RolloutRequest, UniformSchedule, join_rounds
from onedial.training.budget.believing import Believing
from onedial.training.budget.noise_aware import choose_noise_aware
from onedial.training.budget.open_allocator import open_allocator
from onedial.training.budget.sequential import Sequential

TABLE = [name for name in ALLOCATORS if name not in ("row", "dynamic")]
ROWS = {"spo": "posterior", "adaptive": "posterior"}


def look(position: int) -> Prompt:
    """An endless stream: harder with larger numbers."""
    a, b = position * 7 % 50, position * 13 % 40
    return Prompt(f"{a} + {b}", source="sums", meta={"level": f"level {position % 3}"})


def solve_rate(prompt: Prompt) -> float:
    a, b = map(int, prompt.text.split(" + "))
    return float(1 / (1 + np.exp((a + b) / 12 - 3)))


def rollout(index: int, hit: bool) -> Rollout:
    tokens = (1,) * (3 if hit else 5)
    return Rollout(index, Completion(tokens, (0.0,) * len(tokens), "stop"), Verdict(float(hit), correct=hit))


def answered(request: RolloutRequest, iteration: int) -> Group:
    prompt = look(request.position)
    rng = np.random.default_rng([request.position, iteration, request.first])
    hits = rng.random(request.count) < solve_rate(prompt)
    rollouts = tuple(rollout(i, bool(hit)) for i, hit in enumerate(hits, request.first))
    return Group(prompt, rollouts, iteration, request.position)


def play(allocator: Any, first: int, last: int) -> list[tuple[Allocation, list[Group]]]:
    played = []
    for iteration in range(first, last + 1):
        allocator.start(iteration)
        groups: list[Group] = []
        while requests := allocator.ask():
            answers = [answered(request, iteration) for request in requests]
            allocator.answer(answers)
            groups.extend(answers)
        played.append((allocator.finish(), join_rounds(groups)))
    return played


def made(name: str, size: int | None = None, **options: Any) -> Any:
    row = change_allocator(ALLOCATORS[name], options)
    run = Run(algorithm=ALGORITHMS[ROWS.get(name, "naive_grpo")], allocator=row, prompts_per_iteration=6, group_size=4)
    resolved = run.resolved()
    return open_allocator(resolved, UniformSchedule(resolved.group_size), look, size)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("size", [None, 60])
def test_an_allocator_repeats_and_resumes(name: str, size: int | None) -> None:
    """Invariance: a state through JSON after three iterations leads to the same decisions, weights and figures."""
    first = made(name, size)
    whole = play(first, 1, 6)
    half = made(name, size)
    again = play(half, 1, 3)
    second = made(name, size)
    second.restore(json.loads(json.dumps(half.state())), [])
    assert repr(whole) == repr([*again, *play(second, 4, 6)])


@pytest.mark.parametrize("name", TABLE)
def test_every_group_is_accounted_for_and_the_budget_is_kept(name: str) -> None:
    """Invariance: statuses of all groups, positions never used twice, and 6 × 4 rollouts an iteration."""
    seen: set[int] = set()
    for allocation, groups in play(made(name), 1, 5):
        assert set(allocation.statuses) == {group.id for group in groups}
        assert {group.id for group in allocation.train} <= set(allocation.statuses)
        positions = {group.position for group in groups}
        assert len(positions) == len(groups) and not positions & seen
        seen |= positions
        rollouts = sum(len(group.rollouts) for group in groups)
        if name != "sequential":
            assert rollouts <= 24 + 2
            assert rollouts >= {"mopps": 24, "vip": 24, "spo": 24}.get(name, 18)
        for group in allocation.train:
            expected = allocation.expectations.get(group.id)
            assert expected is None or len(expected.baselines) == len(group.usable)


def test_rounds_of_a_prompt_are_one_group_with_a_baseline_of_each_round() -> None:
    """Three rounds: indices count on, and each rollout's baseline is of its own round: others and the belief before."""
    allocator = made("adaptive", rounds=3, most=4, audit=0.0)
    for allocation, groups in play(allocator, 1, 4):
        for group in groups:
            assert [r.index for r in group.rollouts] == list(range(len(group.rollouts)))
        weights = [w for e in allocation.expectations.values() for w in e.weights or ()]
        assert len(weights) == sum(len(group.rollouts) for group in groups)
        assert np.mean(weights) == pytest.approx(1.0) and min(weights) >= 0.0
    assert any(len(group.rollouts) > 4 for group in groups), "a prompt may be asked for again"


def test_weights_are_those_of_the_tries_that_a_prompt_got() -> None:
    """Oracle: w ∝ m/(1 + ρmσ²) with m = n(ν + n − 1)/(ν + n), divided evenly among n rollouts; mean 1 over all."""
    allocator = made("adaptive", rounds=1, audit=0.0, least=1, most=16)
    play(allocator, 1, 3)
    allocator.start(4)
    positions = allocator.candidates.positions(4)
    before = allocator.belief.predict([allocator.candidates.describe(position) for position in positions]).rate
    groups = [answered(request, 4) for request in allocator.ask()]
    allocator.answer(groups)
    known = allocator.finish().expectations
    each = []
    for group in groups:
        n, index = len(group.rollouts), group.position - positions.start
        m = n * (before.strength[index] + n - 1) / (before.strength[index] + n)
        each.append(m / (1 + allocator.row.rho * m * before.spread[index]) / n)
        assert len(set(known[group.id].weights)) == 1
    sizes = [len(group.rollouts) for group in groups]
    assert len(set(sizes)) > 1
    scaled = np.array(each) / np.average(each, weights=sizes)
    assert [known[group.id].weights[0] for group in groups] == pytest.approx(scaled)


def test_audits_are_drawn_uniformly_and_calibration_counts_them_alone() -> None:
    allocator = made("adaptive", audit=0.25, candidates=40)
    played = play(allocator, 1, 30)
    audited = [e for allocation, _ in played for e in allocation.expectations.values() if e.audit]
    assert len(audited) == 30 * 6 == allocator.calibration.prompts
    places = [g.position % 40 for a, groups in played for g in groups if a.expectations[g.id].audit]
    assert np.bincount(places, minlength=40).max() <= 14, "4.5 of 180 per place on average"
    figures = played[-1][0].figures
    assert figures["audit_prompts"] == 6 and figures["candidates"] == 40
    everyone = play(made("vip"), 1, 2)[-1][0]
    assert all(expected.audit for expected in everyone.expectations.values()), "its prompts come in turn"


def test_it_learns_where_to_look() -> None:
    """Oracle: the true solve rates: of 60 prompts, those chosen later have more spread than the average prompt has."""
    allocator = made("adaptive", 60, candidates=60, drift=0.02)
    chosen = [g for a, groups in play(allocator, 1, 25)[10:] for g in groups if not a.expectations[g.id].audit]
    rates = np.array([solve_rate(group.prompt) for group in chosen])
    everywhere = np.array([solve_rate(look(position)) for position in range(60)])
    assert (rates * (1 - rates)).mean() > 1.2 * (everywhere * (1 - everywhere)).mean()
    assert allocator.calibration.error is not None and allocator.calibration.error < 0.2, (
        "50 audits, cold start included"
    )


def test_unusable_rollouts_are_no_evidence() -> None:
    """A timeout is neither correct nor wrong: the group counts its usable rollouts, and may have none."""
    allocator = made("adaptive")
    allocator.start(1)
    failed = Verdict(0.0, outcome="timeout")
    groups = []
    for request in allocator.ask():
        group = answered(request, 1)
        broken = tuple(replace(r, verdict=failed) if request.position % 2 else r for r in group.rollouts)
        groups.append(replace(group, rollouts=broken))
    allocator.answer(groups)
    allocation = allocator.finish()
    for group in groups:
        odd = group.position % 2 == 1
        assert (allocation.statuses[group.id] == "unusable") == odd
        assert len(allocation.expectations[group.id].baselines) == (0 if odd else len(group.rollouts))


def test_a_verdict_without_correct_is_one_clear_error() -> None:
    allocator = made("adaptive")
    allocator.start(1)
    graded = Verdict(0.3, correct=None)
    groups = [answered(request, 1) for request in allocator.ask()]
    groups = [replace(g, rollouts=tuple(replace(r, verdict=graded) for r in g.rollouts)) for g in groups]
    with pytest.raises(DataError, match="does not say whether it is correct.*correct_at"):
        allocator.answer(groups)


# --- unbiased ----------------------------------------------------------------------------------------------------

UNBIASED = replace(ALGORITHMS["posterior"], name="exact", aggregate="sequence_sum")
RATES = {"0 + 0": 0.3, "7 + 13": 0.9, "14 + 26": 0.5}


def expected_gradient(allocator: Believing, iteration: int, starts: int) -> dict[str, float]:
    """E of the step's gradient by prompt, over every draw of prompts and every outcome of their rollouts.

    Each prompt has a logit of its own, so that the score of a rollout is r − p; the loss is the sum over rollouts of
    advantage · log p divided by their number, as aggregate="sequence_sum" has it.
    """
    total = dict.fromkeys(RATES, 0.0)
    draws = list(itertools.product(np.arange(starts) / starts + 0.5 / starts, itertools.permutations(range(3))))
    saved = allocator.state()
    parts: dict[tuple[Any, ...], dict[str, float]] = {}  # many draws choose the same prompts and tries
    for start, order in draws:
        allocator.rule = lambda scene, s=start, o=order: choose_noise_aware(replace(scene, rng=Scripted(s, o)))
        allocator.start(iteration)
        chosen = tuple((request.position, request.first, request.count) for request in allocator.ask())
        allocator.restore(saved, [])
        if chosen not in parts:
            parts[chosen] = dict.fromkeys(RATES, 0.0)
            for outcome in outcomes_of(allocator, iteration, saved):
                for name, part in outcome.items():
                    parts[chosen][name] += part
            allocator.restore(saved, [])
        for name, part in parts[chosen].items():
            total[name] += part / len(draws)
    assert 1 < len(parts) < len(draws)
    return total


class Scripted:
    """Gives the start and the order of a systematic sample."""

    def __init__(self, start: float, order: Any) -> None:
        self.start, self.order = start, np.array(order)

    def random(self) -> float:
        return self.start

    def permutation(self, count: int) -> Any:
        return self.order


def outcomes_of(allocator: Believing, iteration: int, saved: Any) -> Any:
    """The gradient of every outcome of one draw of prompts, times its probability."""
    allocator.start(iteration)
    requests = allocator.ask()
    counts = [request.count for request in requests]
    for hits in itertools.product((False, True), repeat=sum(counts)):
        allocator.restore(saved, [])
        allocator.start(iteration)
        allocator.ask()
        ends = np.cumsum(counts)
        groups = [
            Group(
                look(q.position), tuple(rollout(i, hit) for i, hit in enumerate(hits[e - q.count : e])), 1, q.position
            )
            for q, e in zip(requests, ends, strict=True)
        ]
        allocator.answer(groups)
        allocation = allocator.finish()
        chance = np.prod([RATES[g.prompt.text] if r else 1 - RATES[g.prompt.text] for g in groups for r in g.rewards])
        yield {name: float(chance) * part for name, part in step_of(allocation).items()}


def step_of(allocation: Allocation) -> dict[str, float]:
    groups = allocation.train
    rewards = torch.tensor([reward for group in groups for reward in group.rewards], dtype=torch.double)
    number = torch.tensor([g for g, group in enumerate(groups) for _ in group.usable])
    known = [allocation.expectations[group.id] for group in groups]
    advantage = advantages(
        UNBIASED,
        rewards,
        number,
        expected=torch.tensor([b for e in known for b in e.baselines], dtype=torch.double),
        weight=torch.tensor([w for e in known for w in e.weights or ()], dtype=torch.double),
    )
    rates = torch.tensor([RATES[groups[int(g)].prompt.text] for g in number])
    parts = advantage * (rewards - rates) / len(rewards)
    return {group.prompt.text: float(parts[number == g].sum()) for g, group in enumerate(groups)}


def test_unbiased_has_the_expected_gradient_of_uniform_sampling() -> None:
    """Oracle: enumeration of every draw and every outcome: E = ∇p/N = pq/N for each prompt, whatever was believed."""
    row = change_allocator(ALLOCATORS["adaptive"], {"unbiased": True, "candidates": 3, "audit": 0.0, "floor": 0.3})
    run = Run(algorithm=UNBIASED, allocator=row, prompts_per_iteration=2, group_size=2).resolved()
    allocator = open_allocator(run, UniformSchedule(2), look, None)
    assert isinstance(allocator, Believing)
    allocator.candidates = replace(allocator.candidates, size=3)
    allocator.start(1)  # a belief that is wrong: the second prompt is taken for impossible
    prompts = [allocator.candidates.describe(position) for position in range(3)]
    for prompt, solved in zip(prompts, (2, 0, 3), strict=True):
        allocator.belief.observe(prompt, solved, 8)
    inclusion = choose_noise_aware(allocator._scene(allocator.belief.predict(prompts), np.random.default_rng(0), 0.0))
    assert inclusion.inclusion is not None and np.ptp(inclusion.inclusion) > 0.05, "not uniform by accident"
    found = expected_gradient(allocator, 1, starts=256)
    for name, rate in RATES.items():
        assert found[name] == pytest.approx(rate * (1 - rate) / 3, rel=0.02)


# --- Reinforce-Ada -----------------------------------------------------------------------------------------------


def sequential(**options: Any) -> Sequential:
    allocator = made("sequential", **options)
    assert isinstance(allocator, Sequential)
    return allocator


def feed(allocator: Sequential, patterns: list[str]) -> tuple[Allocation, list[list[RolloutRequest]]]:
    """Plays one iteration in which prompt i draws the marks of patterns[i], "1" correct."""
    allocator.start(1)
    rounds = []
    while requests := allocator.ask():
        rounds.append(requests)
        allocator.answer(
            [
                Group(
                    look(q.position),
                    tuple(rollout(i, patterns[q.position][i] == "1") for i in range(q.first, q.first + q.count)),
                    1,
                    q.position,
                )
                for q in requests
            ]
        )
    return allocator.finish(), rounds


def test_reinforce_ada_stops_when_both_kinds_were_seen() -> None:
    """Hand values: rounds of 4, at most 3, balanced 2 + 2: prompt 0 leaves after one round, 1 after two, 2 never."""
    patterns = ["1100" + "0" * 8, "1000" + "0100" + "0" * 4, "0" * 12, "1" * 12, "0001" + "1110" + "0000", "10" * 6]
    allocation, rounds = feed(sequential(rounds=3, round_size=4, kept=4), patterns)
    assert [[q.position for q in requests] for requests in rounds] == [list(range(6)), [1, 2, 3, 4], [2, 3]]
    assert [q.first for q in rounds[1]] == [4] * 4 and [q.first for q in rounds[2]] == [8] * 2
    kept = {group.position: group.rewards for group in allocation.train}
    assert [sum(kept[p]) for p in range(6)] == [2, 2, 0, 4, 2, 2] and {len(r) for r in kept.values()} == {4}
    pool = {g.position: allocation.expectations[g.id].baselines for g in allocation.train}
    assert [pool[p][0] for p in range(6)] == [0.5, 0.25, 0.0, 1.0, 0.5, 0.5], "the mean of all that was drawn"


def test_reinforce_ada_positive_stops_at_the_first_correct_rollout() -> None:
    allocation, rounds = feed(sequential(rounds=2, round_size=2, exit="positive", kept=2), ["1111"] + ["0010"] * 5)
    assert [q.position for q in rounds[1]] == [1, 2, 3, 4, 5]
    kept = {group.position: sorted(group.rewards) for group in allocation.train}
    assert kept[0] == [1.0, 1.0] and kept[1] == [0.0, 1.0]
