"""Held-out evaluation: avg@k, unbiased pass@k, majority vote, each with an interval over prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onedial.core.errors import DataError
from onedial.core.maths.estimators import Estimate, by_level, maj_at_k, pass_at_k, share_interval
from onedial.core.types import Group, Prompt
from onedial.training.budget.allocation import Fixed, UniformSchedule
from onedial.training.lm.text import Text
from onedial.training.rollout.collector import Collector, Progress, Verifiers
from onedial.training.rollout.engine import Engine, Sampling


@dataclass(frozen=True)
class Evaluation:
    """Accuracies over prompts. `avg` is the mean share of correct completions (avg@k with k = `samples`).

    `pass_at` and `maj_at` are per k = 1, 2, 4 … ≤ samples; `maj_at` is empty where the verifier parses no answer.
    `unusable` completions (verifier timeouts and errors) are counted and left out. `reward_mean` is over usable
    completions: with graded rewards it says more than the shares.
    """

    prompts: int
    samples: int
    avg: Estimate
    pass_at: dict[int, Estimate]
    maj_at: dict[int, Estimate]
    levels: dict[str, Estimate]
    reward_mean: float
    length_mean: float
    truncated_share: float
    unusable: int
    temperature: float

    def to_json(self) -> dict[str, Any]:
        """Plain values: each estimate as {value, low, high, prompts}."""
        return {
            "prompts": self.prompts,
            "samples": self.samples,
            "temperature": self.temperature,
            "avg": _plain(self.avg),
            "pass_at": {str(k): _plain(value) for k, value in self.pass_at.items()},
            "maj_at": {str(k): _plain(value) for k, value in self.maj_at.items()},
            "levels": {name: _plain(value) for name, value in self.levels.items()},
            "reward_mean": self.reward_mean,
            "length_mean": self.length_mean,
            "truncated_share": self.truncated_share,
            "unusable": self.unusable,
        }


def evaluate_groups(groups: Sequence[Group], temperature: float) -> Evaluation:
    """Accuracies of judged groups, one group per prompt.

    Raises DataError when there is nothing to average: no groups, or no completion that the verifier could judge.
    """
    judged = [group for group in groups if group.usable]
    if not judged:
        raise DataError(_nothing_judged(groups))
    samples = max((len(group.rollouts) for group in groups), default=0)
    marks = [[bool(rollout.verdict.correct) for rollout in group.usable] for group in judged]
    shares = [sum(row) / len(row) for row in marks]
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if k <= samples]
    pass_at, maj_at = {}, {}
    for k in ks:
        enough = [(group, row) for group, row in zip(judged, marks, strict=True) if len(row) >= k]
        if not enough:
            continue
        pass_at[k] = share_interval([pass_at_k(len(row), sum(row), k) for _, row in enough])
        answers = [[rollout.verdict.answer for rollout in group.usable] for group, _ in enough]
        if any(answer is not None for row in answers for answer in row):
            votes = [maj_at_k(said, row, k) for said, (_, row) in zip(answers, enough, strict=True)]
            maj_at[k] = share_interval(votes)
    completions = [rollout.completion for group in groups for rollout in group.rollouts]
    rewards = [reward for group in judged for reward in group.rewards]
    count = len(completions)
    return Evaluation(
        prompts=len(judged),
        samples=samples,
        avg=share_interval(shares),
        pass_at=pass_at,
        maj_at=maj_at,
        levels=dict(by_level([str(group.prompt.meta.get("level", "all")) for group in judged], shares)),
        reward_mean=sum(rewards) / len(rewards),
        length_mean=sum(len(completion.token_ids) for completion in completions) / count,
        truncated_share=sum(completion.truncated for completion in completions) / count,
        unusable=len(completions) - sum(len(row) for row in marks),
        temperature=temperature,
    )


def generate_groups(
    engine: Engine,
    text: Text,
    verifiers: Verifiers,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    sampling: Sampling,
    seed: int,
    progress: Progress = lambda stage, done, total: None,
) -> list[Group]:
    """Judged completions, `samples` of each prompt."""
    allocator = Fixed(len(prompts), UniformSchedule(samples))
    collector = Collector(engine, text, verifiers, allocator, prompts.__getitem__, sampling, seed, progress=progress)
    return collector.collect(0).groups


def _nothing_judged(groups: Sequence[Group]) -> str:
    verdicts = [rollout.verdict for group in groups for rollout in group.rollouts]
    if not verdicts:
        return "there are no held-out prompts to evaluate on; give the task a test split, or set eval_prompts=0"
    first = verdicts[0]
    return f"none of {len(verdicts)} completions could be judged; the first verdict: {first.outcome}, {first.detail}"


def _plain(value: Estimate) -> dict[str, Any]:
    return {"value": value.value, "low": value.low, "high": value.high, "prompts": value.num_prompts}
