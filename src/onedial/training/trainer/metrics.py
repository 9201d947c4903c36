"""The metrics of an iteration: one flat record, used by metrics.jsonl, the live view and the trackers.

`METRICS` describes each metric and its unit; a test compares it with the records of a run.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from onedial.core.maths.estimators import mean_known
from onedial.core.maths.segments import group_std
from onedial.core.types import Group
from onedial.training.rollout.collector import Collected
from onedial.training.trainer.step import Updated

SIGMA_BINS = 10

METRICS: dict[str, str] = {
    "iteration": "round of rollouts and updates, counted from 1",
    "step": "optimizer steps made so far",
    "time_s": "seconds of the whole iteration, without checkpoint and evaluation",
    "generate_s": "seconds of generation, including verification that overlaps it",
    "verify_s": "seconds spent waiting for verdicts after generation had ended",
    "update_s": "seconds of log-probabilities, gradients, optimizer and weight transfer",
    "reward_mean": "mean outcome reward of all usable rollouts generated",
    "correct_share": "share of usable rollouts judged correct",
    "sigma_mean": "mean over groups of the population std σ̂ of outcome rewards",
    "sigma_hist": "groups per tenth of the σ̂ range 0 … 0.5 (larger values fall into the last bin)",
    "mixed_share": "share of groups whose outcome rewards differ",
    "all_correct_share": "share of groups that are unanimous and correct",
    "all_wrong_share": "share of groups that are unanimous and wrong",
    "silent_other_share": "share of groups with equal rewards that are neither all correct nor all wrong",
    "unusable_share": "share of rollouts whose verifier timed out or failed",
    "groups_generated": "groups generated in this iteration",
    "groups_trained": "groups used in the update",
    "groups_surplus_used": "of those, surplus groups that an earlier iteration had generated",
    "groups_waiting": "surplus mixed groups that wait for the next iteration",
    "exhausted": "1 when the refill limit was reached before the batch was full",
    "rollouts_generated": "completions written; 0 for rows that train on a dataset, whose figures of rollouts are null",
    "tokens_generated": "completion tokens written",
    "tokens_trained": "tokens of the rollouts that had a gradient",
    "trained_share": "tokens_trained over tokens_generated; surplus groups count in the iteration that trains on them",
    "tokens_all_correct": "tokens of unanimous, correct groups",
    "tokens_all_wrong": "tokens of unanimous, wrong groups",
    "prompt_tokens": "prompt tokens read, each prompt once per group",
    "length_mean": "mean completion length, tokens",
    "length_correct_mean": "mean length of correct completions, tokens",
    "length_wrong_mean": "mean length of the other completions, tokens",
    "truncated_share": "share of completions ended by the length limit",
    "entropy": "mean −log p of sampled tokens, nats: an unbiased estimate of the sampling entropy",
    "clip_low_share": "share of trained tokens whose gradient the lower clip stopped",
    "clip_high_share": "share of trained tokens whose gradient the upper clip stopped",
    "clip_high_probability": "mean π_old of the tokens whose gradient the upper clip stopped: how rare they were",
    "ratio_mean": "mean importance ratio of trained tokens",
    "kl_ref": "k3 estimate of KL(policy‖reference) per trained token, nats",
    "mismatch_kl": "k3 estimate of KL(sampler‖trainer) per trained token, nats",
    "nll": "mean −log π of the tokens trained on, nats: for sft, of the demonstrations",
    "pair_accuracy": "share of trained pairs with a positive margin: the policy has moved towards the chosen side",
    "pair_margin": "mean β·(Δlog π chosen − Δlog π rejected) against the reference: DPO's implicit reward margin, nats",
    "chosen_logp": "mean log π of the chosen completions, whole sequences, nats",
    "rejected_logp": "mean log π of the rejected completions, whole sequences, nats",
    "value_loss": "critic: mean of ½(V − R)² over tokens, in reward², clipped where the row says so",
    "explained_variance": "critic: 1 − Var(R − V)/Var(R) over tokens of rollouts it has not learned from; 1 is perfect",
    "value_calibration": "critic: mean gap between V and outcome over tenths of the tokens by V, in units of reward",
    "probe_groups": "probe: mixed groups probed in this iteration; all probe figures use a part of the weights",
    "probe_norm": "probe: mean norm of a group's own gradient, as if the group were the whole step",
    "probe_half_cosine": "probe: mean cosine of the slopes of scores on rewards in two halves of a group",
    "probe_group_cosine": "probe: mean cosine of the gradients of two groups",
    "probe_signal": "probe: squared norm of the true slope, from the product of the halves; may be below 0 by chance",
    "probe_noise": "probe: variance of one rollout's score inside a class, from the difference of the halves",
    "probe_rho": "probe: signal over noise of one rollout, the ρ of the planner",
    "probe_s": "probe: seconds; they are part of time_s",
    "grad_norm": "gradient norm before clipping, mean over the iteration's steps",
    "lr": "learning rate",
    "loss": "value of the objective minimized; its gradient matters, not its level",
    "tokens_per_s": "completion tokens written per second of generation",
    "candidates": "allocator with a belief: prompts looked at before choosing",
    "believed_mean": "mean solve rate believed of the sampled prompts, before their first rollout",
    "audit_prompts": "sampled prompts that were drawn uniformly, independently of the belief",
    "audit_believed": "believed mean solve rate of these prompts",
    "audit_solved": "observed mean solve rate of these prompts",
    "calibration_error": "mean gap between the two, over tenths of the audited prompts by belief, in the run so far",
    "calibration": "per tenth of the believed solve rate: mean believed, mean observed, audited prompts so far",
    "memory_gb": "peak resident memory of the process so far, GB",
}
ALLOCATOR_METRICS = (
    "candidates", "believed_mean", "audit_prompts", "audit_believed", "audit_solved", "calibration_error",
    "calibration",
)  # fmt: skip
"""What an allocator with a belief measures of itself."""


def measure_iteration(
    iteration: int,
    step: int,
    collected: Collected,
    figures: Mapping[str, float],
    updated: Updated,
    times: Mapping[str, float],
) -> dict[str, Any]:
    """Returns the record of an iteration: the keys of `METRICS`, None where nothing was measured.

    `figures` are those of the critic and of the probe.
    """
    groups, allocation = collected.groups, collected.allocation
    tokens = sum(group.num_tokens for group in groups)
    waiting = sum(status == "carried" for status in allocation.statuses.values())
    return {
        "iteration": iteration,
        "step": step,
        **times,
        "generate_s": collected.generate_s,
        "verify_s": collected.verify_wait_s,
        **measure_groups(groups),
        **measure_rollouts(groups),
        "groups_generated": len(groups),
        "groups_trained": len(allocation.train),
        "groups_surplus_used": allocation.carried_in,
        "groups_waiting": waiting,
        "exhausted": int(allocation.exhausted),
        "tokens_generated": tokens,
        "tokens_trained": updated.tokens_trained,
        "trained_share": updated.tokens_trained / tokens if tokens else None,
        "prompt_tokens": sum(len(group.prompt_tokens) for group in groups),
        "clip_low_share": updated.mean("clip_low"),
        "clip_high_share": updated.mean("clip_high"),
        "clip_high_probability": updated.mean("clip_high_p", "clip_high"),
        "ratio_mean": updated.mean("ratio"),
        "kl_ref": updated.mean("kl"),
        "mismatch_kl": updated.mean("mismatch"),
        "nll": updated.mean("nll"),
        "pair_accuracy": updated.mean("pair_right", "pairs"),
        "pair_margin": updated.mean("margin", "pairs"),
        "chosen_logp": updated.mean("chosen_logp", "pairs"),
        "rejected_logp": updated.mean("rejected_logp", "pairs"),
        "value_loss": updated.value_loss,
        "explained_variance": figures.get("explained_variance"),
        "value_calibration": figures.get("value_calibration"),
        **{key: figures.get(key) for key in METRICS if key.startswith("probe_")},
        "grad_norm": updated.grad_norm,
        "lr": updated.lr,
        "loss": updated.loss,
        "tokens_per_s": tokens / collected.generate_s if collected.generate_s > 0 else None,
        **{name: allocation.figures.get(name) for name in ALLOCATOR_METRICS},
        "memory_gb": peak_memory_gb(),
    }


def measure_groups(groups: Sequence[Group]) -> dict[str, Any]:
    """Returns σ̂ and the shares of mixed and silent groups, over groups of two or more usable rollouts."""
    complete = [group for group in groups if len(group.usable) > 1]
    all_correct = [g for g in complete if not g.mixed and all(r.verdict.correct for r in g.usable)]
    all_wrong = [g for g in complete if not g.mixed and all(r.verdict.correct is False for r in g.usable)]
    mixed = sum(group.mixed for group in complete)
    rewards = torch.tensor([reward for group in complete for reward in group.rewards], dtype=torch.double)
    number = torch.tensor([g for g, group in enumerate(complete) for _ in group.usable], dtype=torch.long)
    sigma = group_std(rewards, number)
    counts = torch.histc(sigma.clamp(max=0.5).float(), SIGMA_BINS, 0.0, 0.5)
    count = len(complete)
    other = count - mixed - len(all_correct) - len(all_wrong)
    return {
        "sigma_mean": float(sigma.mean()) if count else None,
        "sigma_hist": [int(n) for n in counts],
        "mixed_share": mixed / count if count else None,
        "all_correct_share": len(all_correct) / count if count else None,
        "all_wrong_share": len(all_wrong) / count if count else None,
        "silent_other_share": other / count if count else None,
        "tokens_all_correct": sum(group.num_tokens for group in all_correct),
        "tokens_all_wrong": sum(group.num_tokens for group in all_wrong),
    }


def measure_rollouts(groups: Sequence[Group]) -> dict[str, Any]:
    """Returns mean rewards, lengths and entropy over rollouts."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    usable = [rollout for rollout in rollouts if rollout.verdict.usable]
    lengths = [len(rollout.completion.token_ids) for rollout in rollouts]
    correct = [len(rollout.completion.token_ids) for rollout in usable if rollout.verdict.correct]
    wrong = [len(rollout.completion.token_ids) for rollout in usable if not rollout.verdict.correct]
    negative_logps = [-logp for rollout in rollouts for logp in rollout.completion.logps]
    return {
        "reward_mean": mean_known([rollout.verdict.reward for rollout in usable]),
        "correct_share": mean_known([float(bool(rollout.verdict.correct)) for rollout in usable]),
        "unusable_share": mean_known([float(not rollout.verdict.usable) for rollout in rollouts]),
        "rollouts_generated": len(rollouts),
        "length_mean": mean_known(lengths),
        "length_correct_mean": mean_known(correct),
        "length_wrong_mean": mean_known(wrong),
        "truncated_share": mean_known([float(rollout.completion.truncated) for rollout in rollouts]),
        "entropy": mean_known(negative_logps),
    }


def peak_memory_gb() -> float:
    """Returns the peak resident memory of this process, GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
