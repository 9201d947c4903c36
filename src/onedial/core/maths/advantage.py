"""Rewards to advantages: A = (r − b) / (σ̂ + eps)^α, for groups of any size, and reward shaping."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onedial.core.algorithm import Algorithm, BaselineFunction
from onedial.core.maths.best_of_k import best_of_k_advantages
from onedial.core.maths.segments import group_mean, group_size, group_std, group_sum, group_unanimous


def no_baseline(rewards: Tensor, group: Tensor) -> Tensor:
    """(B,) zeros: plain REINFORCE."""
    return torch.zeros_like(rewards)


def group_mean_baseline(rewards: Tensor, group: Tensor) -> Tensor:
    """(B,) mean reward of the rollout's group, including the rollout itself (GRPO, arXiv:2402.03300, §4.1.2)."""
    return group_mean(rewards, group)[group]


def leave_one_out_baseline(rewards: Tensor, group: Tensor) -> Tensor:
    """(B,) mean of the other rewards in the group (RLOO, arXiv:2402.14740, Eq. 7).

    In a group of one the baseline is its own reward, so that the advantage is 0.
    """
    others = (group_size(group) - 1)[group]
    rest = (group_sum(rewards, group)[group] - rewards) / others.clamp(min=1)
    return torch.where(others > 0, rest, rewards)


BASELINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": no_baseline,
    "group_mean": group_mean_baseline,
    "leave_one_out": leave_one_out_baseline,
    "posterior": no_baseline,  # given with the batch: `expected` of `advantages`
    "critic": no_baseline,  # its V is subtracted token by token (core.maths.gae)
}


def apply_custom_baseline(function: BaselineFunction, rewards: Tensor, group: Tensor) -> Tensor:
    """(B,) baselines of a user's (N, G) → (N, 1) function, which is called once per group size."""
    result = torch.zeros_like(rewards)
    sizes = group_size(group)
    order = torch.argsort(group, stable=True)
    for size in sizes[sizes > 0].unique().tolist():
        members = order[sizes[group[order]] == size].view(-1, size)
        values = torch.as_tensor(function(rewards[members]), dtype=rewards.dtype)
        result[members] = torch.broadcast_to(values.reshape(len(members), -1), members.shape)
    return result


def advantages(
    algorithm: Algorithm,
    rewards: Tensor,
    group: Tensor,
    *,
    expected: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """(B,) rewards and group numbers → (B,) advantages A = w·(r − b) / (σ̂ + eps)^dial.

    `rewards` are the shaped ones. With a centering baseline a unanimous group gets exactly 0, without
    rounding errors. σ̂ is the group's, or with scale_over='batch' that of all B rewards. pass_k > 1 has its own, see
    `maths.best_of_k`. `expected` (B,) is the baseline of rows with baseline='posterior', `weight` (B,) the factor w
    that an allocator gives each rollout, else 1.
    """
    scaled = _scaled(algorithm, rewards.double(), group, expected)
    return scaled if weight is None else scaled * weight


def _scaled(algorithm: Algorithm, rewards: Tensor, group: Tensor, expected: Tensor | None) -> Tensor:
    """(B,) A before weights."""
    if algorithm.pass_k > 1:
        best = best_of_k_advantages(rewards, group, algorithm.pass_k)
        return torch.where(group_unanimous(rewards, group)[group], torch.zeros_like(best), best)
    if algorithm.baseline == "posterior":
        if expected is None:
            raise ValueError("baseline='posterior' needs `expected`, the allocator's baseline of each rollout")
        baseline = expected
    elif callable(algorithm.baseline):
        baseline = apply_custom_baseline(algorithm.baseline, rewards, group)
    else:
        baseline = BASELINES[algorithm.baseline](rewards, group)
    centered = rewards - baseline
    if algorithm.baseline in ("group_mean", "leave_one_out"):
        centered = torch.where(group_unanimous(rewards, group)[group], torch.zeros_like(centered), centered)
    if algorithm.dial == 0:
        return centered
    over = group if algorithm.scale_over == "group" else torch.zeros_like(group)
    sigma = group_std(rewards, over, algorithm.ddof)[over]
    return centered / (sigma + algorithm.eps) ** algorithm.dial


def overlong_penalty(lengths: Tensor, max_tokens: int, buffer: int) -> Tensor:
    """(B,) completion lengths in tokens → (B,) penalty in [−1, 0], added to the reward.

    0 up to max_tokens − buffer, then linear to −1 at max_tokens (DAPO, arXiv:2503.14476, Eq. 13).
    """
    return ((max_tokens - buffer - lengths).double() / buffer).clamp(min=-1.0, max=0.0)
