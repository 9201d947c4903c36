"""The grid of the unified view: demonstrations or own answers, from the first model or the present one, graded or
not.
"""

from __future__ import annotations

from onedial.evidence.arm_summary import plain_difference, summarize
from onedial.evidence.claim import Check, Json
from onedial.evidence.paired_statistics import final_accuracy, pair_difference
from onedial.evidence.trained import Trial, check_difference, make_claim

TRIAL = Trial(
    {
        "grpo": {"row": "naive_grpo"},
        "online-rft": {"row": "online_rft"},
        "rft": {"row": "rft"},
        "sft": {"row": "sft"},
    },
    tokens=40_000,
    # demonstrations cost no tokens of rollouts: as many updates as the others make
    per_arm={"sft": {"max_generated_tokens": 0, "iterations": 30, "eval_every": 10}},
)
PAIRS = (("online-rft", "rft"), ("grpo", "online-rft"), ("rft", "sft"))


def _figures(records: list[Json]) -> Json:
    pairs = [plain_difference(pair_difference(records, a, b, final_accuracy, level=1 - 0.05 / 3)) for a, b in PAIRS]
    return {**summarize(records), "pairs": pairs}


def _checks(figures: Json) -> list[Check]:
    found = {(one["arm"], one["against"]): one for one in figures["pairs"]}
    return [
        check_difference("online RFT ends above RFT", found["online-rft", "rft"]),
        check_difference("GRPO ends above online RFT", found["grpo", "online-rft"]),
    ]


CLAIM = make_claim(
    "online-offline",
    "Sampling from the present policy beats reusing answers of the first one, and graded coefficients beat binary ones",
    "DeepSeekMath (arXiv:2402.03300), §5.2.1, Fig. 5",
    TRIAL,
    _figures,
    _checks,
)
