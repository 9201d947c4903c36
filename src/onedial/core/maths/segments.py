"""Segment reductions over ragged groups: values per rollout (B,) and the group number of each rollout (B,)."""

from __future__ import annotations

import torch
from torch import Tensor


def num_groups(group: Tensor) -> int:
    """N: one more than the largest group number; 0 without rollouts."""
    return int(group.max()) + 1 if group.numel() else 0


def group_sum(values: Tensor, group: Tensor) -> Tensor:
    """(B,) → (N,) sums."""
    return values.new_zeros(num_groups(group)).index_add(0, group, values)


def group_size(group: Tensor) -> Tensor:
    """(B,) → (N,) rollouts per group."""
    return torch.bincount(group, minlength=num_groups(group))


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """(B,) → (N,) means; 0 for a group number without rollouts."""
    return group_sum(values, group) / group_size(group).clamp(min=1)


def group_unanimous(values: Tensor, group: Tensor) -> Tensor:
    """(B,) → (N,) True where max == min.

    The standard deviation cannot decide this: rounding can make it positive for equal rewards.
    """
    top = torch.full((num_groups(group),), -torch.inf, dtype=values.dtype).to(values.device)
    high = top.scatter_reduce(0, group, values, "amax")
    low = (-top).scatter_reduce(0, group, values, "amin")
    return high == low


def group_std(values: Tensor, group: Tensor, ddof: int = 0) -> Tensor:
    """(B,) → (N,) standard deviation σ̂ of each group, exactly 0 where unanimous or where n ≤ ddof.

    ddof 0 is the population std, for k correct of G binary rewards √(k(G−k))/G; ddof 1 divides by n − 1.
    """
    centered = values - group_mean(values, group)[group]
    squares = group_sum(centered * centered, group)
    spread = (squares / (group_size(group) - ddof).clamp(min=1)).sqrt()
    silent = group_unanimous(values, group) | (group_size(group) <= ddof)
    return torch.where(silent, torch.zeros_like(spread), spread)
