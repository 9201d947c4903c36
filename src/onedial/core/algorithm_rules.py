"""Which cells of an algorithm row exclude each other: each rule with its reason and remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onedial.core.algorithm import Algorithm

OF_CRITICS = ("gamma", "lambda_policy", "lambda_length", "lambda_critic", "value_clip", "whiten", "critic_warmup")
"""Cells that only a row with a critic uses."""
NEUTRAL_FOR_PAIRS = {
    "baseline": "none", "ratio_level": "none", "sampler_correction": "none", "keep": "all", "overlong": "none",
    "kl_coef": 0, "positive_nll": 0, "entropy_coef": 0, "aggregate": "sequence_sum",
}  # fmt: skip
"""What a row that trains on pairs must leave these cells at."""
NEUTRAL_FOR_LISTS = {
    "ratio_level": "token", "clip_low": None, "clip_high": None, "clip_dual": None, "sampler_correction": "none",
    "aggregate": "sequence_sum", "source": "policy",
}  # fmt: skip
"""What a row with a listwise loss must leave these cells at."""

Rules = list[tuple[bool, str]]
"""Whether a rule is broken, and the message."""


def find_contradictions(row: Algorithm) -> list[str]:
    """Reasons why the cells of a row cannot be combined; empty for a valid row."""
    rules = [*_ratio_rules(row), *_group_rules(row), *_length_rules(row), *_critic_rules(row)]
    rules += [*_offline_rules(row), *_list_rules(row)]
    return [reason for broken, reason in rules if broken]


def _ratio_rules(row: Algorithm) -> Rules:
    clips = row.clip_low is not None or row.clip_high is not None
    return [
        (
            row.ratio_level == "none" and clips,
            "clip_low/clip_high bound a ratio, but ratio_level='none' has no ratio; set ratio_level",
        ),
        (
            (row.clip_low is None) != (row.clip_high is None),
            "clip_low and clip_high come together; set both or neither",
        ),
        (
            row.ratio_level != "token" and row.clip_dual is not None,
            "clip_dual bounds a token ratio; it needs ratio_level='token'",
        ),
        (
            row.ratio_level == "none" and row.epochs_per_iteration > 1,
            "epochs_per_iteration > 1 trains on old rollouts, which needs a ratio; set ratio_level='token' or "
            "'sequence'",
        ),
        (
            row.ratio_level == "none" and row.refill,
            "refill lets surplus groups wait for a later policy, which needs a ratio; set ratio_level='token' or "
            "'sequence', or refill=False",
        ),
        (
            row.ratio_level == "none" and row.updates_per_iteration > 1,
            "updates_per_iteration > 1 trains on old rollouts, which needs a ratio; set ratio_level='token' or "
            "'sequence'",
        ),
        (
            row.correction_floor >= row.correction_cap,
            f"correction_floor={row.correction_floor:g} must be below correction_cap={row.correction_cap:g}, or every "
            "token is masked; lower the floor",
        ),
    ]


def _group_rules(row: Algorithm) -> Rules:
    return [
        (
            row.baseline == "none" and row.dial > 0,
            "dial > 0 divides by σ̂, which is 0 in a unanimous group; without a centring baseline set dial=0",
        ),
        (
            row.scale_over == "batch" and row.dial == 0,
            "scale_over='batch' says over what to take σ̂, but dial=0 does not divide by it",
        ),
        (
            row.baseline == "posterior" and row.dial > 0 and row.scale_over == "group",
            "dial > 0 divides by a group's σ̂, which is 0 in a unanimous group, and baseline='posterior' leaves an "
            "advantage there; set dial=0 or scale_over='batch'",
        ),
        (
            row.baseline == "posterior" and row.reward != "task",
            f"baseline='posterior' is what the task's reward was expected to be, not that of reward={row.reward!r}; "
            "set reward='task'",
        ),
        (
            row.baseline == "posterior" and row.keep == "mixed",
            "baseline='posterior' makes unanimous groups teach, and keep='mixed' drops them; set keep='all'",
        ),
        (row.refill and row.keep == "all", "refill replaces groups that keep='all' never drops; set keep='mixed'"),
        (
            row.keep == "mixed" and row.group_size == 1,
            "keep='mixed' drops every group of one; set group_size ≥ 2",
        ),
        (
            row.baseline in ("group_mean", "leave_one_out") and row.group_size == 1,
            f"baseline={row.baseline!r} of a group of one leaves nothing to learn; set group_size ≥ 2",
        ),
    ]


def _list_rules(row: Algorithm) -> Rules:
    """Rules of rows whose rollouts are compared as sets: pass@k and the listwise loss."""
    changed = [name for name, neutral in NEUTRAL_FOR_LISTS.items() if getattr(row, name) != neutral]
    return [
        (
            row.pass_k > 1 and (row.baseline != "leave_one_out" or row.dial > 0),
            "pass_k > 1 has the other rollouts' best of k as its baseline; set baseline='leave_one_out' and dial=0",
        ),
        (
            row.pass_k > 1 and row.group_size is not None and row.group_size <= row.pass_k,
            f"pass_k={row.pass_k} compares sets of {row.pass_k} with and without a rollout; set group_size > pass_k",
        ),
        (
            row.listwise != "none" and bool(changed),
            "a listwise loss compares whole sequences with the policy that sampled them; set "
            + ", ".join(f"{name}={NEUTRAL_FOR_LISTS[name]!r}" for name in changed),
        ),
        (
            row.listwise != "none" and row.baseline != "group_mean",
            "a listwise loss takes the softmax of (r − mean)/σ̂^dial; set baseline='group_mean'",
        ),
        (
            row.listwise != "none" and row.masks_truncated,
            f"overlong={row.overlong!r} takes rollouts out of the list that a listwise loss is made of; set "
            "overlong='none' or 'penalty'",
        ),
    ]


def _length_rules(row: Algorithm) -> Rules:
    return [
        (
            not row.penalizes_length and row.overlong_buffer > 0,
            "overlong_buffer is used by overlong='penalty' and 'mask_and_penalty' only",
        ),
        (
            row.length_budget is not None and row.aggregate != "fixed_length",
            "length_budget is the divisor of aggregate='fixed_length' only",
        ),
    ]


def _critic_rules(row: Algorithm) -> Rules:
    changed = [cell for cell in OF_CRITICS if getattr(row, cell) != getattr(type(row), cell)]
    return [
        (
            row.needs_critic and row.dial > 0,
            "dial > 0 divides by a group's σ̂, but a critic's advantages know no group; set dial=0 (whiten scales them)",
        ),
        (
            bool(changed) and not row.needs_critic,
            f"{', '.join(changed)} speaks of a critic, which the row does not have; set baseline='critic'",
        ),
        (
            row.needs_critic and row.source != "policy",
            f"a critic foresees what a policy earns; with source={row.source!r} another writes; set source='policy'",
        ),
        (
            row.lambda_length > 0 and row.lambda_policy != 1,
            "lambda_length makes λ from each completion's length, so lambda_policy has no say; leave it at 1",
        ),
    ]


def _offline_rules(row: Algorithm) -> Rules:
    """Rules for rows that train on a dataset, which has no sampler and no verdicts."""
    pairs = row.source == "pairs"
    changed = [name for name, neutral in NEUTRAL_FOR_PAIRS.items() if getattr(row, name) != neutral]
    return [
        (
            pairs != (row.preference_beta > 0),
            "preference_beta > 0 (the loss of a pair) and source='pairs' come together; set both or neither",
        ),
        (
            row.source == "dataset" and row.reward != "one",
            f"source='dataset' has no verdicts, and reward={row.reward!r} needs them; set reward='one'",
        ),
        (
            row.source != "dataset" and row.reward == "one",
            "reward='one' would train on wrong completions as on correct ones; it is for source='dataset'",
        ),
        (
            not row.generates and row.group_size != (2 if pairs else 1),
            f"source={row.source!r} gives groups of {2 if pairs else 1}; set group_size to that",
        ),
        (
            row.source == "dataset" and (row.ratio_level != "none" or row.sampler_correction != "none"),
            "source='dataset' knows no sampler's probabilities to correct for; set ratio_level='none' and "
            "sampler_correction='none'",
        ),
        (
            pairs and bool(changed),
            "the loss of a pair is made of sequence sums against the reference alone; set "
            + ", ".join(f"{name}={NEUTRAL_FOR_PAIRS[name]!r}" for name in changed),
        ),
    ]
