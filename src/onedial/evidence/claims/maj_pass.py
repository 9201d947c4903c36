"""Maj@K and Pass@K for K = 1 … 64, before training and after, on the same held-out prompts."""

from __future__ import annotations

from onedial.core.maths.estimators import mean_interval
from onedial.evidence.claim import Check, Json, check_range
from onedial.evidence.paired_statistics import plain_estimate
from onedial.evidence.trained import Trial, make_claim

MOST = 64
TRIAL = Trial(
    {"grpo": {"row": "naive_grpo"}},
    tokens=24_000,
    settings={"eval_samples": MOST, "eval_every": 0, "temperature": 0.7},
    quick_settings={"eval_samples": 8, "eval_prompts": 4},
)


def _figures(records: list[Json]) -> Json:
    figures: Json = {"arms": {"grpo": {"seeds": [record["seed"] for record in records]}}}
    for name in ("pass_at", "maj_at"):
        ends = [(record["curve"][0][name], record["curve"][-1][name]) for record in records]
        common = [k for k in ends[0][0] if all(k in before and k in after for before, after in ends)]
        figures[name] = {
            k: {
                "before": [before[k] for before, _ in ends],
                "after": [after[k] for _, after in ends],
                "change": plain_estimate(mean_interval([after[k] - before[k] for before, after in ends])),
            }
            for k in common
        }
    return figures


def _checks(figures: Json) -> list[Check]:
    majority, passed = (figures[name].get(str(MOST), {}).get("change") for name in ("maj_at", "pass_at"))
    return [
        check_range("Maj@64 rises: its interval over seeds lies above 0", (majority or {}).get("low"), 1e-9, 1),
        check_range("Pass@64 stays within two points", (passed or {}).get("value"), -0.02, 0.02, "{:+.3f}"),
    ]


CLAIM = make_claim(
    "maj-pass",
    "Training raises Maj@K up to K = 64 and leaves Pass@K as it was: it reweights answers the model could already give",
    "DeepSeekMath (arXiv:2402.03300), §5.2.2, Fig. 7",
    TRIAL,
    _figures,
    _checks,
)
