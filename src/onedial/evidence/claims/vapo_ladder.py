"""VAPO without each of its parts."""

from __future__ import annotations

from onedial.evidence.arm_summary import summarize
from onedial.evidence.claim import Check, Json
from onedial.evidence.paired_statistics import show_points
from onedial.evidence.trained import Trial, find_difference, make_claim

# the critic's head start and the length-adaptive λ at the scale of 40 iterations of twelve tokens
VAPO = {"row": "vapo", "critic_warmup": 4, "lambda_length": 0.5}
TRIAL = Trial(
    {
        "whole": VAPO,
        "no-value-pretraining": {**VAPO, "critic_warmup": 0},
        "no-decoupling": {**VAPO, "lambda_critic": 0.95},
        "no-length-lambda": {**VAPO, "lambda_length": 0.0, "lambda_policy": 0.95},
        "no-clip-higher": {**VAPO, "clip_high": 0.2},
        "no-token-loss": {**VAPO, "aggregate": "sequence_mean"},
        "no-positive-nll": {**VAPO, "positive_nll": 0.0},
    },
    tokens=30_000,
)


def _checks(figures: Json) -> list[Check]:
    found = {one["arm"]: one for one in figures["differences"]}
    lowest = min(found, key=lambda arm: found[arm]["value"])
    pretraining = find_difference(figures, "no-value-pretraining")
    drops = ", ".join(f"{arm} {show_points(one['value'])}" for arm, one in found.items())
    high = pretraining["high"]
    return [
        Check("leaving out value pretraining costs most", drops, lowest == "no-value-pretraining"),
        Check("leaving out value pretraining costs something", drops, high is not None and high < 0),
        Check("every part left out costs something", drops, all(one["value"] < 0 for one in found.values())),
    ]


CLAIM = make_claim(
    "vapo-ladder",
    "Every part of VAPO matters, value pretraining most (60 falls to 11 without it, to 33 without decoupled λ)",
    "VAPO (arXiv:2504.05118), Table 1",
    TRIAL,
    summarize,
    _checks,
)
