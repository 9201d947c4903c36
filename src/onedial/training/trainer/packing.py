"""Judged groups to packed batches: shaping, advantages, optimiser steps and micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import torch
from torch import Tensor

from onedial.core.algorithm import Algorithm
from onedial.core.batch import Batch, offsets_of
from onedial.core.maths.advantage import advantages, overlong_penalty
from onedial.core.types import Group, Verdict

# What a verdict is worth to a row, before shaping. `correct` and not the reward itself, which may be −1 or a half.
REWARDS: dict[str, Callable[[Verdict], float]] = {
    "task": lambda verdict: verdict.reward,
    "correct": lambda verdict: float(bool(verdict.correct)),
    "one": lambda verdict: 1.0,
}


@dataclass(frozen=True)
class Rows:
    """The usable rollouts of the groups that train, one row each, with what the maths made of their rewards.

    `shaped` (B,) is the reward after shaping; `figures` are what a critic's values were worth on these rollouts.
    """

    batch: Batch
    shaped: Tensor
    figures: Mapping[str, float] = field(default_factory=dict)

    def by_rollout(self, groups: Sequence[Group]) -> dict[tuple[str, int], tuple[float, float, bool]]:
        """(group id, rollout index) → (shaped reward, advantage, whether it enters the loss), for the log."""
        keys = [(group.id, rollout.index) for group in groups for rollout in group.usable]
        values = zip(self.shaped.tolist(), self.batch.advantage.tolist(), self.batch.row_mask.tolist(), strict=True)
        return dict(zip(keys, values, strict=True))


def pack(
    algorithm: Algorithm,
    groups: Sequence[Group],
    *,
    max_new_tokens: int,
    version: int = 0,
    kl_penalty: Tensor | None = None,
) -> Rows:
    """Packs groups and computes their advantages; rows written by a policy older than `version` are stale.

    `kl_penalty` (B,) is subtracted from the reward (kl_in='reward'). Overlong handling comes after the outcome
    reward, so a unanimous group can still be told apart by its outcome.
    """
    rollouts = [rollout for group in groups for rollout in group.usable]
    number = torch.tensor([g for g, group in enumerate(groups) for _ in group.usable], dtype=torch.long)
    lengths = torch.tensor([len(rollout.completion.token_ids) for rollout in rollouts], dtype=torch.long)
    worth = REWARDS[algorithm.reward]
    reward = torch.tensor([worth(rollout.verdict) for rollout in rollouts], dtype=torch.double)
    shaped = reward
    if algorithm.overlong == "penalty":
        shaped = shaped + overlong_penalty(lengths, max_new_tokens, algorithm.overlong_buffer)
    if kl_penalty is not None:
        shaped = shaped - algorithm.kl_coef * kl_penalty.double()
    row_mask = torch.ones(len(rollouts), dtype=torch.bool)
    if algorithm.overlong == "mask":
        row_mask = torch.tensor([not rollout.completion.truncated for rollout in rollouts], dtype=torch.bool)
    group_tokens = torch.zeros(len(groups), dtype=torch.long).index_add(0, number, lengths * row_mask)
    prompt_lengths = torch.tensor([len(group.prompt_tokens) for group in groups], dtype=torch.long)
    engine_logp = torch.tensor([logp for r in rollouts for logp in r.completion.logps], dtype=torch.float32)
    batch = Batch(
        prompt_tokens=torch.tensor([token for group in groups for token in group.prompt_tokens], dtype=torch.long),
        prompt_offsets=offsets_of(prompt_lengths),
        tokens=torch.tensor([token for r in rollouts for token in r.completion.token_ids], dtype=torch.long),
        offsets=offsets_of(lengths),
        group=number,
        group_ids=tuple(group.id for group in groups),
        advantage=advantages(algorithm, shaped, number),
        positive=torch.tensor([bool(rollout.verdict.correct) for rollout in rollouts], dtype=torch.bool),
        row_mask=row_mask,
        group_tokens=group_tokens[number],
        stale=torch.tensor([r.completion.policy_version < version for r in rollouts], dtype=torch.bool),
        # a data set comes without log-probabilities
        engine_logp=engine_logp if len(engine_logp) == int(lengths.sum()) else None,
    )
    return Rows(batch, shaped)


def split_minibatches(batch: Batch, updates: int, seed: int) -> list[Batch]:
    """Whole groups dealt into `updates` mini-batches, in an order shuffled by the seed when there are several."""
    num_groups = len(batch.group_ids)
    if updates <= 1 or num_groups <= 1:
        return [batch]
    order = list(range(num_groups))
    Random(seed).shuffle(order)
    rank = torch.empty(num_groups, dtype=torch.long)
    rank[torch.tensor(order)] = torch.arange(num_groups)
    part_of_group = rank * min(updates, num_groups) // num_groups
    part = part_of_group[batch.group]
    return [batch.select((part == p).nonzero().squeeze(1)) for p in range(min(updates, num_groups))]


def micro_batches(batch: Batch, max_tokens: int, *, whole_groups: bool = False) -> list[Batch]:
    """Splits a step so that no part holds more than `max_tokens` tokens (its prompts included), where that can be.

    A prompt that takes more than half of a part leaves half of it to completions: else it would be computed again for
    every row or two.
    Groups stay together while they fit, because their rows share the prompt; a longer group is cut between rows;
    a single row is never cut, nor with `whole_groups` any group (the loss of a pair needs both its rows). Neighbours
    have about the same length, which keeps padding inside attention small.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens}: micro_batch_tokens is settled by memory_plan.plan_memory")
    prompt_lengths = (batch.prompt_offsets[1:] - batch.prompt_offsets[:-1]).tolist()
    rows_of: dict[int, list[int]] = {}
    for row, group in enumerate(batch.group.tolist()):
        rows_of.setdefault(group, []).append(row)
    lengths = batch.lengths.tolist()
    parts: list[list[int]] = []
    room = 0
    for group in sorted(rows_of, key=lambda g: (max(lengths[row] for row in rows_of[g]), g)):
        rows = rows_of[group]
        whole = prompt_lengths[group] + sum(lengths[row] for row in rows)
        if parts and whole <= room:
            parts[-1].extend(rows)
            room -= whole
            continue
        for row in rows:
            if not parts or row == rows[0] or (lengths[row] > room and not whole_groups):
                parts.append([])
                room = max(max_tokens - prompt_lengths[group], max_tokens // 2)
            parts[-1].append(row)
            room -= lengths[row]
    return [batch.select(rows) for rows in parts]


@torch.no_grad()
def map_micro_batches(batch: Batch, max_tokens: int, of_piece: Callable[[Batch], Tensor]) -> Tensor:
    """(T,) of a whole batch from a function of its micro-batches, without gradient; fp32 on the CPU."""
    result = torch.empty(len(batch.tokens))
    # where each token of a piece belongs, carried through the split in a column of its own
    place = torch.arange(len(batch.tokens), dtype=torch.double)
    for piece in micro_batches(replace(batch, value=place), max_tokens):
        assert piece.value is not None
        result[piece.value.long()] = of_piece(piece).float().cpu()
    return result
