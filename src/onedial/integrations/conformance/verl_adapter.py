"""verl's own advantage and policy-loss functions (verl.trainer.ppo.core_algos) for the conformance checks.

Called as its trainer calls them (verl.workers.utils.losses.ppo_loss): the sizes of the whole step come with each
micro-batch, the KL term is added by `agg_loss` of `kl_penalty`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onedial.core.errors import UserError
from onedial.integrations.conformance.judged import Step, check_version

AGGREGATES = {
    "token_mean": "token-mean",
    "sequence_mean": "seq-mean-token-mean",
    "fixed_length": "seq-mean-token-sum-norm",
    "sequence_sum": "seq-mean-token-sum",
}
"""Our `aggregate` → verl's `loss_agg_mode`."""


class VerlFunctions:
    """adv_estimator=grpo, the policy losses vanilla and gspo, kl_loss_type=low_var_kl: verl's defaults beside them."""

    notes = {
        "padding-nan": "verl's own forward fills padding with zeros",
        "unanimous-fractions": "float32 rounding of the mean, divided by an eps of 1e-6",
    }

    def __init__(self) -> None:
        """Raises UserError where verl is not installed, ConfigError for another version than the one written for."""
        self.version = check_version("verl", "0.9")
        try:
            from verl.trainer.ppo import core_algos
            from verl.workers.config import ActorConfig
        except ImportError as error:
            raise UserError(
                f"--trainer verl judges the verl installed beside onedial, which cannot be imported ({error}); "
                "install onedial in verl's own environment"
            ) from error
        self._core: Any = core_algos
        self._config: Any = ActorConfig

    def advantages(self, rewards: Tensor, groups: Tensor, *, scale: str = "group") -> Tensor:
        """(B,) advantages of compute_grpo_outcome_advantage, of completions of one token."""
        if rewards.isnan().any():
            raise NotImplementedError("verl has no missing rewards: all are numbers")
        got, _ = self._core.compute_grpo_outcome_advantage(
            rewards[:, None].clone(), torch.ones(len(rewards), 1), groups.numpy(),
            norm_adv_by_std_in_grpo=scale == "group",
        )  # fmt: skip
        return got[:, 0]  # type: ignore[no-any-return]

    def loss(
        self,
        logp: Tensor,
        old_logp: Tensor,
        mask: Tensor,
        advantages: Tensor,
        *,
        aggregate: str = "token_mean",
        length_budget: int | None = None,
        step: Step | None = None,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        clip_dual: float = 3.0,
        ratio_level: str = "token",
        kl_coef: float = 0.0,
        ref_logp: Tensor | None = None,
    ) -> Tensor:
        """The loss of one micro-batch on one rank."""
        config = self._config(
            strategy="fsdp", rollout_n=8, use_dynamic_bsz=True, clip_ratio=clip_low, clip_ratio_low=clip_low,
            clip_ratio_high=clip_high, clip_ratio_c=clip_dual,
        )  # fmt: skip
        sizes = {} if step is None else {"batch_num_tokens": step.tokens, "global_batch_size": step.sequences}
        config.global_batch_info.update(dp_size=1, loss_scale_factor=length_budget, **sizes)
        mode, function = AGGREGATES[aggregate], "gspo" if ratio_level == "sequence" else "vanilla"
        loss, _ = self._core.get_policy_loss_fn(function)(
            old_log_prob=old_logp, log_prob=logp, advantages=advantages[:, None].expand_as(logp), response_mask=mask,
            loss_agg_mode=mode, config=config,
        )  # fmt: skip
        if kl_coef > 0:
            penalty = self._core.kl_penalty(logp, ref_logp, config.kl_loss_type)
            loss = loss + kl_coef * self._agg(penalty, mask, mode, config)
        return loss  # type: ignore[no-any-return]

    def _agg(self, values: Tensor, mask: Tensor, mode: str, config: Any) -> Any:
        return self._core.agg_loss(loss_mat=values, loss_mask=mask, loss_agg_mode=mode, **config.global_batch_info)
