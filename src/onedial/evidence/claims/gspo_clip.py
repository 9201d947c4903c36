"""GSPO clips far more tokens than GRPO, because one ratio stands for a whole sequence."""

from __future__ import annotations

from onedial.evidence.arm_summary import summarize
from onedial.evidence.claim import Check, Json, check_range
from onedial.evidence.paired_statistics import index_seeds, list_arms, mean_series
from onedial.evidence.trained import Trial, make_claim

TRIAL = Trial({"gspo": {"row": "gspo"}, "grpo": {"row": "naive_grpo", "updates_per_iteration": 4}}, tokens=8_000)


def _figures(records: list[Json]) -> Json:
    shares = {}
    for arm in list_arms(records):
        parts = [
            [mean_series(record, key) for key in ("clip_low_share", "clip_high_share")]
            for record in index_seeds(records, arm).values()
        ]
        shares[arm] = [low + high for low, high in parts if low is not None and high is not None]
    ratios = [a / b if b else None for a, b in zip(shares["gspo"], shares["grpo"], strict=False)]
    return {**summarize(records), "clipped_share": shares, "ratio": ratios}


def _checks(figures: Json) -> list[Check]:
    known = [ratio for ratio in figures["ratio"] if ratio is not None]
    least = min(known) if known and len(known) == len(figures["ratio"]) else None
    return [check_range("at least ten times the share of clipped tokens, every seed", least, 10, 1e12, "{:.1f}")]


CLAIM = make_claim(
    "gspo-clip",
    "GSPO clips two orders of magnitude more tokens than GRPO (0.15 against 0.0013)",
    "GSPO (arXiv:2507.18071), Fig. 2",
    TRIAL,
    _figures,
    _checks,
)
