"""Groups to batches: shaping, masks, staleness, optimiser steps and micro-batches."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maths_batches import MAX_TOKENS, batch_of, make_batch, make_group, ragged_groups
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch, Counts
from onedial.core.types import Group
from onedial.training.trainer.advantages import add_advantages
from onedial.training.trainer.packing import make_micro_batches, pack, split_minibatches
from onedial.training.trainer.run_writer import collect_signals

ROW = ALGORITHMS["naive_grpo"]
LENGTHS = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=9), min_size=1, max_size=9)


def _identity(batch: Batch) -> Counter[tuple[str, tuple[int, ...]]]:
    """Every row by its group's name and its tokens."""
    bounds = batch.offsets.tolist()
    names = [batch.group_ids[number] for number in batch.group.tolist()]
    tokens = batch.tokens.tolist()
    rows = zip(names, bounds[:-1], bounds[1:], strict=True)
    return Counter((name, tuple(tokens[start:stop])) for name, start, stop in rows)


def _batch(lengths: list[list[int]], prompts: list[int] | None = None) -> Batch:
    groups = [
        make_group(
            [float(row % 2) for row in range(len(rows))],
            lengths=rows,
            position=position,
            prompt_tokens=range(prompts[position] if prompts else position % 5 + 1),
        )
        for position, rows in enumerate(lengths)
    ]
    return add_advantages(ROW, pack(groups), max_new_tokens=30)


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(1, 200))
def test_micro_batches_cover_every_row_once_within_the_budget(lengths: list[list[int]], budget: int) -> None:
    """Oracle: counting. No part exceeds the budget unless it is one row that alone does, or a prompt leaves less than
    half of the budget to its completions, which then take that half; nothing lost or doubled."""
    batch = _batch(lengths)
    parts = make_micro_batches(batch, budget)
    assert sum((_identity(part) for part in parts), Counter()) == _identity(batch)
    for part in parts:
        size = len(part.tokens) + len(part.prompt_tokens)
        long_prompt = len(part.prompt_tokens) > budget - budget // 2
        assert size <= budget or part.num_rollouts == 1 or (long_prompt and len(part.tokens) <= budget // 2)
    assert Counts.of(*parts) == Counts.of(batch)


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(1, 200))
def test_micro_batches_keep_groups_that_fit_together(lengths: list[list[int]], budget: int) -> None:
    """Oracle: a group whose prompt and rows fit the budget is in one part, so its prompt is computed once."""
    batch = _batch(lengths)
    parts = make_micro_batches(batch, budget)
    for position, rows in enumerate(lengths):
        name = batch.group_ids[position]
        inside = sum(name in part.group_ids for part in parts)
        if sum(rows) + position % 5 + 1 <= budget:
            assert inside == 1
        assert 1 <= inside <= len(rows)


def test_a_micro_batch_of_no_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens=0"):
        make_micro_batches(_batch([[3, 4]]), 0)
    assert len(make_micro_batches(_batch([[3, 4]]), 1)) == 2, "one token is the least: a rollout each"


def test_a_large_budget_makes_one_part() -> None:
    """Oracle: everything fits, so one part holds all rows."""
    batch = make_batch(ROW)
    assert len(make_micro_batches(batch, 10**6)) == 1


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(0, 99))
def test_optimiser_steps_partition_the_groups(lengths: list[list[int]], updates: int, seed: int) -> None:
    """Oracle: counting. Every group is whole in exactly one step, the steps' sizes differ by one group at most."""
    batch = _batch(lengths)
    steps = [batch.select(part) for part in split_minibatches(batch, updates, seed)]
    assert len(steps) == min(updates, len(lengths))
    assert sum((_identity(step) for step in steps), Counter()) == _identity(batch)
    names = [name for step in steps for name in step.group_ids]
    assert sorted(names) == sorted(batch.group_ids)
    sizes = [len(step.group_ids) for step in steps]
    assert max(sizes) - min(sizes) <= 1
    again = [batch.select(part) for part in split_minibatches(batch, updates, seed)]
    assert [step.group_ids for step in again] == [step.group_ids for step in steps]


def test_steps_are_shuffled_by_the_seed() -> None:
    """Oracle: 9 groups in 3 steps under ten seeds cannot all be dealt alike."""
    batch = make_batch(ROW)
    assert len({tuple(split_minibatches(batch, 3, seed)[0].tolist()) for seed in range(10)}) > 1
    (everything,) = split_minibatches(batch, 1, 5)
    assert everything.tolist() == list(range(batch.num_rollouts))


