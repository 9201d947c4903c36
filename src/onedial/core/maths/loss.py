"""The policy loss of every row of the algorithm table, assembled from the cells of the row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onedial.core.algorithm import Algorithm
from onedial.core.batch import Batch, Counts
from onedial.core.maths.aggregate import token_weights
from onedial.core.maths.kl import kl
from onedial.core.maths.listwise import listwise_loss
from onedial.core.maths.preference import pair_loss
from onedial.core.maths.segments import group_sum
from onedial.core.maths.surrogate import (
    MISMATCH_BOUND,
    clipped_loss,
    clipped_tokens,
    correction_weight,
    log_ratio,
    sequence_sum,
)


@dataclass(frozen=True)
class Loss:
    """A micro-batch's share of the step's loss, and sums over its tokens that add up over micro-batches.

    `sums`: tokens, ratio, clip_low, clip_high (tokens whose gradient the clip stopped), clip_high_p (π_old of the
    latter), kl (nats, k3 against the
    reference), mismatch (nats, k3 of engine against trainer), nll (nats, −log π). Divide by the step's tokens for a
    mean. Rows that train on pairs add the sums of `maths.preference.pair_loss`, to be divided by `pairs`.
    """

    loss: Tensor
    sums: dict[str, float]


def policy_loss(algorithm: Algorithm, batch: Batch, counts: Counts) -> Loss:
    """Loss of `batch` as its part of a step of size `counts`, to be minimized.

        Σ_t w_t · m_t · [−min(ρ_t A, clip(ρ_t) A) or −A log π_t]  +  kl_coef Σ_t w_t KL_t
        −  entropy_coef Σ_t w_t H_t  −  positive_nll · (1/T₊) Σ_{t correct} log π_t

    `batch["logp"]` (T,) carries the gradient. A missing "old_logp" means that the policy has not moved since the
    rollouts: the ratio ρ is exactly 1, with the right gradient. A is the rollout's advantage, or with a critic the
    token's. The weights w_t come from `maths.aggregate`; m_t corrects for a sampler that differs from the trainer.
    Template: PPO (arXiv:1707.06347, Eq. 7) with each paper's cells, see `onedial.core.algorithm_table`. With
    preference_beta > 0 the loss is that of pairs, see `maths.preference`; with `listwise` the first term is that of
    `maths.listwise`. The entropy H_t of the policy at a token is PPO's bonus (arXiv:1707.06347, Eq. 9).
    Raises ValueError when an annotation that the row needs is missing.
    """
    logp = batch["logp"].float()
    old_logp = batch.get("old_logp")
    old = logp.detach() if old_logp is None else old_logp.float()
    index, weights = batch.rollout_of_token, token_weights(algorithm, batch, counts)
    advantage = _token_advantage(batch).float()
    if algorithm.preference_beta > 0:
        pairs, pair_sums = pair_loss(algorithm.preference_beta, logp, batch["ref_logp"].float(), batch)
        ones = torch.ones_like(old)
        return Loss(pairs / counts.groups, _sums(algorithm, batch, logp.detach(), old, ones, advantage) | pair_sums)

    if algorithm.ratio_level == "none":
        ratio = torch.ones_like(old)
        token_loss = -advantage * logp
    else:
        # bounded before exp: an infinite ratio times advantage or weight 0 would be nan
        log = log_ratio(algorithm.ratio_level, logp, old, index, batch.num_rollouts)
        ratio = log.clamp(-MISMATCH_BOUND, MISMATCH_BOUND).exp()
        token_loss = clipped_loss(ratio, advantage, algorithm)
    if algorithm.sampler_correction != "none":
        engine = batch["engine_logp"].float()
        token_loss = token_loss * correction_weight(algorithm, old, engine, index, batch.num_rollouts)
    if algorithm.listwise != "none":
        token_loss = torch.zeros_like(token_loss)
    if algorithm.kl_in_loss:
        reference = batch["ref_logp"].float()
        token_loss = token_loss + algorithm.kl_coef * kl(algorithm.kl_estimator, logp, reference)

    if algorithm.entropy_coef > 0:
        token_loss = token_loss - algorithm.entropy_coef * batch["entropy"].float()

    loss = (token_loss * weights).sum()
    if algorithm.listwise != "none":
        loss = loss + listwise_loss(algorithm.listwise, logp, old, batch) / counts.groups
    if algorithm.positive_nll > 0 and counts.positive_tokens > 0:
        positive = batch.mask & batch["positive"][index]
        loss = loss - algorithm.positive_nll * logp[positive].sum() / counts.positive_tokens
    return Loss(loss, _sums(algorithm, batch, logp.detach(), old, ratio.detach(), advantage))


def _token_advantage(batch: Batch) -> Tensor:
    """(T,) the critic's advantages if the batch has them, else the advantage of the rollout for each of its tokens."""
    of_tokens = batch.get("token_advantage")
    return batch["advantage"][batch.rollout_of_token] if of_tokens is None else of_tokens


def contributes(algorithm: Algorithm, batch: Batch) -> Tensor:
    """(B,) False exactly if a rollout's gradient is exactly 0, so that its forward and backward passes can be skipped.

    These are masked rollouts, and rollouts with advantage 0 (with a critic: on every token) unless a KL term in the
    loss, an entropy bonus, a positive-example likelihood term or the loss of a pair gives them a gradient. A listwise
    loss has a gradient in all rollouts of a mixed group and, once the policy has changed, in all other groups too.
    """
    live = batch["advantage"] != 0
    of_tokens = batch.get("token_advantage")
    if of_tokens is not None:
        live = sequence_sum((of_tokens != 0).float(), batch.rollout_of_token, batch.num_rollouts) > 0
    if algorithm.listwise != "none":
        live = group_sum(live.long(), batch.group)[batch.group] > 0
    if algorithm.reference_in_loss or algorithm.entropy_coef > 0 or (algorithm.listwise != "none" and _moved(batch)):
        live = torch.ones_like(live)
    if algorithm.positive_nll > 0:
        live = live | batch["positive"]
    return live & batch.rollout_mask


def _moved(batch: Batch) -> bool:
    """Whether the policy may differ from the policy that wrote some of the rollouts."""
    stale = batch.get("stale")
    return batch.get("old_logp") is not None or (stale is not None and bool(stale.any()))


def _sums(
    algorithm: Algorithm, batch: Batch, logp: Tensor, old: Tensor, ratio: Tensor, advantage: Tensor
) -> dict[str, float]:
    mask = batch.mask
    low, high = clipped_tokens(ratio, advantage, algorithm)
    values = {"tokens": mask, "ratio": ratio * mask, "clip_low": low & mask, "clip_high": high & mask}
    values["clip_high_p"] = old.exp() * values["clip_high"]
    values["nll"] = -logp * mask
    reference, engine = batch.get("ref_logp"), batch.get("engine_logp")
    if reference is not None:
        values["kl"] = kl("k3", logp, reference.float()) * mask
    if engine is not None:
        # k3 of the sampler's tokens: E_engine[ρ − log ρ − 1] = KL(engine‖trainer)
        values["mismatch"] = kl("k3", engine.float(), old) * mask
    return {name: float(value.sum()) for name, value in values.items()}
