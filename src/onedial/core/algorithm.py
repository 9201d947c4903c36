"""An algorithm is one frozen row of independent choices; `onedial.core.algorithm_table` is the table of named rows.

A new algorithm is `dataclasses.replace(row, cell=value)`. A cell that names a function also takes one.
Rows that contradict themselves are refused when they are made, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from onedial.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    BaselineFunction = Callable[[Tensor], Tensor]
else:
    BaselineFunction = Callable  # the table itself needs no torch, which takes a second to load
"""(N, G) rewards of N groups of one size → (N, 1) or (N, G) baselines; called once per group size."""

CHOICES: dict[str, tuple[str, ...]] = {
    "source": ("policy", "reference", "dataset", "pairs"),
    "reward": ("task", "correct", "one"),
    "baseline": ("none", "group_mean", "leave_one_out", "critic"),
    "scale_over": ("group", "batch"),
    "ratio_level": ("none", "token", "sequence"),
    "aggregate": ("sequence_mean", "token_mean", "group_token_mean", "fixed_length", "sequence_sum"),
    "kl_estimator": ("k1", "k2", "k3"),
    "kl_in": ("loss", "reward"),
    "keep": ("all", "mixed"),
    "overlong": ("none", "mask", "penalty"),
    "sampler_correction": ("none", "truncate", "mask"),
    "correction_level": ("token", "sequence"),
}


@dataclass(frozen=True)
class Algorithm:
    """One row: how rewards become advantages, advantages a loss, and which groups are kept.

    Advantage A = (r − b) / (σ̂ + eps)^dial, or with a critic one of every token (`maths.critic`);
    loss = Σ_t w_t·surrogate_t + kl_coef·Σ_t w_t·KL_t, where the weights w_t come from `aggregate` and the counts
    of the whole optimiser step.
    """

    name: str
    paper: str = ""
    baseline: str | BaselineFunction = "group_mean"  # b: subtracted from the reward
    dial: float = 1.0  # α: 1 divides by σ̂ (GRPO), 0 does not (Dr. GRPO), 2 weighs both classes equally
    ddof: int = 0  # 0: population σ̂; 1: torch's and numpy-ddof=1 convention (TRL, verl)
    eps: float = 1e-6  # joins σ̂, so that a group of equal rewards gives 0 and not nan
    scale_over: str = "group"  # σ̂ of the row's group, or of all rewards of the iteration
    ratio_level: str = "token"  # importance ratio π/π_old: none, per token, or one per sequence (GSPO)
    clip_low: float | None = None  # distance below 1 at which a falling ratio stops counting
    clip_high: float | None = None  # distance above 1 at which a rising ratio stops counting
    clip_dual: float | None = None  # c > 1: bounds the loss of negative advantages at c·|A|
    aggregate: str = "sequence_mean"  # how token losses become one number
    length_budget: int | None = None  # tokens; divisor of fixed_length (None: the run's max_new_tokens)
    kl_coef: float = 0.0  # weight of the KL to the frozen reference, per token (nats)
    kl_estimator: str = "k3"  # Schulman's k1, k2 or k3
    kl_in: str = "loss"  # add it to the loss, or subtract it from the reward
    keep: str = "all"  # train on all groups, or on those whose outcome rewards differ
    refill: bool = False  # sample further prompts until the batch is full of kept groups (DAPO)
    overlong: str = "none"  # truncated completions: leave in, leave out of the loss, or soft penalty
    overlong_buffer: int = 0  # tokens before the limit over which the penalty falls from 0 to −1
    updates_per_iteration: int = 1  # mini-batches, one optimizer step each, that a round of rollouts is cut into
    epochs_per_iteration: int = 1  # passes over a round of rollouts (PPO's K, GRPO's μ), cut anew each time
    group_size: int | None = None  # fixed by the row (2-GRPO); None: the run's
    positive_nll: float = 0.0  # weight of −mean log π over the tokens of correct completions (VAPO)
    sampler_correction: str = "none"  # correction of sampler≠trainer, exp(old_logp − engine_logp)
    correction_level: str = "token"  # per token, or the product over the sequence
    correction_cap: float = 2.0  # truncate: upper bound of the weight; mask: weights above become 0
    correction_floor: float = 0.0  # mask: weights below become 0
    gamma: float = 1.0  # critic: discount of a reward per token that comes before it
    lambda_policy: float = 1.0  # critic: GAE λ of the advantages; 1 is outcome − V, 0 the step V_{t+1} − V_t
    lambda_length: float = 0.0  # critic: α > 0 takes λ = 1 − 1/(α·l) for l tokens instead (VAPO), at least 0
    lambda_critic: float = 1.0  # critic: GAE λ of what it learns; 1 is the outcome itself
    value_clip: float | None = None  # critic: distance from its old value beyond which a change stops counting
    whiten: bool = False  # critic: advantages of an iteration's tokens to mean 0 and variance 1
    critic_warmup: int = 0  # critic: first iterations, in which it alone learns, from outcomes
    source: str = "policy"  # who writes: the policy, the frozen reference (RFT), a data set, or a data set of pairs
    reward: str = "task"  # the verifier's, 1 for what it judged correct and else 0 (RFT), or 1 for all (SFT)
    preference_beta: float = 0.0  # β > 0: the logistic loss of DPO on pairs, against the frozen reference

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("algorithm.name is empty: a row needs a name, it labels runs and plots")
        for cell, allowed in CHOICES.items():
            self._check_choice(cell, allowed)
        self._check_numbers()
        for reason in contradictions(self):
            raise ConfigError(f"algorithm {self.name!r}: {reason}")

    def _check_choice(self, cell: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, cell)
        if cell == "baseline" and callable(value):
            return
        if value not in allowed:
            hint = nearest(str(value), allowed)
            raise ConfigError(f"algorithm.{cell}={value!r}: must be one of {', '.join(allowed)}{hint}")

    def _check_numbers(self) -> None:
        rules: list[tuple[str, bool, str]] = [
            ("dial", 0 <= self.dial <= 4, "must lie in [0, 4]; 1 is GRPO, 0 is Dr. GRPO"),
            ("ddof", self.ddof in (0, 1), "must be 0 (population) or 1 (sample)"),
            ("eps", self.eps > 0, "must be positive; 1e-6 is usual"),
            ("clip_low", self.clip_low is None or 0 < self.clip_low < 1, "must lie in (0, 1); 0.2 is usual"),
            ("clip_high", self.clip_high is None or self.clip_high > 0, "must be positive; 0.2 or 0.28 is usual"),
            ("clip_dual", self.clip_dual is None or self.clip_dual > 1, "must exceed 1; 3 is usual"),
            ("length_budget", self.length_budget is None or self.length_budget > 0, "must be at least 1 token"),
            ("kl_coef", self.kl_coef >= 0, "must not be negative; 0.001 to 0.05 is usual"),
            ("overlong_buffer", self.overlong_buffer >= 0, "must not be negative"),
            ("updates_per_iteration", self.updates_per_iteration >= 1, "must be at least 1"),
            ("epochs_per_iteration", self.epochs_per_iteration >= 1, "must be at least 1; PPO's K"),
            ("group_size", self.group_size is None or self.group_size >= 1, "must be at least 1"),
            ("positive_nll", self.positive_nll >= 0, "must not be negative; 0.1 is VAPO's"),
            ("correction_cap", self.correction_cap > 0, "must be positive; 2 is usual"),
            ("gamma", 0 < self.gamma <= 1, "must lie in (0, 1]; 1 is usual"),
            ("lambda_policy", 0 <= self.lambda_policy <= 1, "must lie in [0, 1]; 0.95 is usual"),
            ("lambda_length", self.lambda_length >= 0, "must not be negative; 0 switches it off, 0.05 is VAPO's"),
            ("lambda_critic", 0 <= self.lambda_critic <= 1, "must lie in [0, 1]; 0.95 or 1 is usual"),
            ("value_clip", self.value_clip is None or self.value_clip > 0, "must be positive; 0.2 is usual"),
            ("critic_warmup", self.critic_warmup >= 0, "must not be negative"),
            ("correction_floor", 0 <= self.correction_floor < self.correction_cap, "must lie in [0, correction_cap)"),
            ("preference_beta", self.preference_beta >= 0, "must not be negative; 0.1 is usual"),
        ]
        for cell, fine, allowed in rules:
            if not fine:
                raise ConfigError(f"algorithm.{cell}={getattr(self, cell)!r}: {allowed}")

    @property
    def needs_reference(self) -> bool:
        """Whether a frozen reference model takes part."""
        return self.kl_coef > 0 or self.preference_beta > 0 or self.source == "reference"

    @property
    def generates(self) -> bool:
        """Whether an engine writes completions in training; else they come from a data set."""
        return self.source in ("policy", "reference")

    @property
    def reference_in_loss(self) -> bool:
        """Whether the loss needs the reference's log-probabilities."""
        return self.kl_in_loss or self.preference_beta > 0

    @property
    def needs_critic(self) -> bool:
        """Whether a learned value takes the place of a group's statistic."""
        return self.baseline == "critic"

    @property
    def kl_in_loss(self) -> bool:
        """Whether every token has a KL gradient, silent groups included."""
        return self.kl_coef > 0 and self.kl_in == "loss"

    def cells(self) -> dict[str, Any]:
        """The row as plain values for TOML and JSON; a callable is written as its name."""
        values = {cell.name: getattr(self, cell.name) for cell in fields(self)}
        if callable(self.baseline):
            values["baseline"] = getattr(self.baseline, "__name__", "callable")
        return values


