"""The policy term of each token: plain, ratio, clipped and dual-clipped, at token or sequence level."""

from __future__ import annotations

import torch
from torch import Tensor

from onedial.core.algorithm import Algorithm

MISMATCH_BOUND = 20.0


def sequence_sum(values: Tensor, rollout: Tensor, num_rollouts: int) -> Tensor:
    """(T,) token values and the rollout number of each token → (B,) sums; a rollout without tokens gives 0."""
    return values.new_zeros(num_rollouts).index_add(0, rollout, values)


def log_ratio(level: str, logp: Tensor, old_logp: Tensor, rollout: Tensor, num_rollouts: int) -> Tensor:
    """(T,) log of the importance ratio π/π_old of each token.

    'token': the token's own (PPO). 'sequence': the mean over the token's sequence, one value for all its
    tokens, that is log s_i of GSPO (arXiv:2507.18071, Eq. 7), with gradient through the mean.
    """
    difference = logp - old_logp
    if level == "token":
        return difference
    lengths = torch.bincount(rollout, minlength=num_rollouts).clamp(min=1)
    return (sequence_sum(difference, rollout, num_rollouts) / lengths)[rollout]


def clipped_loss(ratio: Tensor, advantage: Tensor, algorithm: Algorithm) -> Tensor:
    """(T,) −min(ρA, clip(ρ, 1−ε_low, 1+ε_high)·A), and for A < 0 at most c·|A| (dual clip, arXiv:1912.09729, Eq. 5)."""
    loss = -ratio * advantage
    if algorithm.clip_low is not None and algorithm.clip_high is not None:
        bounded = ratio.clamp(1 - algorithm.clip_low, 1 + algorithm.clip_high)
        loss = torch.maximum(loss, -bounded * advantage)
    if algorithm.clip_dual is not None:
        loss = torch.where(advantage < 0, torch.minimum(loss, -algorithm.clip_dual * advantage), loss)
    return loss


def clipped_tokens(ratio: Tensor, advantage: Tensor, algorithm: Algorithm) -> tuple[Tensor, Tensor]:
    """(T,) bools: where the lower bound (A < 0) and the upper bound (A > 0) stop the gradient."""
    if algorithm.clip_low is None or algorithm.clip_high is None:
        nothing = torch.zeros_like(ratio, dtype=torch.bool)
        return nothing, nothing
    low = (advantage < 0) & (ratio < 1 - algorithm.clip_low)
    high = (advantage > 0) & (ratio > 1 + algorithm.clip_high)
    return low, high


def correction_weight(
    algorithm: Algorithm, old_logp: Tensor, engine_logp: Tensor, rollout: Tensor, num_rollouts: int
) -> Tensor:
    """(T,) detached weight that corrects for a sampler that differs from the trainer.

    w = π_old/π_engine of the token, or the product over its sequence. 'truncate' takes min(w, cap) (TIS);
    'mask' sets weights outside [floor, cap] to 0 (MIS, IcePop).
    """
    difference = (old_logp - engine_logp).detach()
    if algorithm.correction_level == "sequence":
        difference = sequence_sum(difference, rollout, num_rollouts)[rollout]
    weight = difference.clamp(-MISMATCH_BOUND, MISMATCH_BOUND).exp()
    if algorithm.sampler_correction == "truncate":
        return weight.clamp(max=algorithm.correction_cap)
    inside = (weight <= algorithm.correction_cap) & (weight >= algorithm.correction_floor)
    return torch.where(inside, weight, torch.zeros_like(weight))
