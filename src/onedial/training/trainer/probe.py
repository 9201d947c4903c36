"""`--probe`: every few iterations, sketched gradients of single groups, before the update changes the policy.

Three gradients of each probed group are computed over some of the weights: the row's own, and the slope of scores on
rewards in two halves (`core.maths.half_split`). One line per group is written to `probe.jsonl`, and their summary to
the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.batch import Batch
from onedial.core.maths.half_split import HalfSplit, estimate_signal, noise_factor, read_half_split, split_rewards
from onedial.core.maths.segments import group_std
from onedial.core.run_log import append_json
from onedial.training.trainer.advantages import add_advantages
from onedial.training.trainer.gradients import GradientSketch, choose_parameters, group_batches, take_gradient
from onedial.training.trainer.policy import Policy

PROBE_EVERY = 10  # iterations
# Mixed groups of a probed iteration. Four of 16 rollouts took as long as an iteration of eight such groups (SmolLM2 on
# a CPU, 59 s of 114 s and 68 s), so three in every tenth take about 7 % of the time.
PROBE_GROUPS = 3
SLOPE = replace(ALGORITHMS["reinforce"], name="slope", baseline="group_mean", dial=2.0, eps=1e-12)
"""The row whose gradient in a group is Cov(r, s)/Var(r), the slope of sequence scores on rewards."""


@dataclass(frozen=True)
class ProbedGroup:
    """The result of a probe for one group: the norm of the row's own gradient, and its halves; None if a half is
    silent."""

    iteration: int
    group_id: str
    size: int
    sigma: float
    norm: float
    half_cosine: float | None = None
    half_product: float | None = None
    half_squares: tuple[float, float] | None = None
    half_noise: float | None = None


class Probe:
    """Probes the iterations 1, 1 + PROBE_EVERY, … of a run; changes neither the policy nor the gradients that training
    accumulates."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        # without KL, entropy and likelihood terms, whose gradient is not the group's
        self.row = replace(policy.run.algorithm, kl_coef=0.0, kl_in="loss", positive_nll=0.0, entropy_coef=0.0)
        self.parameters = choose_parameters(policy.model)
        self.sketch = GradientSketch(self.parameters, seed=policy.run.seed)

    def measure(self, batch: Batch, iteration: int) -> dict[str, Any]:
        """Returns the metrics of a probed iteration; empty in the others, and where no group is mixed."""
        if (iteration - 1) % PROBE_EVERY:
            return {}
        started = time.perf_counter()
        sigma = group_std(batch["reward"], batch.group)
        chosen = (sigma > 0).nonzero().squeeze(1)[:PROBE_GROUPS].tolist()
        if not chosen:
            return {}
        groups = group_batches(batch)
        found = [self._probe(groups[number], float(sigma[number]), iteration) for number in chosen]
        for group, _ in found:
            append_json(self.policy.run.directory / "probe.jsonl", asdict(group))
        directions = torch.stack([direction for _, direction in found])
        return summarize_probe([group for group, _ in found], directions) | {"probe_s": time.perf_counter() - started}

    def _probe(self, group: Batch, sigma: float, iteration: int) -> tuple[ProbedGroup, Tensor]:
        """One group's figures, and the sketch of its gradient."""
        own = take_gradient(self.policy, self.row, group, self.parameters, self.sketch)
        base: dict[str, Any] = {
            "iteration": iteration,
            "group_id": group.group_ids[0],
            "size": group.num_rollouts,
            "sigma": sigma,
        }
        rewards = group["reward"].tolist()
        halves = split_rewards(rewards)
        if halves is None:
            return ProbedGroup(**base, norm=float(own.norm())), own
        slopes = [self._slope(group.select(half)) for half in halves]
        split = HalfSplit(
            float(slopes[0] @ slopes[1]),
            (float(slopes[0] @ slopes[0]), float(slopes[1] @ slopes[1])),
            sum(noise_factor([rewards[index] for index in half]) for half in halves),
        )
        probed = ProbedGroup(
            **base, norm=float(own.norm()), half_cosine=split.cosine, half_product=split.product,
            half_squares=split.squares, half_noise=split.noise,
        )  # fmt: skip
        return probed, own

    def _slope(self, half: Batch) -> Tensor:
        bare = half.annotate(advantage=None, shaped_reward=None, token_advantage=None, rollout_mask=None)
        batch = add_advantages(SLOPE, bare, max_new_tokens=self.policy.run.max_new_tokens)
        return take_gradient(self.policy, SLOPE, batch, self.parameters, self.sketch)


def summarize_probe(groups: Sequence[ProbedGroup], directions: Tensor) -> dict[str, Any]:
    """The metrics of probed groups; `directions` (groups, size) are the sketches of their gradients."""
    splits = [split for group in groups if (split := read_half_split(asdict(group))) is not None]
    estimate = estimate_signal(splits)
    unit = torch.nn.functional.normalize(directions, dim=1)
    count = len(groups)
    between = float((unit @ unit.T).sum() - count) / (count * (count - 1)) if count > 1 else None
    return {
        "probe_groups": count,
        "probe_norm": sum(group.norm for group in groups) / count,
        "probe_half_cosine": sum(split.cosine for split in splits) / len(splits) if splits else None,
        "probe_group_cosine": between,
        "probe_signal": None if estimate is None else estimate.signal,
        "probe_noise": None if estimate is None else estimate.noise,
        "probe_rho": None if estimate is None else estimate.rho,
    }
