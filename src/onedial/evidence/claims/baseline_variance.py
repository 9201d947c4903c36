"""Variance of a group's gradient with no baseline, the others' mean, the group's mean, and a critic, on one batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onedial.core.algorithm import Algorithm
from onedial.core.algorithm_table import ALGORITHMS
from onedial.evidence.claim import Check, Claim, Json, Setup, check_range, list_seed_units, parse_seed
from onedial.evidence.statistics import Array, bootstrap_interval

if TYPE_CHECKING:
    from torch.nn import Parameter

    from onedial.core.batch import Batch
    from onedial.core.types import Group
    from onedial.evidence.lesson import Lesson
    from onedial.training.trainer.gradients import GradientSketch

SIZE, DRAWS, PROMPTS, SEEDS = 8, 4, 8, (0, 1, 2)
CRITIC_STEPS, CRITIC_LR = 24, 3e-3
ROWS: Mapping[str, Algorithm] = {
    name: replace(ALGORITHMS["reinforce"], name=name, baseline=baseline)
    for name, baseline in (("none", "none"), ("leave_one_out", "leave_one_out"), ("group", "group_mean"))
}
CRITIC = replace(ALGORITHMS["ppo"], name="critic", kl_coef=0.0, kl_in="loss", whiten=False, lambda_policy=1.0,
                 lambda_critic=1.0, value_clip=None, aggregate="sequence_sum")  # fmt: skip


def _measure(setup: Setup, unit: str) -> Json:
    """For each baseline and prompt: the squared distance between gradients of independent groups, and their product."""
    from onedial.evidence.lesson import Lesson
    from onedial.training.trainer.gradients import GradientSketch, choose_parameters

    lesson = Lesson(setup, CRITIC)
    draws, prompts = (2, 2) if setup.quick else (DRAWS, PROMPTS)
    seed = parse_seed(unit)
    groups = lesson.sample(prompts, SIZE * draws, seed)
    learned = lesson.sample(2 * prompts, SIZE, seed + 1000)
    parameters = choose_parameters(lesson.policy.model)
    sketch = GradientSketch(parameters, seed=seed)
    parts = _split_groups(groups, draws)
    batches = {name: [[lesson.batch(row, [part]) for part in own] for own in parts] for name, row in ROWS.items()}
    batches["critic"], explained = _judge_by_critic(lesson, parts, learned)
    measured: Json = {"correct_share": [_share(group) for group in groups], "explained_variance": explained}
    measured |= {"variance": {}, "signal": {}}
    for name, of_prompts in batches.items():
        spreads = [_spread(lesson, name, own, parameters, sketch) for own in of_prompts]
        measured["variance"][name], measured["signal"][name] = map(list, zip(*spreads, strict=True))
    return measured


def _spread(
    lesson: Lesson, name: str, batches: list[Batch], parameters: list[Parameter], sketch: GradientSketch
) -> tuple[float, float]:
    """Variance of one group's gradient, from independent groups of one prompt, and the squared norm of its mean."""
    from onedial.training.trainer.gradients import take_gradient

    row = ROWS.get(name, CRITIC)
    taken = [take_gradient(lesson.policy, row, batch, parameters, sketch) for batch in batches]
    vectors = np.stack([vector.numpy() for vector in taken]).astype(np.float64)
    center = vectors.mean(axis=0)
    variance = float(((vectors - center) ** 2).sum() / (len(vectors) - 1))
    return variance, float(center @ center) - variance / len(vectors)


def _share(group: Group) -> float:
    return sum(bool(rollout.verdict.correct) for rollout in group.usable) / len(group.usable)


def _split_groups(groups: list[Group], draws: int) -> list[list[Group]]:
    """Per prompt, independent groups cut out of one large group."""
    return [
        [replace(group, rollouts=group.usable[n::draws], position=draws * number + n) for n in range(draws)]
        for number, group in enumerate(groups)
    ]


def _judge_by_critic(
    lesson: Lesson, parts: list[list[Group]], learned: list[Group]
) -> tuple[list[list[Batch]], float | None]:
    """The batches with advantages of a critic that has learned from other prompts, and the variance it explains."""
    from onedial.training.trainer.advantages import add_gae
    from onedial.training.trainer.critic import Critic
    from onedial.training.trainer.packing import split_minibatches

    critic = Critic(replace(lesson.run, critic="head"), lesson.policy, lesson.path)
    lessons = lesson.batch(CRITIC, learned)
    for step in range(CRITIC_STEPS):
        annotated, _ = add_gae(CRITIC, lessons, critic.values(lessons), None, iteration=1)
        critic.learn(annotated, split_minibatches(annotated, 1, step), CRITIC_LR, lambda *progress: None)

    def judge(groups: list[Group]) -> tuple[Batch, Json]:
        batch = lesson.batch(CRITIC, groups)
        return add_gae(CRITIC, batch, critic.values(batch), None, iteration=1)

    explained = judge([part for own in parts for part in own])[1].get("explained_variance")
    return [[judge([part])[0] for part in own] for own in parts], explained


def _figures(measured: Mapping[str, Json]) -> Json:
    names = (*ROWS, "critic")
    variance = {name: np.concatenate([unit["variance"][name] for unit in measured.values()]) for name in names}
    signal = {name: float(np.mean(np.concatenate([u["signal"][name] for u in measured.values()]))) for name in names}
    ratios = {}
    for name in names[1:]:
        value = _ratio(variance[name], variance["none"])
        low, high = bootstrap_interval(_ratio, variance[name], variance["none"])
        ratios[name] = {"value": value, "low": low, "high": high}
    low, high = bootstrap_interval(_ratio, variance["critic"], variance["leave_one_out"])
    against = {"value": _ratio(variance["critic"], variance["leave_one_out"]), "low": low, "high": high}
    return {
        "prompts": len(variance["none"]),
        "correct_share": float(np.mean(np.concatenate([unit["correct_share"] for unit in measured.values()]))),
        "explained_variance": [unit["explained_variance"] for unit in measured.values()],
        "variance": {name: float(values.mean()) for name, values in variance.items()},
        "signal": signal,
        "over_none": ratios,
        "critic_over_leave_one_out": against,
    }


def _ratio(one: Array, other: Array) -> float:
    return float(one.mean() / other.mean()) if other.mean() > 0 else float("nan")


def _checks(figures: Json) -> list[Check]:
    ratios = figures["over_none"]

    def lower(statement: str, found: Json) -> Check:
        got = f"{found['value']:.2f} (95 %: {found['low']:.2f} to {found['high']:.2f})"
        return Check(statement, got, found["high"] < 1)

    same = figures["variance"]["group"] / figures["variance"]["leave_one_out"]
    factor = ((SIZE - 1) / SIZE) ** 2
    return [
        lower("variance with the others' mean over that with none, below 1", ratios["leave_one_out"]),
        lower("with the group's mean", ratios["group"]),
        check_range(
            "the group's mean only shrinks the gradient of the others' mean by (G − 1)/G",
            same, factor * 0.999, factor * 1.001, "{:.4f} of its variance",
        ),
        lower("with a critic", ratios["critic"]),
        lower("a critic over the others' mean", figures["critic_over_leave_one_out"]),
    ]  # fmt: skip


CLAIM = Claim(
    name="baseline-variance",
    claim="The group's mean is a control variate: it lowers the variance of the gradient, as a critic does",
    source="arXiv:2510.00977, §3; RLOO (arXiv:2402.14740); PPO's critic",
    trains=False,
    minutes=12,
    units=list_seed_units(SEEDS),
    measure=_measure,
    figures=_figures,
    checks=_checks,
    seeds=SEEDS,
)
