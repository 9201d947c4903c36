"""The adaptive sampler against uniform prompts: generated tokens to an early, a middle and a late accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onedial.core.maths.estimators import mean_interval
from onedial.evidence.arm_summary import summarize
from onedial.evidence.claim import Check, Json, check_range
from onedial.evidence.paired_statistics import cost_to_reach, index_seeds, list_arms
from onedial.evidence.trained import Trial, make_claim

UNIFORM: Mapping[str, Mapping[str, object]] = {
    "fixed-8": {"group_size": 8, "prompts_per_iteration": 16},
    "fixed-16": {"group_size": 16, "prompts_per_iteration": 8},
    "dynamic": {"group_size": 8, "prompts_per_iteration": 16, "allocator": "dynamic"},
    "two": {"group_size": 8, "prompts_per_iteration": 16, "allocator": "two"},
}
ADAPTIVE = {"group_size": 8, "prompts_per_iteration": 16, "allocator": "adaptive"}
TRIAL = Trial(
    {
        **{name: {"row": "dr_grpo"} for name in UNIFORM},
        "dynamic": {"row": "dr_grpo", "keep": "mixed"},
        "adaptive": {"row": "posterior"},
    },
    tokens=40_000,
    # from what the model solves at once to what it never solves
    settings={
        "task": {"name": "arithmetic", "levels": "add1,sub1,mul1,add2,sub2,add3,mul2x1,mul2"},
        "eval_every": 2,
        "eval_prompts": 80,
    },
    per_arm={**UNIFORM, "adaptive": ADAPTIVE},
    seeds=(0, 1, 2, 3, 4),
)
TARGETS = {"early": 0.3, "middle": 0.6, "late": 0.9}
"""Shares of the way from the start to the end of the best uniform arm."""
NEVER = 1.5  # a run that does not get there counts as this many times its tokens


def _figures(records: list[Json]) -> Json:
    summary = summarize(records)
    arms, uniform = summary["arms"], [arm for arm in list_arms(records) if arm != "adaptive"]
    start = _mean([value for arm in arms.values() for value in arm["start"]])
    top = max(_mean(arms[arm]["accuracy"]) for arm in uniform)
    figures: Json = {
        "seeds": len(index_seeds(records, "adaptive")),
        "targets": {},
        "tokens_to": {},
        "best_uniform": {},
    }
    for name, share in TARGETS.items():
        target = start + share * (top - start)
        costs = {arm: [_cost(record, target) for record in index_seeds(records, arm).values()] for arm in arms}
        mean_logs = {arm: _mean([math.log(cost) for cost in costs[arm]]) for arm in uniform}
        best = min(mean_logs, key=mean_logs.__getitem__)
        figures["targets"][name], figures["tokens_to"][name] = target, costs
        figures["best_uniform"][name] = best
        logs = [math.log(a / b) for a, b in zip(costs[best], costs["adaptive"], strict=True)]
        found = mean_interval(logs)
        figures[name] = math.exp(found.value)
        bounds = [math.exp(bound) if math.isfinite(bound) else None for bound in (found.low, found.high)]
        figures[f"{name}_interval"] = bounds
    shares = {
        name: _mean([value for value in arm["silent_token_share"] if value is not None]) for name, arm in arms.items()
    }
    return figures | {"silent_token_share": shares, "summary": summary}


def _cost(record: Json, target: float) -> float:
    found = cost_to_reach(record, target)
    return max(found, 1.0) if found is not None else NEVER * float(record["curve"][-1]["tokens"])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _checks(figures: Json) -> list[Check]:
    def times(name: str, least: float, statement: str) -> Check:
        return check_range(statement, figures[name], least, 1e9, "{:.2f}")

    return [
        times("middle", 2.0, "middle accuracy: the best uniform arm takes twice the tokens, or more"),
        times("late", 2.0, "late accuracy: the best uniform arm takes twice the tokens, or more"),
        times("early", 1 / 1.1, "early accuracy: at most 1.1 times the tokens of the best uniform arm"),
    ]


CLAIM = make_claim(
    "adaptive-sampler",
    "Spending rollouts where they teach reaches the same accuracy with half the generated tokens of the best uniform "
    "sampling",
    "this project's sampler (onedial allocators); a goal, and no paper's claim",
    TRIAL,
    _figures,
    _checks,
)
