"""Judged groups to one packed batch, and the batch to mini-batches (optimizer steps) and micro-batches (memory)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor

from onedial.core.algorithm import Algorithm
from onedial.core.batch import Batch, compute_offsets
from onedial.core.types import Group
from onedial.training.budget.allocation import Allocation
from onedial.training.cores import share_cores


def pack(groups: Sequence[Group], *, version: int = 0) -> Batch:
    """Packs the tokens of all usable rollouts; a rollout written by a policy older than `version` is marked stale.

    A rollout without a usable verdict (timeout, error) is left out before any statistic is computed. The batch holds
    what is known about each rollout; `add_advantages` turns its rewards into advantages.
    """
    rollouts = [rollout for group in groups for rollout in group.usable]
    lengths = torch.tensor([len(rollout.completion.token_ids) for rollout in rollouts], dtype=torch.long)
    annotations = {
        "reward": torch.tensor([rollout.verdict.reward for rollout in rollouts], dtype=torch.double),
        "positive": torch.tensor([bool(rollout.verdict.correct) for rollout in rollouts], dtype=torch.bool),
        "truncated": torch.tensor([rollout.completion.truncated for rollout in rollouts], dtype=torch.bool),
        "stale": torch.tensor([r.completion.policy_version < version for r in rollouts], dtype=torch.bool),
    }
    engine_logp = torch.tensor([logp for r in rollouts for logp in r.completion.policy_logps], dtype=torch.float32)
    if len(engine_logp) == int(lengths.sum()):  # a dataset comes without log-probabilities
        annotations["engine_logp"] = engine_logp
    return Batch(
        prompt_tokens=torch.tensor([token for group in groups for token in group.prompt_tokens], dtype=torch.long),
        prompt_offsets=compute_offsets(torch.tensor([len(group.prompt_tokens) for group in groups], dtype=torch.long)),
        tokens=torch.tensor([token for r in rollouts for token in r.completion.token_ids], dtype=torch.long),
        offsets=compute_offsets(lengths),
        group=torch.tensor([g for g, group in enumerate(groups) for _ in group.usable], dtype=torch.long),
        group_ids=tuple(group.id for group in groups),
        annotations=annotations,
    )


def pack_allocation(row: Algorithm, allocation: Allocation, *, version: int = 0) -> Batch:
    """Packs the groups that train, with what the allocator says about them if the loss uses it.

    `expected` for rows with baseline='posterior'; `weight` if the allocator weighs rollouts.
    """
    batch = pack(allocation.train, version=version)
    known = [allocation.expectations[group.id] for group in allocation.train if group.id in allocation.expectations]
    expected = [value for each in known for value in each.baselines]
    weights = [value for each in known for value in each.weights or ()]
    return batch.annotate(
        expected=torch.tensor(expected, dtype=torch.double) if row.needs_belief else None,
        weight=torch.tensor(weights, dtype=torch.double) if weights else None,
    )


def split_minibatches(batch: Batch, updates: int, seed: int) -> list[Tensor]:
    """The rollouts of each of `updates` mini-batches: whole groups, shuffled by the seed when there are several.

    There are never more mini-batches than groups.
    """
    num_groups = len(batch.group_ids)
    if updates <= 1 or num_groups <= 1:
        return [torch.arange(batch.num_rollouts)]
    order = list(range(num_groups))
    Random(seed).shuffle(order)
    rank = torch.empty(num_groups, dtype=torch.long)
    rank[torch.tensor(order)] = torch.arange(num_groups)
    part_of_group = rank * min(updates, num_groups) // num_groups
    part = part_of_group[batch.group]
    return [(part == p).nonzero().squeeze(1) for p in range(min(updates, num_groups))]


def split_micro_batches(batch: Batch, max_tokens: int, *, whole_groups: bool = False) -> list[list[int]]:
    """The rollouts of each micro-batch, so that none holds more than `max_tokens` tokens including its prompts, if
    possible.

    A prompt that takes more than half of a micro-batch leaves half of it to completions; otherwise it would be computed
    again for every rollout or two. Groups stay together if they fit, because their rollouts share the prompt; a longer
    group is cut between rollouts. A single rollout is never cut, and with `whole_groups` no group is (the loss of a
    pair needs both its rollouts). Neighbors have about the same length, which keeps padding inside attention small.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens}: memory_plan.plan_memory decides micro_batch_tokens")
    prompt_lengths = (batch.prompt_offsets[1:] - batch.prompt_offsets[:-1]).tolist()
    members: dict[int, list[int]] = {}
    for rollout, group in enumerate(batch.group.tolist()):
        members.setdefault(group, []).append(rollout)
    lengths = batch.lengths.tolist()
    parts: list[list[int]] = []
    room = 0
    for group in sorted(members, key=lambda g: (max(lengths[rollout] for rollout in members[g]), g)):
        rollouts = members[group]
        whole = prompt_lengths[group] + sum(lengths[rollout] for rollout in rollouts)
        if parts and whole <= room:
            parts[-1].extend(rollouts)
            room -= whole
            continue
        for rollout in rollouts:
            if not parts or rollout == rollouts[0] or (lengths[rollout] > room and not whole_groups):
                parts.append([])
                room = max(max_tokens - prompt_lengths[group], max_tokens // 2)
            parts[-1].append(rollout)
            room -= lengths[rollout]
    return parts


def make_micro_batches(batch: Batch, max_tokens: int, *, whole_groups: bool = False) -> list[Batch]:
    """The micro-batches that `split_micro_batches` chooses."""
    return [batch.select(part) for part in split_micro_batches(batch, max_tokens, whole_groups=whole_groups)]


@torch.no_grad()
def map_micro_batches(batch: Batch, max_tokens: int, function: Callable[[Batch], Tensor]) -> Tensor:
    """Applies a function to the micro-batches of a batch, without gradient, and joins the results: (T,), fp32 on the
    CPU."""
    result = torch.empty(len(batch.tokens))
    for part in split_micro_batches(batch, max_tokens):
        share_cores()
        result[batch.token_index(part)] = function(batch.select(part)).float().cpu()
    return result
