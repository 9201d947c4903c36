"""An algorithm is one frozen row of independent choices; `onedial.core.algorithm_table` is the table of named rows.

A new algorithm is `dataclasses.replace(row, cell=value)`. A cell that accepts the name of a function also accepts a
function. A row whose cells contradict each other is refused when it is made, with the reason
(`onedial.core.algorithm_rules`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from onedial.core.algorithm_rules import find_contradictions
from onedial.core.errors import ConfigError
from onedial.core.field_rules import check_fields, setting

if TYPE_CHECKING:
    from torch import Tensor

    BaselineFunction = Callable[[Tensor], Tensor]
else:
    BaselineFunction = Callable  # the table itself needs no torch, which takes a second to load
"""(N, G) rewards of N groups of one size → (N, 1) or (N, G) baselines; called once per group size."""


@dataclass(frozen=True)
class Algorithm:
    """One row: how rewards become advantages, how advantages become a loss, and which groups are kept.

    Advantage A = (r − b) / (σ̂ + eps)^dial, or with a critic one for every token (`core.maths.gae`); loss = Σ_t
    w_t·surrogate_t + kl_coef·Σ_t w_t·KL_t, where the weights w_t come from `aggregate` and the counts of the whole
    optimizer step.
    """

    name: str = setting(help="label of runs and plots")
    paper: str = setting("", "where the row comes from")
    baseline: str | BaselineFunction = setting(
        "group_mean",
        "b: subtracted from the reward, or a function of the rewards that gives it; posterior: what the allocator "
        "expected of the prompt",
        choices=("none", "group_mean", "leave_one_out", "posterior", "critic"),
    )
    dial: float = setting(
        1.0,
        "α: 1 divides by σ̂ (GRPO), 0 does not (Dr. GRPO), 2 weighs both classes equally",
        at_least=0,
        at_most=4,
        note="1 is GRPO, 0 is Dr. GRPO",
    )
    ddof: int = setting(
        0,
        "0: population σ̂; 1: torch's and numpy-ddof=1 convention (TRL, verl)",
        at_least=0,
        at_most=1,
        note="0 is the population's σ̂, 1 the sample's",
    )
    eps: float = setting(
        1e-6, "added to σ̂, so that a group of equal rewards gives 0 and not nan", above=0, note="1e-6 is usual"
    )
    scale_over: str = setting(
        "group", "σ̂ of the rollout's group, or of all rewards of the iteration", choices=("group", "batch")
    )
    ratio_level: str = setting(
        "token",
        "ratio π/π_old: none, one per token, or one per sequence (GSPO)",
        choices=("none", "token", "sequence"),
    )
    clip_low: float | None = setting(
        None, "distance below 1 at which a falling ratio stops counting", above=0, below=1, note="0.2 is usual"
    )
    clip_high: float | None = setting(
        None, "distance above 1 at which a rising ratio stops counting", above=0, note="0.2 or 0.28 is usual"
    )
    clip_dual: float | None = setting(
        None, "c > 1: bounds the loss of negative advantages at c·|A|", above=1, note="3 is usual"
    )
    aggregate: str = setting(
        "sequence_mean",
        "how token losses become one number",
        choices=("sequence_mean", "token_mean", "group_token_mean", "fixed_length", "sequence_sum"),
    )
    length_budget: int | None = setting(
        None, "tokens; divisor of fixed_length (none: the run's max_new_tokens)", at_least=1
    )
    pass_k: int = setting(
        1,
        "k > 1: a rollout counts by what it adds to the best of k of its group, which increases pass@k",
        at_least=1,
        note="1 is pass@1",
    )
    listwise: str = setting(
        "none",
        "LPO: projects the group's policy on the softmax of its advantages, by KL(target‖policy) or the reverse",
        choices=("none", "forward", "reverse"),
    )
    entropy_coef: float = setting(
        0.0,
        "weight of the policy's entropy per token (nats), which the loss rewards",
        at_least=0,
        note="0.01 is PPO's",
    )
    kl_coef: float = setting(
        0.0,
        "weight of the KL to the frozen reference, per token (nats)",
        at_least=0,
        note="0.001 to 0.05 is usual",
    )
    kl_estimator: str = setting("k3", "Schulman's k1, k2 or k3", choices=("k1", "k2", "k3"))
    kl_in: str = setting("loss", "add the KL to the loss, or subtract it from the reward", choices=("loss", "reward"))
    keep: str = setting(
        "all", "train on all groups, or on those whose outcome rewards differ", choices=("all", "mixed")
    )
    refill: bool = setting(False, "sample further prompts until the batch is full of kept groups (DAPO)")
    overlong: str = setting(
        "none",
        "truncated completions: leave in, leave out of the loss, soft length penalty on the reward, or both",
        choices=("none", "mask", "penalty", "mask_and_penalty"),
    )
    overlong_buffer: int = setting(
        0,
        "tokens before the limit over which the penalty falls from 0 to −1; 0: a fifth of the limit (DAPO's share)",
        at_least=0,
    )
    updates_per_iteration: int = setting(
        1, "mini-batches, one optimizer step each, that an iteration's rollouts are split into", at_least=1
    )
    epochs_per_iteration: int = setting(
        1,
        "passes over an iteration's rollouts (PPO's K, GRPO's μ), split anew each time",
        at_least=1,
        note="PPO's K",
    )
    group_size: int | None = setting(None, "fixed by the row (2-GRPO); none: the run's", at_least=1)
    positive_nll: float = setting(
        0.0, "weight of −mean log π over the tokens of correct completions (VAPO)", at_least=0, note="0.1 is VAPO's"
    )
    sampler_correction: str = setting(
        "none",
        "correction of sampler≠trainer, exp(old_logp − engine_logp): its weight, capped, or masked outside bounds",
        choices=("none", "truncate", "mask"),
    )
    correction_level: str = setting(
        "token", "the correction's weight per token, or the product over the sequence", choices=("token", "sequence")
    )
    correction_cap: float = setting(
        2.0, "truncate: upper bound of the weight; mask: weights above become 0", above=0, note="2 is usual"
    )
    correction_floor: float = setting(
        0.0, "mask: weights below become 0", at_least=0, note="it must be below correction_cap"
    )
    gamma: float = setting(
        1.0, "critic: discount of a reward per token that comes before it", above=0, at_most=1, note="1 is usual"
    )
    lambda_policy: float = setting(
        1.0,
        "critic: GAE λ of the advantages; 1 is outcome − V, 0 the step V_{t+1} − V_t",
        at_least=0,
        at_most=1,
        note="0.95 is usual",
    )
    lambda_length: float = setting(
        0.0,
        "critic: α > 0 takes λ = 1 − 1/(α·l) for l tokens instead (VAPO), at least 0",
        at_least=0,
        note="0 switches it off, 0.05 is VAPO's",
    )
    lambda_critic: float = setting(
        1.0,
        "critic: GAE λ of what it learns; 1 is the outcome itself",
        at_least=0,
        at_most=1,
        note="0.95 or 1 is usual",
    )
    value_clip: float | None = setting(
        None,
        "critic: distance from its old value beyond which a change stops counting",
        above=0,
        note="0.2 is usual",
    )
    whiten: bool = setting(False, "critic: advantages of an iteration's tokens to mean 0 and variance 1")
    critic_warmup: int = setting(
        0, "critic: first iterations, in which only the critic learns, from outcomes", at_least=0
    )
    source: str = setting(
        "policy",
        "source of completions: the policy, the frozen reference (RFT), a dataset, or a dataset of pairs",
        choices=("policy", "reference", "dataset", "pairs"),
    )
    reward: str = setting(
        "task",
        "r, the verifier's; signed: 2r − 1, so ±1 for 0 and 1 (DAPO); 1 for what it judged correct and else 0 (RFT); "
        "or 1 for all (SFT)",
        choices=("task", "signed", "correct", "one"),
    )
    preference_beta: float = setting(
        0.0,
        "β > 0: the logistic loss of DPO on pairs, against the frozen reference",
        at_least=0,
        note="0.1 is usual",
    )

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("algorithm.name is empty: a row needs a name, it labels runs and plots")
        check_fields(self, "algorithm.")
        for reason in find_contradictions(self):
            raise ConfigError(f"algorithm {self.name!r}: {reason}")

    @property
    def needs_reference(self) -> bool:
        """Whether a frozen reference model is used."""
        return self.kl_coef > 0 or self.preference_beta > 0 or self.source == "reference"

    @property
    def generates(self) -> bool:
        """Whether an engine generates completions in training; otherwise they come from a dataset."""
        return self.source in ("policy", "reference")

    @property
    def reference_in_loss(self) -> bool:
        """Whether the loss needs the reference's log-probabilities."""
        return self.kl_in_loss or self.preference_beta > 0

    @property
    def needs_whole_groups(self) -> bool:
        """Whether the loss compares the rollouts of a group, which must then stay in one micro-batch."""
        return self.preference_beta > 0 or self.listwise != "none"

    @property
    def needs_critic(self) -> bool:
        """Whether a learned value replaces the statistic of the group."""
        return self.baseline == "critic"

    @property
    def needs_belief(self) -> bool:
        """Whether the baseline is what an allocator expected from the prompt."""
        return self.baseline == "posterior"

    @property
    def kl_in_loss(self) -> bool:
        """Whether every token has a KL gradient, also in silent groups."""
        return self.kl_coef > 0 and self.kl_in == "loss"

    @property
    def idle_clip(self) -> str:
        """Why the clip can never stop the gradient of a fresh rollout; empty if it can, or if there is no clip."""
        clipped = self.clip_low is not None or self.clip_dual is not None
        if not clipped or self.updates_per_iteration * self.epochs_per_iteration > 1:
            return ""
        surplus = ", but on surplus groups of an earlier iteration" if self.refill else ""
        return f"with one update per iteration the ratio is 1{surplus}"

    @property
    def masks_truncated(self) -> bool:
        """Whether completions cut off by the length limit are left out of the loss."""
        return self.overlong in ("mask", "mask_and_penalty")

    @property
    def penalizes_length(self) -> bool:
        """Whether the reward decreases over the last tokens before the length limit."""
        return self.overlong in ("penalty", "mask_and_penalty")

    def penalty_buffer(self, max_new_tokens: int) -> int:
        """The number of tokens before the limit over which the length penalty grows; 0 without a penalty.

        A row that does not set it uses a fifth of the limit, as DAPO's 4,096 of 20,480 (arXiv:2503.14476, §4.1).
        """
        if not self.penalizes_length:
            return 0
        return self.overlong_buffer or max(1, max_new_tokens // 5)

    def cells(self) -> dict[str, Any]:
        """The row as plain values for TOML and JSON; a callable is written as its name."""
        values = {cell.name: getattr(self, cell.name) for cell in fields(self)}
        if callable(self.baseline):
            values["baseline"] = getattr(self.baseline, "__name__", "callable")
        return values
