"""The mean over tokens, compared with the mean per answer and with two other normalizers."""

from __future__ import annotations

from onedial.evidence.arm_summary import plain_difference, summarize
from onedial.evidence.claim import Check, Json
from onedial.evidence.paired_statistics import final_accuracy, pair_difference, show_interval
from onedial.evidence.trained import Trial, check_difference, find_difference, make_claim

BASE = {"row": "naive_grpo", "clip_high": 0.28, "updates_per_iteration": 4}
TRIAL = Trial(
    {
        "per-answer": BASE,
        "step-tokens": {**BASE, "aggregate": "token_mean"},
        "group-tokens": {**BASE, "aggregate": "group_token_mean"},
        "constant": {**BASE, "aggregate": "fixed_length"},
    },
    tokens=30_000,
    settings={"max_new_tokens": 32},
)


def _figures(records: list[Json]) -> Json:
    pair = plain_difference(pair_difference(records, "group-tokens", "constant", final_accuracy))
    return {**summarize(records), "normalizers": pair}


def _checks(figures: Json) -> list[Check]:
    pair = figures["normalizers"]
    near = pair["low"] is not None and max(abs(pair["low"]), abs(pair["high"])) <= 0.05
    return [
        check_difference(
            "the token mean ends higher than the mean per answer", find_difference(figures, "step-tokens")
        ),
        Check(
            "dividing by a group's tokens or by a constant is the same within five points", show_interval(pair), near
        ),
    ]


CLAIM = make_claim(
    "token-loss",
    "Averaging over tokens, not answers, teaches long answers fully; dividing by a group's tokens or by a constant is "
    "interchangeable",
    "DAPO (arXiv:2503.14476), §3.3 and Table 1; a lesson on Dr. GRPO for the second part",
    TRIAL,
    _figures,
    _checks,
)