# Cells that say something of a critic only; the class's own defaults stand for "not said".
OF_CRITICS = ("gamma", "lambda_policy", "lambda_length", "lambda_critic", "value_clip", "whiten", "critic_warmup")


def contradictions(row: Algorithm) -> list[str]:
    """Reasons why the cells of a row cannot stand together; empty for a sound row."""
    clips = row.clip_low is not None or row.clip_high is not None
    idle = [] if row.needs_critic else [cell for cell in OF_CRITICS if getattr(row, cell) != getattr(Algorithm, cell)]
    rules: list[tuple[bool, str]] = [
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
            row.baseline == "none" and row.dial > 0,
            "dial > 0 divides by σ̂, which is 0 in a unanimous group; without a centring baseline set dial=0",
        ),
        (
            row.scale_over == "batch" and row.dial == 0,
            "scale_over='batch' says over what to take σ̂, but dial=0 does not divide by it",
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
        (
            row.overlong == "penalty" and row.overlong_buffer == 0,
            "overlong='penalty' needs overlong_buffer > 0 tokens over which the penalty grows",
        ),
        (
            row.overlong != "penalty" and row.overlong_buffer > 0,
            "overlong_buffer is used by overlong='penalty' only",
        ),
        (
            row.length_budget is not None and row.aggregate != "fixed_length",
            "length_budget is the divisor of aggregate='fixed_length' only",
        ),
        (
            row.needs_critic and row.dial > 0,
            "dial > 0 divides by a group's σ̂, but a critic's advantages know no group; set dial=0 (whiten scales them)",
        ),
        (bool(idle), f"{', '.join(idle)} speaks of a critic, which the row does not have; set baseline='critic'"),
        (
            row.needs_critic and row.source != "policy",
            f"a critic foresees what a policy earns; with source={row.source!r} another writes; set source='policy'",
        ),
        (
            row.lambda_length > 0 and row.lambda_policy != 1,
            "lambda_length makes λ from each completion's length, so lambda_policy has no say; leave it at 1",
        ),
        *_offline_contradictions(row),
    ]
    return [reason for broken, reason in rules if broken]


def _offline_contradictions(row: Algorithm) -> list[tuple[bool, str]]:
    """The rules of rows that train on what another wrote: a data set has no sampler and no verdicts."""
    offline, pairs = not row.generates, row.source == "pairs"
    aside = {
        "baseline": "none", "ratio_level": "none", "sampler_correction": "none", "keep": "all", "overlong": "none",
        "kl_coef": 0, "positive_nll": 0, "aggregate": "sequence_sum",
    }  # fmt: skip
    more = [name for name, plain in aside.items() if getattr(row, name) != plain]
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
            "reward='one' would train on wrong completions as on right ones; it is for source='dataset'",
        ),
        (
            offline and row.group_size != (2 if pairs else 1),
            f"source={row.source!r} gives groups of {2 if pairs else 1}; set group_size to that",
        ),
        (
            row.source == "dataset" and (row.ratio_level != "none" or row.sampler_correction != "none"),
            "source='dataset' knows no sampler's probabilities to correct for; set ratio_level='none' and "
            "sampler_correction='none'",
        ),
        (
            pairs and bool(more),
            "the loss of a pair is made of sequence sums against the reference alone; set "
            + ", ".join(f"{name}={aside[name]!r}" for name in more),
        ),
    ]
