"""The listwise loss of LPO: the group's policy is projected on a target that the rewards give.

Of the rollouts k of one group, with the policy π that is trained and the one π_old that sampled:

    P_k = softmax_k(log π(y_k) − log π_old(y_k))        uniform before the first update
    w_k = softmax_k(r_k / τ)                            maximizes Σ w·r − τ·KL(w‖uniform)

The loss is KL(w‖P), 'forward', or KL(P‖w), 'reverse', the mean over groups (Qu et al. 2026, arXiv:2605.06139). Its
gradient is Σ_k c_k·∇log π(y_k) with c = P − w, or c = P·(log(P/w) − KL(P‖w)): of sum 0 in a group, 0 at the target,
and in the forward case at most 1. With τ = σ̂^α the target is the softmax of the advantages, and at P uniform the
reverse loss has the gradient of GRPO (α = 1) or Dr. GRPO (α = 0) with sums over sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor

from onedial.core.batch import Batch
from onedial.core.maths.segments import group_sum, num_groups
from onedial.core.maths.surrogate import sequence_sum


def group_log_softmax(scores: Tensor, group: Tensor) -> Tensor:
    """(B,) scores → (B,) logarithms of their softmax inside each group."""
    top = torch.full((num_groups(group),), -torch.inf, dtype=scores.dtype, device=scores.device)
    top = top.scatter_reduce(0, group, scores.detach(), "amax")
    shifted = scores - top[group]
    return shifted - group_sum(shifted.exp(), group).log()[group]


def listwise_loss(direction: str, logp: Tensor, old_logp: Tensor, batch: Batch) -> Tensor:
    """Sum over groups of KL(w‖P), 'forward', or KL(P‖w), 'reverse', from (T,) log-probabilities; every group must be
    whole.

    `batch["advantage"]` holds r/τ up to a constant per group, which cancels in the softmax.
    """
    score = sequence_sum(logp - old_logp, batch.rollout_of_token, batch.num_rollouts)
    policy = group_log_softmax(score, batch.group)
    target = group_log_softmax(batch["advantage"].to(score.dtype), batch.group)
    if direction == "forward":
        return (target.exp() * (target - policy)).sum()
    return (policy.exp() * (policy - target)).sum()
