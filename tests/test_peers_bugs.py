"""Bugs of other trainers that no other test names (research note on peers, part C): ours behaves otherwise."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from maths_batches import MAX_TOKENS, batch_of, loss_and_gradient, make_group
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Counts
from onedial.core.maths.advantage import advantages
from onedial.core.maths.surrogate import log_ratio
from onedial.training.budget.allocation import Dynamic, Fixed, UniformSchedule
from onedial.training.trainer.packing import pack
from test_allocators import group, play

NAIVE = ALGORITHMS["naive_grpo"]


def test_c6_shaping_makes_no_group_worth_training_on() -> None:
    """C6 (verl-recipe 125): a length penalty tells three wrong answers apart. Oracle: by hand. keep='mixed' drops the
    group all the same, by its outcomes; keep='all' trains on it, from length alone, as its name says."""
    row = replace(NAIVE, name="row", overlong="penalty", overlong_buffer=4, dial=0.0)
    wrong = make_group([0.0, 0.0, 0.0], lengths=[4, 10, MAX_TOKENS])
    batch = batch_of(row, [wrong])
    assert batch["shaped_reward"].tolist() == [0.0, -0.5, -1.0]
    assert batch["advantage"].tolist() == pytest.approx([0.5, 0.0, -0.5])
    for keep_mixed, status in ((True, "silent"), (False, "trained")):
        allocator = Fixed(1, UniformSchedule(3), keep_mixed)
        allocator.answer([wrong])
        assert allocator.finish().statuses == {wrong.id: status}


def test_c11_the_end_token_trains_though_it_is_the_pad_token_too() -> None:
    """C11 (TRL 4970): a mask inferred from pad == eos drops the end of every completion. Oracle: the completion's own
    tokens: the last one, id 0 as pad and end, is in the mask, the counts and the gradient."""
    made = make_group([1.0, 0.0], lengths=[3, 5])
    ended = tuple(
        replace(r, completion=replace(r.completion, token_ids=(*r.completion.token_ids[:-1], 0))) for r in made.rollouts
    )
    batch = batch_of(NAIVE, [replace(made, rollouts=ended)])
    assert batch.tokens[batch.offsets[1:] - 1].tolist() == [0, 0] and batch.mask.all()
    assert Counts.of(batch).tokens == 8
    batch = batch.annotate(logp=torch.full((8,), -1.0))
    _, (gradient,) = loss_and_gradient(NAIVE, [batch], Counts.of(batch))
    assert gradient[batch.offsets[1:] - 1].abs().min() > 0


def test_c12_the_ratio_of_a_sequence_is_a_mean() -> None:
    """C12 (TRL 5814): a sum instead of a mean. Oracle: by hand: log-ratios 0.1, 0.3 of one, 0.6 of another."""
    difference, rollout = torch.tensor([0.1, 0.3, 0.6]), torch.tensor([0, 0, 1])
    got = log_ratio("sequence", difference, torch.zeros(3), rollout, 2)
    assert got.tolist() == pytest.approx([0.2, 0.2, 0.6])


def test_c13_a_small_spread_is_not_floored_and_no_sign_turns() -> None:
    """C13 (verl 6348, TRL 5026). Oracle: σ̂ by hand: rewards 0 and 0.002 have σ̂ 0.001, so A = ±0.001/(0.001 + eps),
    not ±0.001/floor; with a negative mean the better reward still has the positive advantage."""
    both = torch.tensor([0, 0])
    small = advantages(NAIVE, torch.tensor([0.0, 0.002]), both)
    assert small.tolist() == pytest.approx([-0.001 / 0.001001, 0.001 / 0.001001], rel=1e-6)
    negative = advantages(NAIVE, torch.tensor([-1.0, -3.0]), both)
    assert negative.tolist() == pytest.approx([1.0, -1.0], rel=1e-5)


def test_c15_no_resume_skips_or_repeats_a_prompt() -> None:
    """C15 (NeMo 3599, accelerate 4071): a run stopped after every iteration. Oracle: counting: positions 0, 1, 2 … each
    once, and the groups trained on are those of a run that never stopped, surplus included."""
    kinds = ["mixed", "right", "mixed", "wrong", "mixed", "mixed", "mixed"]
    whole, _ = play(Dynamic(2, UniformSchedule(2)), kinds, 6)
    trained, positions = [], []
    state, surplus = Dynamic(2, UniformSchedule(2)).state(), []
    for iteration in range(6):
        allocator = Dynamic(2, UniformSchedule(2))
        allocator.restore(json.loads(json.dumps(state)), surplus)
        allocator.start(iteration)
        while requests := allocator.ask():
            positions += [request.position for request in requests]
            allocator.answer([group(r.position, kinds[r.position % len(kinds)], iteration) for r in requests])
        trained.append([g.id for g in allocator.finish().train])
        state, surplus = allocator.state(), list(allocator.surplus)
    assert positions == list(range(len(positions)))
    assert trained == [[g.id for g in allocation.train] for allocation in whole]


def test_c17_no_prompt_is_retired_for_what_it_gave() -> None:
    """C17 (prime-rl 2667): pools that prompts leave and never enter again. Oracle: counting: of five prompts, one
    always right and one always wrong, each is asked as often as the others, epoch after epoch."""
    kinds = ["mixed", "right", "mixed", "wrong", "mixed"]
    _, generated = play(Dynamic(3, UniformSchedule(2)), kinds, 20)
    asked = Counter(g.position % 5 for g in generated)
    assert len(generated) >= 50 and max(asked.values()) - min(asked.values()) <= 1


def test_c17_age_discards_no_group() -> None:
    """C17 (tinker 822): discarding stale rollouts starves hard prompts. Oracle: groups that waited for several
    iterations train in the order they came, marked as stale, so that the ratio corrects for their age."""
    allocator = Dynamic(1, UniformSchedule(2))
    waiting = [group(position, "mixed", 0) for position in range(4)]
    allocator.restore({"position": 4, "mixed_rate": 0.5}, waiting)
    trained = []
    for iteration in range(1, 5):
        allocator.start(iteration)
        assert allocator.ask() == []
        trained += allocator.finish().train
    assert [g.id for g in trained] == [g.id for g in waiting]
    assert pack(trained[-1:], version=3)["stale"].all()
