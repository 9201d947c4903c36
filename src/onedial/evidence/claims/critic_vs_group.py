"""A critic against a group's mean, on one task at equal tokens."""

from __future__ import annotations

from onedial.evidence.arm_summary import summarize
from onedial.evidence.claim import Check, Json
from onedial.evidence.trained import Trial, check_difference, find_difference, make_claim

BASE = {"row": "naive_grpo", "clip_high": 0.28, "aggregate": "token_mean", "updates_per_iteration": 4}
TRIAL = Trial(
    {
        "group": {**BASE, "keep": "mixed", "refill": True},
        "ppo": {"row": "ppo"},
        "vapo": {"row": "vapo", "critic_warmup": 3, "lambda_length": 0.5},
    },
    tokens=30_000,
)


def _checks(figures: Json) -> list[Check]:
    return [
        check_difference("VAPO ends ten points above the group's mean", find_difference(figures, "vapo"), least=0.1),
        check_difference("VAPO ends above the group's mean", find_difference(figures, "vapo")),
    ]


CLAIM = make_claim(
    "critic-vs-group",
    "With a critic done right, a value-based method ends more than ten points above the best group-based one",
    "VAPO (arXiv:2504.05118), 60.4 against DAPO's 50: one base model, one benchmark",
    TRIAL,
    summarize,
    _checks,
)
