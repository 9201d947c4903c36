"""The one policy loss of the whole family: a composition of the cells of a row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from onedial.core.algorithm import Algorithm
from onedial.core.batch import Batch, Counts
from onedial.core.maths.aggregate import token_weights
from onedial.core.maths.kl import kl
from onedial.core.maths.preference import pair_loss
from onedial.core.maths.surrogate import (
    MISMATCH_BOUND,
    clipped_loss,
    clipped_tokens,
    importance_weight,
    log_ratio,
    sequence_sum,
)


@dataclass(frozen=True)
class Loss:
    """A micro-batch's share of the step's loss, and sums over its tokens that add up over micro-batches.

    `sums`: tokens, ratio, clip_low, clip_high (tokens whose gradient the clip stopped), kl (nats, k3 against the
    reference), mismatch (nats, k3 of engine against trainer), nll (nats, −log π); divide by the step's tokens for a
    mean. Rows that train on pairs add those of `maths.preference.pair_loss`, to be divided by `pairs`.
    """

    loss: Tensor
    sums: dict[str, float]


def policy_loss(algorithm: Algorithm, batch: Batch, counts: Counts) -> Loss:
    """Loss of `batch` as its part of a step of size `counts`; minimise it.

        Σ_t w_t · m_t · [−min(ρ_t A, clip(ρ_t) A) or −A log π_t]  +  kl_coef Σ_t w_t KL_t
        −  positive_nll · (1/T₊) Σ_{t correct} log π_t

    `batch.logp` (T,) carries the gradient. `old_logp` missing means that the policy has not moved since the
    rollouts, so the ratio is exactly 1 with the right gradient. A is the row's advantage, or with a critic the
    token's. w_t: `maths.aggregate`; m_t: sampler↔trainer correction. Template: PPO (arXiv:1707.06347, Eq. 7) with each
    paper's cells, see `onedial.core.algorithm_table`. With preference_beta > 0 the loss is that of pairs instead, see
    `maths.preference`.
    Raises ValueError when a log-probability that the row needs is missing.
    """
    logp = _needed(batch.logp, "logp", "the trainer's forward pass").float()
    old = logp.detach() if batch.old_logp is None else batch.old_logp.float()
    row, weights, mask = batch.row, token_weights(algorithm, batch, counts), batch.mask
    advantage = (batch.advantage[row] if batch.token_advantage is None else batch.token_advantage).float()
    if algorithm.preference_beta > 0:
        reference = _needed(batch.ref_logp, "ref_logp", f"preference_beta={algorithm.preference_beta}").float()
        pairs, pair_sums = pair_loss(algorithm.preference_beta, logp, reference, batch)
        ones = torch.ones_like(old)
        return Loss(pairs / counts.groups, _sums(algorithm, batch, logp.detach(), old, ones, advantage) | pair_sums)

    if algorithm.ratio_level == "none":
        ratio = torch.ones_like(old)
        token_loss = -advantage * logp
    else:
        # bounded before exp: an infinite ratio times advantage or weight 0 would be nan
        log = log_ratio(algorithm.ratio_level, logp, old, row, batch.num_rows)
        ratio = log.clamp(-MISMATCH_BOUND, MISMATCH_BOUND).exp()
        token_loss = clipped_loss(ratio, advantage, algorithm)
    if algorithm.sampler_correction != "none":
        engine = _needed(
            batch.engine_logp, "engine_logp", f"sampler_correction={algorithm.sampler_correction!r}"
        ).float()
        token_loss = token_loss * importance_weight(algorithm, old, engine, row, batch.num_rows)
    if algorithm.kl_in_loss:
        reference = _needed(batch.ref_logp, "ref_logp", f"kl_coef={algorithm.kl_coef}").float()
        token_loss = token_loss + algorithm.kl_coef * kl(algorithm.kl_estimator, logp, reference)

    loss = (token_loss * weights).sum()
    if algorithm.positive_nll > 0 and counts.positive_tokens > 0:
        positive = mask & batch.positive[row]
        loss = loss - algorithm.positive_nll * logp[positive].sum() / counts.positive_tokens
    return Loss(loss, _sums(algorithm, batch, logp.detach(), old, ratio.detach(), advantage))


def contributes(algorithm: Algorithm, batch: Batch) -> Tensor:
    """(B,) False exactly where a row's gradient is exactly 0, so that its forward and backward can be skipped.

    That is: masked rows, and rows with advantage 0 (with a critic: on every token) unless a KL term in the loss, a
    positive-example likelihood term or the loss of a pair still pulls on them.
    """
    pulls = batch.advantage != 0
    if batch.token_advantage is not None:
        pulls = sequence_sum((batch.token_advantage != 0).float(), batch.row, batch.num_rows) > 0
    if algorithm.reference_in_loss:
        pulls = torch.ones_like(pulls)
    if algorithm.positive_nll > 0:
        pulls = pulls | batch.positive
    return pulls & batch.row_mask


def with_logp(batch: Batch, logp: Tensor) -> Batch:
    """The batch with the policy's current log-probabilities (T,), in nats, at the sampling temperature."""
    return replace(batch, logp=logp)


def _needed(values: Tensor | None, name: str, who: str) -> Tensor:
    if values is None:
        raise ValueError(f"batch.{name} is missing: {who} needs the log-probability of every completion token")
    return values


def _sums(
    algorithm: Algorithm, batch: Batch, logp: Tensor, old: Tensor, ratio: Tensor, advantage: Tensor
) -> dict[str, float]:
    mask = batch.mask
    low, high = clipped_tokens(ratio, advantage, algorithm)
    values = {"tokens": mask, "ratio": ratio * mask, "clip_low": low & mask, "clip_high": high & mask}
    values["nll"] = -logp * mask
    if batch.ref_logp is not None:
        values["kl"] = kl("k3", logp, batch.ref_logp.float()) * mask
    if batch.engine_logp is not None:
        # k3 of the sampler's tokens: E_engine[ρ − log ρ − 1] = KL(engine‖trainer)
        values["mismatch"] = kl("k3", batch.engine_logp.float(), old) * mask
    return {name: float(value.sum()) for name, value in values.items()}
