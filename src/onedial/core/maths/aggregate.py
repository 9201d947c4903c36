"""Token weights: how the losses of tokens become one number, from counts of the whole optimizer step.

With B sequences, N groups and T tokens in the step, |o_i| tokens in row i and T_g in its group:

    sequence_mean     1 / (B·|o_i|)    every sequence counts the same (GRPO)
    token_mean        1 / T            every token counts the same (DAPO's code)
    group_token_mean  1 / (N·T_g)      token mean inside each group, then over groups (DAPO's Eq. 8)
    fixed_length      1 / (B·L)        L constant tokens: no length enters (Dr. GRPO)
    sequence_sum      1 / B            log-probability of the whole sequence (REINFORCE, RLOO)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onedial.core.algorithm import Algorithm
from onedial.core.batch import Batch, Counts
from onedial.core.errors import ConfigError


def _sequence_mean(batch: Batch, counts: Counts, algorithm: Algorithm) -> Tensor:
    return 1.0 / (counts.sequences * batch.lengths.clamp(min=1).double())


def _token_mean(batch: Batch, counts: Counts, algorithm: Algorithm) -> Tensor:
    return torch.full_like(batch.lengths, 1, dtype=torch.double) / max(counts.tokens, 1)


def _group_token_mean(batch: Batch, counts: Counts, algorithm: Algorithm) -> Tensor:
    return 1.0 / (counts.groups * batch["group_tokens"].clamp(min=1).double())


def _fixed_length(batch: Batch, counts: Counts, algorithm: Algorithm) -> Tensor:
    if algorithm.length_budget is None:
        raise ConfigError(
            f"algorithm {algorithm.name!r}: aggregate='fixed_length' divides by a constant length; "
            "set length_budget to the most tokens a completion may have (training does this itself)"
        )
    return torch.full_like(batch.lengths, 1, dtype=torch.double) / (counts.sequences * algorithm.length_budget)


def _sequence_sum(batch: Batch, counts: Counts, algorithm: Algorithm) -> Tensor:
    return torch.full_like(batch.lengths, 1, dtype=torch.double) / counts.sequences


AGGREGATES: dict[str, Callable[[Batch, Counts, Algorithm], Tensor]] = {
    "sequence_mean": _sequence_mean,
    "token_mean": _token_mean,
    "group_token_mean": _group_token_mean,
    "fixed_length": _fixed_length,
    "sequence_sum": _sequence_sum,
}


def token_weights(algorithm: Algorithm, batch: Batch, counts: Counts) -> Tensor:
    """(T,) weight of each token's loss, 0 on masked rollouts; the table above gives it for a whole step."""
    per_rollout = torch.where(batch.rollout_mask, AGGREGATES[algorithm.aggregate](batch, counts, algorithm), 0.0)
    return per_rollout[batch.rollout_of_token].float()