def test_failed_verdicts_leave_before_any_statistic() -> None:
    """C7: rows without a verdict go before grouping; the rest of their group stays a group, of whatever size.

    Oracle: by hand: [1, timeout, 0, error, 1] is the group [1, 0, 1]: A = ⅓, −⅔, ⅓ with dial 0; neighbours as alone.
    """
    row = replace(ROW, name="row", dial=0.0)
    broken = make_group(
        [1.0, 0.0, 0.0, 0.0, 1.0], outcomes=["correct", "timeout", "wrong", "error", "correct"], position=0
    )
    dead = make_group([0.0, 0.0], outcomes=["error", "timeout"], position=1)
    whole = make_group([1.0, 0.0], position=2)
    packed = batch_of(row, [broken, dead, whole])
    assert packed.group.tolist() == [0, 0, 0, 2, 2]
    assert packed["advantage"].tolist() == pytest.approx([1 / 3, -2 / 3, 1 / 3, 0.5, -0.5])
    assert Counts.of(packed).groups == 2
    values = collect_signals([broken, dead, whole], packed)
    assert [index for name, index in values if name == broken.id] == [0, 2, 4]
    assert not any(name == dead.id for name, _ in values)
    assert sorted(torch.cat(split_minibatches(packed, 3, 0)).tolist()) == [0, 1, 2, 3, 4]


def test_nothing_usable_packs_to_nothing() -> None:
    """Oracle: a group of failures alone gives a batch without rows, and no error."""
    packed = batch_of(ROW, [make_group([0.0], outcomes=["timeout"])])
    assert packed.num_rollouts == 0
    assert Counts.of(packed) == Counts(0, 0, 0)
    assert make_micro_batches(packed, 10) == []


def _dapo_groups() -> tuple[Group, Group]:
    return (
        make_group([0.0, 0.0, 0.0], lengths=[4, 10, MAX_TOKENS], position=0),
        make_group([1.0, 0.0], lengths=[9, 8], position=1),
    )


def test_overlong_penalty_shapes_the_reward() -> None:
    """Oracle: by hand with a limit of 12 and a buffer of 4: 0 up to 8 tokens, −¼ at 9, −½ at 10, −1 at 12."""
    row = replace(ROW, name="row", overlong="penalty", overlong_buffer=4)
    groups = _dapo_groups()
    packed = batch_of(row, groups)
    assert packed["shaped_reward"].tolist() == [0.0, -0.5, -1.0, 0.75, 0.0]
    assert packed.rollout_mask.all()


def test_dapo_shapes_the_reward() -> None:
    """Oracle: by hand from Eq. 7 and 13: ±1, and a penalty over a fifth of the limit of 12, that is 2 tokens: 0 up to
    10, −½ at 11, −1 at 12. Of 20,480 tokens a fifth is the paper's 4,096."""
    group = make_group([1.0, 0.0, 1.0, 0.0], lengths=[10, 10, 11, MAX_TOKENS])
    assert batch_of(ALGORITHMS["dapo"], [group])["shaped_reward"].tolist() == [1.0, -1.0, 0.5, -2.0]
    assert [ALGORITHMS["dapo"].penalty_buffer(limit) for limit in (20480, 4)] == [4096, 1]


def test_penalty_and_mask_can_be_combined() -> None:
    """Oracle: by hand: the penalty of the penalty alone, the mask of the mask alone; what is left out of the loss stays
    in its group's statistic, penalized."""
    row = replace(ROW, name="row", overlong="mask_and_penalty", overlong_buffer=4, dial=0.0)
    packed = batch_of(row, [make_group([1.0, 1.0, 1.0], lengths=[8, 10, MAX_TOKENS])])
    assert packed["shaped_reward"].tolist() == [1.0, 0.5, 0.0]
    assert packed["advantage"].tolist() == [0.5, 0.0, -0.5]
    assert packed.rollout_mask.tolist() == [True, True, False]
    assert Counts.of(packed) == Counts(tokens=18, sequences=2, groups=1, positive_tokens=18)


def test_signed_rewards_are_twice_the_reward_minus_one() -> None:
    """Oracle: by hand: 0, ½ and 1 become −1, 0 and 1, with verdicts correct and wrong."""
    row = replace(ROW, name="row", reward="signed")
    assert batch_of(row, [make_group([0.0, 0.5, 1.0])])["shaped_reward"].tolist() == [-1.0, 0.0, 1.0]


