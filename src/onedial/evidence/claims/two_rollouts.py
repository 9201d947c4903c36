"""2-GRPO: two rollouts per prompt against sixteen, at equal rollouts and in the setting of its paper."""

from __future__ import annotations

from onedial.evidence.arm_summary import summarize
from onedial.evidence.claim import Check, Json, check_range
from onedial.evidence.paired_statistics import final_accuracy, pair_ratio
from onedial.evidence.trained import LESSON, Trial, make_claim

TOKENS = 24_000
TRIAL = Trial(
    {
        "sixteen": {"row": "naive_grpo"},
        "two-equal": {"row": "naive_grpo", "group_size": 2},
        "two-eighth": {"row": "naive_grpo", "group_size": 2},
        "dr-sixteen": {"row": "dr_grpo"},
        "dr-two-equal": {"row": "dr_grpo", "group_size": 2},
    },
    tokens=TOKENS,
    per_arm={
        "two-equal": {"prompts_per_iteration": 64},
        "dr-two-equal": {"prompts_per_iteration": 64},
        # of the paper: as many prompts in all, an eighth of the rollouts, eight times the learning rate
        "two-eighth": {
            "prompts_per_iteration": 64, "lr": 8 * LESSON["lr"], "max_generated_tokens": TOKENS // 8, "eval_every": 1,
        },
    },
    seeds=(0, 1, 2, 3, 4),
)  # fmt: skip


def _figures(records: list[Json]) -> Json:
    pairs = (("two-equal", "sixteen"), ("two-eighth", "sixteen"), ("dr-two-equal", "dr-sixteen"))
    ratios = {}
    for arm, against in pairs:
        found = pair_ratio(records, arm, against, final_accuracy)
        ratios[arm] = (
            None if found is None else {"value": found.value, "low": _bound(found.low), "high": _bound(found.high)}
        )
    return {**summarize(records), "ratios": ratios}


def _bound(value: float) -> float | None:
    return value if 0 < value < 1e9 else None


def _checks(figures: Json) -> list[Check]:
    def keeps(statement: str, arm: str) -> Check:
        ratio = figures["ratios"][arm]
        return check_range(statement, None if ratio is None else ratio["value"], 0.945, 10.0, "{:.3f}")

    low = (figures["ratios"]["two-equal"] or {}).get("low")
    return [
        keeps("an eighth of the rollouts and 8 times the rate: at least 94.5 % of the accuracy", "two-eighth"),
        keeps("equal rollouts and rate: at least 94.5 % of the accuracy", "two-equal"),
        check_range("equal rollouts: the interval of the ratio stays above 94.5 %", low, 0.945, 10.0, "{:.3f}"),
        keeps("equal rollouts without σ̂, where both ascend the same objective: at least 94.5 %", "dr-two-equal"),
    ]


CLAIM = make_claim(
    "two-rollouts",
    "Two rollouts a prompt keep 97.6 to 98.1 % of the accuracy of sixteen with an eighth of the rollouts",
    "arXiv:2510.00977, Table 1; its arms differ in learning rate and prompts, too",
    TRIAL,
    _figures,
    _checks,
)
