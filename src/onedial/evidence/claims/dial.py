"""The dial: α = 0, ½, 1, 2 on the same prompts, at steps of the same size, by difficulty."""

from __future__ import annotations

from onedial.evidence.arm_summary import plain_difference, summarize
from onedial.evidence.claim import Check, Json
from onedial.evidence.paired_statistics import compare_with_first, index_seeds, list_arms
from onedial.evidence.trained import Trial, check_difference, find_difference, make_claim

DIALS = {"alpha-1": 1.0, "alpha-0": 0.0, "alpha-0.5": 0.5, "alpha-2": 2.0}
HARDEST = "add2"
TRIAL = Trial(
    {name: {"row": "naive_grpo", "dial": dial, "aggregate": "token_mean"} for name, dial in DIALS.items()},
    tokens=24_000,
    settings={"grad_clip": 0.0},  # AdamW alone makes the steps of all arms the same size; a clip would not
)


def _hardest(record: Json) -> float:
    return float(record["curve"][-1]["levels"].get(HARDEST, float("nan")))


def _figures(records: list[Json]) -> Json:
    levels = {
        arm: [record["curve"][-1]["levels"] for record in index_seeds(records, arm).values()]
        for arm in list_arms(records)
    }
    known = all(HARDEST in each for found in levels.values() for each in found)
    hardest = [plain_difference(found) for found in compare_with_first(records, _hardest)] if known else []
    return {**summarize(records), "levels": levels, "hardest": hardest}


def _checks(figures: Json) -> list[Check]:
    none = find_difference(figures, "alpha-0")
    half, two = (find_difference(figures, name) for name in ("alpha-0.5", "alpha-2"))
    hardest = [found for found in figures["hardest"] if found["arm"] == "alpha-0"]
    less = "α = 0 ends lower than α = 1"
    return [
        check_difference(less, _negated(none)),
        check_difference(f"{less} on the hardest level", _negated(hardest[0]))
        if hardest
        else Check(f"{less} on the hardest level", "not measured", None),
        check_difference("α = ½ ends lower than α = 1", _negated(half)),
        check_difference("α = 2 ends higher than α = 1", two),
    ]


def _negated(found: Json) -> Json:
    bounds = {"low": found["high"], "high": found["low"]}
    return found | {"value": -found["value"]} | {k: None if v is None else -v for k, v in bounds.items()}


CLAIM = make_claim(
    "dial",
    "The exponent decides where learning happens and how strongly: dividing by σ̂ (α = 1) ends higher than not "
    "dividing (α = 0), most of all on hard problems",
    "arXiv:2607.00152, the controlled run (0.88 against 0.99); contested by arXiv:2503.20783 and arXiv:2601.23135",
    TRIAL,
    _figures,
    _checks,
)