def test_shaping_does_not_make_a_unanimous_group_mixed() -> None:
    """C6: mixed is said of the outcome reward; a length penalty on three wrong answers is no reason to keep them.

    Oracle: the definition: outcomes 0, 0, 0 are silent whatever their shaped rewards.
    """
    wrong, mixed = _dapo_groups()
    row = replace(ALGORITHMS["dapo"], name="row", overlong_buffer=4)
    shaped = batch_of(row, [wrong])["shaped_reward"]
    assert len(set(shaped.tolist())) == 3
    assert (wrong.mixed, mixed.mixed) == (False, True)
    assert not make_group([0.5] * 5).mixed  # a constant that is neither 0 nor 1
    assert make_group([-1.0, 1.0]).mixed


def test_mixed_is_never_faked_by_rounding() -> None:
    """C4: the 589 groups of equal rewards are all silent. Oracle: the definition max = min."""
    assert not any(make_group([s * 0.05] * size, lengths=[1] * size).mixed for s in range(1, 20) for size in (2, 7, 32))


def test_overlong_mask_leaves_truncated_rows_out() -> None:
    """Oracle: by hand: the completion of MAX_TOKENS is cut off; its reward stays in its group's statistic."""
    row = replace(ROW, name="row", overlong="mask", dial=0.0)
    packed = batch_of(row, [make_group([1.0, 0.0, 0.0], lengths=[4, 10, MAX_TOKENS])])
    assert packed.rollout_mask.tolist() == [True, True, False]
    assert packed["group_tokens"].tolist() == [14, 14, 14]
    assert packed["advantage"].tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert Counts.of(packed) == Counts(tokens=14, sequences=2, groups=1, positive_tokens=4)


def test_kl_in_the_reward_is_subtracted() -> None:
    """Oracle: by hand: r − kl_coef · KL of each completion."""
    row = replace(ROW, name="row", kl_coef=0.5, kl_in="reward", dial=0.0)
    group = make_group([1.0, 0.0], lengths=[2, 3])
    kl = torch.tensor([0.05, 0.15, 0.1, 0.1, 0.2])
    packed = add_advantages(row, pack([group]), max_new_tokens=MAX_TOKENS, token_kl=kl)
    assert packed["shaped_reward"].tolist() == pytest.approx([0.9, -0.2], abs=1e-7)
    assert packed["advantage"].tolist() == pytest.approx([0.55, -0.55], abs=1e-7)


def test_rows_of_an_older_policy_are_stale() -> None:
    """Oracle: the version each completion was written by, against that of the trainer."""
    groups = [make_group([1.0, 0.0], version=3), make_group([1.0, 0.0], position=1, version=4)]
    assert pack(groups, version=4)["stale"].tolist() == [True, True, False, False]


def test_signals_tell_every_usable_rollout() -> None:
    """Oracle: the batch's own columns, found again by group and index."""
    groups = ragged_groups(1)
    packed = batch_of(replace(ROW, name="row", overlong="mask"), groups)
    values = collect_signals(groups, packed)
    assert len(values) == packed.num_rollouts == sum(range(1, 10))
    row = 0
    for group in groups:
        for rollout in group.usable:
            signal = values[group.id, rollout.index]
            assert signal.shaped_reward == rollout.verdict.reward
            assert signal.advantage == float(packed["advantage"][row])
            assert signal.in_loss != rollout.completion.truncated
            row += 1


def test_selecting_rows_keeps_what_belongs_to_them() -> None:
    """Oracle: the lists the batch was packed from, looked up by hand."""
    groups = [make_group([1.0, 0.0], prompt_tokens=[9]), make_group([0.0, 1.0], position=1, prompt_tokens=[3, 4])]
    batch = batch_of(ROW, groups).select([3, 2])
    rollouts = groups[1].rollouts
    assert batch.group_ids == (groups[1].id,) and batch.group.tolist() == [0, 0]
    assert batch.prompt_tokens.tolist() == [3, 4]
    assert batch.tokens.tolist() == [*rollouts[1].completion.token_ids, *rollouts[0].completion.token_ids]
    assert batch["positive"].tolist() == [True, False]
    assert batch["group_tokens"].tolist() == [groups[1].num_tokens] * 2
