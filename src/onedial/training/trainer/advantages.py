"""The advantage stage: rewards are shaped, compared within their group or with a critic, and written to the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from onedial.core.algorithm import Algorithm
from onedial.core.batch import Batch
from onedial.core.maths.advantage import advantages, overlong_penalty
from onedial.core.maths.gae import calibration_error, compute_gae, explained_variance, token_rewards
from onedial.core.maths.kl import kl
from onedial.core.maths.surrogate import sequence_sum
from onedial.training.trainer.critic import Critic
from onedial.training.trainer.policy import Policy, evaluate_logps

# The reward a row trains on, from the verifier's reward and from what was judged correct. `correct` is not the reward
# itself, which may be −1 or a half.
REWARDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "task": lambda reward, positive: reward,
    "signed": lambda reward, positive: 2 * reward - 1,
    "correct": lambda reward, positive: positive.to(reward.dtype),
    "one": lambda reward, positive: torch.ones_like(reward),
}


def compute_advantages(
    batch: Batch, policy: Policy, reference: nn.Module | None, critic: Critic | None, *, iteration: int
) -> tuple[Batch, dict[str, float]]:
    """The batch with its advantages, and figures on how well a critic predicted the rewards (empty without a critic).

    With kl_in="reward" the reference is evaluated, with a critic its values: one forward pass without gradient each.
    """
    run, row = policy.run, policy.run.algorithm
    token_kl = None
    if row.kl_coef > 0 and row.kl_in == "reward" and reference is not None:
        token_kl = kl_to_reference(policy, batch, reference)
    if critic is None:
        return add_advantages(row, batch, max_new_tokens=run.max_new_tokens, token_kl=token_kl), {}
    batch = add_advantages(row, batch, max_new_tokens=run.max_new_tokens)
    return add_gae(row, batch, critic.values(batch), token_kl, iteration=iteration)


def kl_to_reference(policy: Policy, batch: Batch, reference: nn.Module) -> Tensor:
    """(T,) KL of the policy to the reference on each token, in nats, for kl_in="reward"."""
    reference_logp = evaluate_logps(policy, batch, reference)
    own = evaluate_logps(policy, batch)
    return kl(policy.run.algorithm.kl_estimator, own, reference_logp)


def shape_rewards(
    algorithm: Algorithm, reward: Tensor, positive: Tensor, lengths: Tensor, *, max_new_tokens: int
) -> Tensor:
    """(B,) rewards the row trains on, with the overlong penalty for completions of `lengths` tokens.

    The penalty is added after the verifier has judged, so the log still shows whether all of a group's rewards were
    equal before it.
    """
    shaped = REWARDS[algorithm.reward](reward, positive)
    if buffer := algorithm.penalty_buffer(max_new_tokens):
        shaped = shaped + overlong_penalty(lengths, max_new_tokens, buffer)
    return shaped


def add_advantages(algorithm: Algorithm, batch: Batch, *, max_new_tokens: int, token_kl: Tensor | None = None) -> Batch:
    """Adds `shaped_reward`, `advantage`, `rollout_mask` and `group_tokens` to a packed batch.

    `token_kl` (T,), in nats, is summed over each completion and subtracted from its reward (kl_in="reward").
    """
    shaped = shape_rewards(algorithm, batch["reward"], batch["positive"], batch.lengths, max_new_tokens=max_new_tokens)
    if token_kl is not None:
        sums = sequence_sum(token_kl, batch.rollout_of_token, batch.num_rollouts)
        shaped = shaped - algorithm.kl_coef * sums.double()
    mask = ~batch["truncated"] if algorithm.masks_truncated else torch.ones_like(batch["truncated"])
    group_tokens = torch.zeros(len(batch.group_ids), dtype=torch.long)
    group_tokens = group_tokens.index_add(0, batch.group, batch.lengths * mask)
    return batch.annotate(
        shaped_reward=shaped,
        advantage=advantages(
            algorithm, shaped, batch.group, expected=batch.get("expected"), weight=batch.get("weight")
        ),
        rollout_mask=mask,
        group_tokens=group_tokens[batch.group],
    )


def add_gae(
    algorithm: Algorithm, batch: Batch, values: Tensor, token_kl: Tensor | None, *, iteration: int
) -> tuple[Batch, dict[str, float]]:
    """Adds token-level GAE advantages and returns from the critic's (T,) values, and measures the critic on them.

    `token_kl` (T,), in nats, is subtracted from each token's reward (kl_in="reward"). The rollout's `advantage`, which
    the log shows, becomes the mean over its tokens. `iteration` counts from 1.
    """
    penalty = None if token_kl is None else algorithm.kl_coef * token_kl.double()
    estimate = compute_gae(
        algorithm,
        token_rewards(batch["shaped_reward"], batch.offsets, penalty),
        values,
        offsets=batch.offsets,
        mask=batch.mask,
        warming=iteration <= algorithm.critic_warmup,
    )
    index, count = batch.rollout_of_token, batch.num_rollouts
    shaped = batch["shaped_reward"]
    annotated = batch.annotate(
        shaped_reward=shaped if penalty is None else shaped - sequence_sum(penalty, index, count),
        advantage=sequence_sum(estimate.advantage, index, count) / batch.lengths.clamp(min=1),
        token_advantage=estimate.advantage.float(),
        value=values,
        returns=estimate.returns.float(),
    )
    foreseen, outcome = values.double()[batch.mask], estimate.outcome[batch.mask]
    figures = {
        "explained_variance": float(explained_variance(foreseen, outcome)) if len(outcome) else float("nan"),
        "value_calibration": float(calibration_error(foreseen, outcome)),
    }
    return annotated, {name: value for name, value in figures.items() if value == value}
