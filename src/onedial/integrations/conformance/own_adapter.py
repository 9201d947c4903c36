"""onedial's own advantages and loss, from judged groups through packing as in training, for the conformance checks."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from onedial import __version__
from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch, Counts, compute_offsets
from onedial.core.maths.loss import policy_loss
from onedial.core.types import Completion, Group, Prompt, Rollout, Verdict
from onedial.integrations.conformance.judged import Step
from onedial.training.trainer.advantages import add_advantages
from onedial.training.trainer.packing import pack

ROW = ALGORITHMS["naive_grpo"]


class OnedialFunctions:
    """The row naive_grpo, with the cells that a check sets."""

    version = __version__

    def advantages(self, rewards: Tensor, groups: Tensor, *, scale: str = "group") -> Tensor:
        """(B,) advantages; a reward that is NaN stands for a verifier that timed out."""
        members: dict[int, list[int]] = {}
        for row, name in enumerate(groups.tolist()):
            members.setdefault(name, []).append(row)
        made = [_make_group(place, rewards[rows].tolist()) for place, rows in enumerate(members.values())]
        algorithm = replace(ROW, name="judged", dial=1.0 if scale == "group" else 0.0)
        batch = add_advantages(algorithm, pack(made), max_new_tokens=1)
        order = [row for rows in members.values() for row in rows if not math.isnan(float(rewards[row]))]
        return torch.zeros(len(rewards), dtype=torch.double).index_put((torch.tensor(order),), batch["advantage"])

    def loss(
        self,
        logp: Tensor,
        old_logp: Tensor,
        mask: Tensor,
        advantages: Tensor,
        *,
        aggregate: str = ROW.aggregate,
        length_budget: int | None = None,
        step: Step | None = None,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        clip_dual: float | None = None,
        ratio_level: str = "token",
        kl_coef: float = 0.0,
        ref_logp: Tensor | None = None,
    ) -> Tensor:
        """The loss of the live tokens; onedial packs without padding, so no masked token reaches it."""
        algorithm = replace(
            ROW, name="judged", aggregate=aggregate, length_budget=length_budget, clip_low=clip_low,
            clip_high=clip_high, clip_dual=clip_dual, ratio_level=ratio_level, kl_coef=kl_coef,
        )  # fmt: skip
        batch = _pack_rows(algorithm, logp, old_logp, mask, advantages, ref_logp)
        counts = Counts.of(batch) if step is None else Counts(step.tokens, step.sequences, step.sequences)
        return policy_loss(algorithm, batch, counts).loss


def _make_group(place: int, rewards: list[float]) -> Group:
    written = Completion(token_ids=(1,), logps=(-1.0,), finish_reason="stop", policy_version=0)
    verdicts = [Verdict(0.0, outcome="timeout") if math.isnan(reward) else Verdict(reward) for reward in rewards]
    rollouts = tuple(Rollout(index, written, verdict) for index, verdict in enumerate(verdicts))
    return Group(Prompt(text=f"prompt {place}", answer=None), rollouts, position=place, prompt_tokens=(1,))


def _pack_rows(
    algorithm: Algorithm, logp: Tensor, old_logp: Tensor, mask: Tensor, advantages: Tensor, ref_logp: Tensor | None
) -> Batch:
    """The live tokens of each row, laid end to end; each row is a group of its own."""
    count = len(mask)
    packed = Batch(
        prompt_tokens=torch.ones(count, dtype=torch.long),
        prompt_offsets=torch.arange(count + 1),
        tokens=torch.ones(int(mask.sum()), dtype=torch.long),
        offsets=compute_offsets(mask.sum(1)),
        group=torch.arange(count),
        group_ids=tuple(map(str, range(count))),
    )
    return packed.annotate(
        logp=logp[mask],
        old_logp=old_logp[mask],
        ref_logp=None if ref_logp is None else ref_logp[mask],
        advantage=advantages.double(),
        positive=advantages > 0,
        rollout_mask=mask.any(1),
        group_tokens=mask.sum(1),
    )
