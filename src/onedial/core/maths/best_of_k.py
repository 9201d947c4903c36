"""Advantages whose gradient increases pass@k instead of pass@1: a rollout counts by what it adds to a set of k."""

from __future__ import annotations

from functools import cache
from math import comb

import torch
from torch import Tensor

from onedial.core.maths.segments import group_size


def best_of_k_advantages(rewards: Tensor, group: Tensor, k: int) -> Tensor:
    """(B,) rewards and group numbers → (B,) advantages A_i = k·(E max of k with i − E max of k without i).

    Both means are over all subsets of k rollouts of the group, in closed form. The second does not depend on rollout i,
    so it is a baseline, and the mean of A·∇log π over a group is an unbiased gradient of E[max of k], which for 0/1
    rewards is pass@k (Walder and Karkhanis 2025, arXiv:2505.15201, with this baseline). k = 1 is RLOO. A group of n ≤ k
    rollouts uses k = n − 1, and a group of one gives 0.
    """
    result = torch.zeros_like(rewards)
    sizes = group_size(group)
    order = torch.argsort(group, stable=True)
    for size in sizes[sizes > 1].unique().tolist():
        members = order[sizes[group[order]] == size].view(-1, size)
        result[members] = _advantages(rewards[members], min(k, size - 1))
    return result


def _advantages(rewards: Tensor, k: int) -> Tensor:
    """(N, n) → (N, n) for k < n."""
    ordered, places = rewards.sort(dim=1, descending=True)
    size = rewards.shape[1]
    others = torch.arange(size).expand(size, size)[~torch.eye(size, dtype=torch.bool)].view(size, size - 1)
    rest = ordered[:, others]  # (N, n, n − 1), falling
    without = rest @ _shares_of_the_best(size - 1, k).to(rest.dtype)
    joined = ordered
    if k > 1:
        joined = torch.maximum(ordered[:, :, None], rest) @ _shares_of_the_best(size - 1, k - 1).to(rest.dtype)
    return torch.zeros_like(rewards).scatter(1, places, k * (joined - without))


@cache
def _shares_of_the_best(size: int, k: int) -> Tensor:
    """(size,) chances that the largest of k of `size` values is the t-th of all: C(size−1−t, k−1)/C(size, k)."""
    return torch.tensor([comb(size - 1 - t, k - 1) / comb(size, k) for t in range(size)], dtype=torch.double)
