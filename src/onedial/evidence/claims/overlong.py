"""Truncated completions: kept, left out of the loss, or with a soft penalty."""

from __future__ import annotations

from onedial.evidence.arm_summary import summarize
from onedial.evidence.claim import Check, Json, check_range
from onedial.evidence.paired_statistics import index_seeds, list_arms, mean_series
from onedial.evidence.trained import Trial, check_difference, find_difference, make_claim

BASE = {
    "row": "naive_grpo", "clip_high": 0.28, "aggregate": "token_mean", "updates_per_iteration": 4, "reward": "signed",
}  # fmt: skip
TRIAL = Trial(
    {
        "left-in": BASE,
        "left-out": {**BASE, "overlong": "mask"},
        "penalty": {**BASE, "overlong": "penalty", "overlong_buffer": 4},
    },
    tokens=24_000,
)


def _figures(records: list[Json]) -> Json:
    entropy, truncated = {}, {}
    for arm in list_arms(records):
        own = list(index_seeds(records, arm).values())
        last = slice(-5, None)
        entropy[arm] = [mean_series(record, "entropy", last) for record in own]
        truncated[arm] = [mean_series(record, "truncated_share", last) for record in own]
    return {**summarize(records), "entropy_at_the_end": entropy, "truncated_at_the_end": truncated}


def _checks(figures: Json) -> list[Check]:
    entropy = figures["entropy_at_the_end"]
    ratios = [a / b for a, b in zip(entropy["left-in"], entropy["left-out"], strict=True) if a is not None and b]
    return [
        check_difference("leaving truncated completions out ends higher", find_difference(figures, "left-out")),
        check_difference("the soft penalty ends higher", find_difference(figures, "penalty")),
        check_range(
            "with them left in, entropy ends at least twice as high, every seed", min(ratios, default=None), 2, 1e9
        ),
    ]


CLAIM = make_claim(
    "overlong",
    "Punishing truncated completions is noise: leaving them out of the loss raises accuracy and stops an explosion of "
    "entropy, and so does a soft penalty",
    "DAPO (arXiv:2503.14476), §3.4, Fig. 5 and Table 1",
    TRIAL,
    _figures,
    _checks,
)
