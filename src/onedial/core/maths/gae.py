"""GAE advantages, value targets, the critic's loss, and critic diagnostics (explained variance, calibration error).

V_t is the critic's estimate, before token t is written, of the reward still to come. After the last token nothing
comes, so V is 0 there, for truncated completions too: the verifier has judged them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onedial.core.algorithm import Algorithm
from onedial.core.maths.surrogate import sequence_sum

WHITEN_EPS = 1e-8  # joins the variance: equal advantages give 0, not nan


@dataclass(frozen=True)
class GaeEstimate:
    """(T,) each: `advantage` for the policy, `returns` for the critic, and the plain discounted `outcome` to come."""

    advantage: Tensor
    returns: Tensor
    outcome: Tensor


def compute_gae(
    algorithm: Algorithm,
    rewards: Tensor,
    values: Tensor,
    *,
    offsets: Tensor,
    mask: Tensor,
    warming: bool = False,
) -> GaeEstimate:
    """(T,) token rewards and values of packed rollouts → advantages and value targets, in double precision.

    A = GAE with the policy's λ, whitened over the tokens in `mask` if the row says so; R = A' + V with the
    critic's λ, or λ = 1, Monte-Carlo returns, while it is `warming` up (VAPO, arXiv:2504.05118, §4.1).
    """
    rewards, values = rewards.double(), values.double()
    gamma, lengths = algorithm.gamma, offsets[1:] - offsets[:-1]
    advantage = gae(rewards, values, offsets, gamma, policy_lambda(algorithm, lengths))
    outcome = gae(rewards, values, offsets, gamma, 1.0) + values
    lam = 1.0 if warming else algorithm.lambda_critic
    returns = outcome if lam == 1.0 else gae(rewards, values, offsets, gamma, lam) + values
    return GaeEstimate(whiten(advantage, mask) if algorithm.whiten else advantage, returns, outcome)


def token_rewards(outcome: Tensor, offsets: Tensor, penalty: Tensor | None = None) -> Tensor:
    """(B,) outcome rewards, given on each rollout's last token, less (T,) penalties on every token → (T,)."""
    rewards = outcome.new_zeros(int(offsets[-1])) if penalty is None else -penalty.to(outcome.dtype)
    filled = offsets[1:] > offsets[:-1]  # a rollout without tokens has no place for its reward
    return rewards.index_add(0, offsets[1:][filled] - 1, outcome[filled])


def policy_lambda(algorithm: Algorithm, lengths: Tensor) -> Tensor:
    """(B,) λ of each rollout's advantages: the row's constant, or 1 − 1/(α·l) of its l tokens (VAPO, Eq. 9).

    The formula makes the weights of the TD errors add up to α·l. Where α·l < 1 it would be negative; there it is 0.
    """
    if algorithm.lambda_length == 0:
        return torch.full_like(lengths, algorithm.lambda_policy, dtype=torch.double)
    return (1 - 1 / (algorithm.lambda_length * lengths.clamp(min=1).double())).clamp(0.0, 1.0)


def gae(rewards: Tensor, values: Tensor, offsets: Tensor, gamma: float, lam: float | Tensor) -> Tensor:
    """(T,) advantages A_t = δ_t + γλ·A_{t+1}, δ_t = r_t + γV_{t+1} − V_t, within each packed rollout.

    Generalized advantage estimation (arXiv:1506.02438, Eq. 16); `lam` is one number or (B,). All rollouts go back one
    token at a time together: as many steps as the longest rollout has tokens.
    """
    ends, lengths = offsets[1:], offsets[1:] - offsets[:-1]
    following = torch.cat([values[1:], values.new_zeros(1)])[: len(values)]
    following[ends[lengths > 0] - 1] = 0.0
    delta = rewards + gamma * following - values
    decay = gamma * torch.as_tensor(lam, dtype=delta.dtype, device=delta.device).expand(len(lengths))
    result, last = torch.empty_like(delta), delta.new_zeros(len(lengths))
    for back in range(1, int(lengths.max()) + 1 if len(lengths) else 1):
        live = (lengths >= back).nonzero().squeeze(1)
        place = ends[live] - back
        last[live] = delta[place] + decay[live] * last[live]
        result[place] = last[live]
    return result


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """(T,) → (T,) shifted and scaled so that the tokens in `mask` have mean 0 and sample variance 1.

    As TRL and verl do for PPO (Bessel's correction, 1e-8 joins the variance); the papers do not mention it.
    """
    chosen = values[mask]
    if not len(chosen):
        return values
    mean = chosen.mean()
    variance = (chosen - mean).square().sum() / max(len(chosen) - 1, 1)
    return (values - mean) * torch.rsqrt(variance + WHITEN_EPS)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, weights: Tensor, clip: float | None) -> Tensor:
    """Σ_t w_t · ½·max((V − R)², (clip(V, V_old ± ε) − R)²), the critic's loss; `weights` (T,) are 1/tokens of the step.

    Without `clip` the plain squared error. The clip is that of PPO's released code and of TRL and verl; the paper
    (arXiv:1707.06347, Eq. 9) has none.
    """
    error = (values - returns).square()
    if clip is not None:
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (clipped - returns).square())
    return (0.5 * error * weights).sum()


def explained_variance(values: Tensor, outcome: Tensor) -> Tensor:
    """1 − Var(R − V)/Var(R): 1 where V predicts everything, 0 where it is as good as a constant; nan if R never varies.

    Compares (n,) values with the outcomes themselves: a target that contains V would make the critic look better.
    """
    spread = outcome.var(correction=0)
    unexplained = (outcome - values).var(correction=0)
    return torch.where(spread > 0, 1 - unexplained / spread, torch.nan)


def calibration_error(values: Tensor, outcome: Tensor, bins: int = 10) -> Tensor:
    """Mean gap between predicted and observed outcome, in units of reward: Σ_b (n_b/n)·|mean V − mean R| over bins.

    Bins hold about equally many of the (n,) values; equal values share a bin (expected calibration error of
    arXiv:1706.04599, Eq. 3, with values for probabilities). nan for n = 0.
    """
    if not len(values):
        return values.new_full((), torch.nan)
    edges = values.sort().values[torch.arange(1, bins, device=values.device) * len(values) // bins]
    number = torch.bucketize(values, edges, right=True)
    return sequence_sum(values - outcome, number, bins).abs().sum() / len(values)
