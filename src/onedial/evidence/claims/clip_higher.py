"""Clip-higher: entropy with a symmetric and with a raised upper clip, and which tokens are clipped."""

from __future__ import annotations

from onedial.core.maths.estimators import mean_known
from onedial.evidence.arm_summary import summarize
from onedial.evidence.claim import Check, Json, check_range
from onedial.evidence.paired_statistics import index_seeds, list_arms, mean_series
from onedial.evidence.trained import Trial, check_difference, find_difference, make_claim

BASE = {"row": "naive_grpo", "aggregate": "token_mean", "updates_per_iteration": 4}
TRIAL = Trial({"symmetric": BASE, "higher": {**BASE, "clip_high": 0.28}}, tokens=40_000)


def _figures(records: list[Json]) -> Json:
    entropy, stopped, share = {}, {}, {}
    for arm in list_arms(records):
        own = list(index_seeds(records, arm).values())
        last = [slice(-max(1, len(record["series"]["entropy"]) // 4), None) for record in own]
        entropy[arm] = [mean_series(record, "entropy", part) for record, part in zip(own, last, strict=True)]
        stopped[arm] = [mean_series(record, "clip_high_probability") for record in own]
        share[arm] = [mean_series(record, "clip_high_share") for record in own]
    return {**summarize(records), "entropy": entropy, "probability_of_clipped": stopped, "clipped_share": share}


def _checks(figures: Json) -> list[Check]:
    entropy, stopped = figures["entropy"], figures["probability_of_clipped"]["symmetric"]
    ratios = [b / a for a, b in zip(entropy["symmetric"], entropy["higher"], strict=True) if a and b is not None]
    least, rarity = min(ratios, default=None), mean_known(stopped)
    binds = mean_known(figures["clipped_share"]["symmetric"])
    return [
        check_range("entropy of the last quarter at least 3-fold, every seed", least, 3, 1e9, "{:.2f}"),
        check_range("tokens beyond a symmetric clip have π_old below 0.2 on average", rarity, 0, 0.2, "{:.2f}"),
        check_range("the upper clip stops at least 0.5 % of the tokens", binds, 0.005, 1, "{:.4f}"),
        check_difference("the raised clip ends higher", find_difference(figures, "higher")),
    ]


CLAIM = make_claim(
    "clip-higher",
    "A symmetric clip lets entropy collapse, because it stops rare tokens; an upper clip of 0.28 keeps it about 0.4 "
    "and ends higher",
    "DAPO (arXiv:2503.14476), §3.1, Fig. 2 and 3a",
    TRIAL,
    _figures,
    _checks,
)
