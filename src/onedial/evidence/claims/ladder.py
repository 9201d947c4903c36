"""DAPO's ladder: its parts added one after the other, in the order of the paper's table."""

from __future__ import annotations

from onedial.evidence.arm_summary import plain_difference, summarize
from onedial.evidence.claim import Check, Json
from onedial.evidence.paired_statistics import final_accuracy, list_arms, pair_difference
from onedial.evidence.trained import Trial, check_difference, make_claim

NAIVE = {"row": "naive_grpo", "updates_per_iteration": 4, "reward": "signed"}
FILTER = {**NAIVE, "overlong": "mask"}
HIGHER = {**FILTER, "clip_high": 0.28}
PENALTY = {**HIGHER, "overlong": "penalty", "overlong_buffer": 4}
TOKEN = {**PENALTY, "aggregate": "token_mean"}
LADDER = {
    "naive": NAIVE,
    "overlong-filter": FILTER,
    "clip-higher": HIGHER,
    "soft-penalty": PENALTY,
    "token-loss": TOKEN,
    "dynamic-sampling": {**TOKEN, "keep": "mixed", "refill": True},
}
TRIAL = Trial(LADDER, tokens=24_000)


def _figures(records: list[Json]) -> Json:
    arms = list_arms(records)
    level = 1 - 0.05 / max(1, len(arms) - 1)
    steps = [
        plain_difference(pair_difference(records, arm, before, final_accuracy, level=level))
        for before, arm in zip(arms, arms[1:], strict=False)
    ]
    return {**summarize(records), "steps": steps}


def _checks(figures: Json) -> list[Check]:
    return [check_difference(f"{step['against']} + {step['arm']} ends higher", step) for step in figures["steps"]]


CLAIM = make_claim(
    "ladder",
    "Each part of DAPO adds to the one before (30, 36, 38, 41, 42, 50 on AIME), dynamic sampling most",
    "DAPO (arXiv:2503.14476), Table 1: one model, one benchmark, one seed",
    TRIAL,
    _figures,
    _checks,
)
