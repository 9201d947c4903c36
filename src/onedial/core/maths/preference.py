"""The loss of pairs, DPO, and how it compares with GRPO on a group of two.

A pair is a prompt with a chosen completion y⁺ and a rejected one y⁻. With sequence sums

    Δ(y) = log π(y|x) − log π_ref(y|x)        m = Δ(y⁺) − Δ(y⁻)        (the margin, nats)

DPO minimizes −log σ(β·m), the mean over pairs (Rafailov et al., arXiv:2305.18290, Eq. 7). Its gradient is

    −β·σ(−β·m) · ∇(log π(y⁺) − log π(y⁻))

which is that of `policy_loss` with level 'none', sums over sequences and the advantages ±β·σ(−β·m) held fixed.

GRPO on a group of two with one correct answer has advantages ±1 (dial 1), and with any dial the gradient
−c · ∇(log π(y⁺) − log π(y⁻)) with a constant c: for sequence sums c = σ̂^(2−dial) = ½^(2−dial); as published, with
each log π divided by its length, c = ½. So both gradients have the same direction (arXiv:2510.00977 calls the two
equivalent). Their weights differ, because GRPO has no reference and no sigmoid: the weight of GRPO stays c for every
margin; that of DPO is β/2 at m = 0 and falls to 0 as m grows. tests/test_preference.py checks this.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from onedial.core.batch import Batch
from onedial.core.maths.surrogate import sequence_sum


def pair_margins(logp: Tensor, ref_logp: Tensor, batch: Batch) -> Tensor:
    """(T,) log-probabilities under policy and reference → (N,) margins m of the pairs, in nats.

    `batch["positive"]` marks the chosen rollouts. Raises ValueError where a group is not one chosen and one rejected
    rollout.
    """
    pairs = len(batch.group_ids)
    sign = torch.where(batch["positive"], 1.0, -1.0).to(logp.dtype)
    whole = torch.bincount(batch.group, minlength=pairs) == 2
    if not bool((whole & (sequence_sum(sign, batch.group, pairs) == 0)).all()):
        raise ValueError("a pair is one chosen and one rejected rollout in the same micro-batch; do not cut groups")
    return sequence_sum(
        sign * sequence_sum(logp - ref_logp, batch.rollout_of_token, batch.num_rollouts), batch.group, pairs
    )


def pair_loss(beta: float, logp: Tensor, ref_logp: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Sum over pairs of −log σ(β·m), and sums that add up over micro-batches.

    `pairs`; `pair_right` those whose margin is positive; `margin` β·m, the difference of DPO's implicit rewards (nats);
    `chosen_logp` and `rejected_logp` of whole sequences (nats).
    """
    margins = pair_margins(logp, ref_logp, batch)
    with torch.no_grad():
        sequences, positive = sequence_sum(logp, batch.rollout_of_token, batch.num_rollouts), batch["positive"]
        sums = {
            "pairs": float(len(margins)),
            "pair_right": float((margins > 0).sum()),
            "margin": float(beta * margins.sum()),
            "chosen_logp": float(sequences[positive].sum()),
            "rejected_logp": float(sequences[~positive].sum()),
        }
    return -logsigmoid(beta * margins).sum(), sums
