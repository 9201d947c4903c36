"""Dynamic sampling: how many steps it saves, and how many rollouts and seconds it costs."""

from __future__ import annotations

import math
from functools import partial

from onedial.evidence.arm_summary import summarize
from onedial.evidence.claim import Check, Json, check_range
from onedial.evidence.paired_statistics import cost_to_reach, index_seeds, pair_ratio
from onedial.evidence.trained import Trial, make_claim

BASE = {"row": "naive_grpo", "clip_high": 0.28, "aggregate": "token_mean"}
TRIAL = Trial(
    {"all": BASE, "refilled": {**BASE, "keep": "mixed", "refill": True}},
    tokens=30_000,
    settings={"eval_every": 2},
    seeds=(0, 1, 2, 3, 4),
)
UNITS = {"steps": "iteration", "rollouts": "rollouts", "tokens": "tokens", "seconds": "seconds"}


def _figures(records: list[Json]) -> Json:
    best = {
        seed: max(point["avg"] for point in record["curve"]) for seed, record in index_seeds(records, "all").items()
    }
    ratios = {}
    for name, unit in UNITS.items():
        found = pair_ratio(records, "refilled", "all", partial(_cost_of_best, best=best, unit=unit))
        ratios[name] = None if found is None else [found.value, _finite(found.low), _finite(found.high)]
    return {**summarize(records), "best_of_all": best, "ratio_to_that": ratios}


def _cost_of_best(record: Json, *, best: dict[int, float], unit: str) -> float | None:
    return cost_to_reach(record, best[record["seed"]], unit)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) and value < 1e9 else None


def _checks(figures: Json) -> list[Check]:
    ratios = figures["ratio_to_that"]

    def within(statement: str, name: str, most: float) -> Check:
        return check_range(statement, None if ratios[name] is None else ratios[name][0], 0, most, "{:.2f}")

    reach = "the best accuracy of the unfiltered run, cost over that of the unfiltered run"
    return [
        within(f"{reach}: steps at most ½", "steps", 0.5),
        within(f"{reach}: rollouts below 1", "rollouts", 1.0),
        within(f"{reach}: seconds below 1", "seconds", 1.0),
    ]


CLAIM = make_claim(
    "dynamic-sampling",
    "Dynamic sampling reaches the best accuracy of the unfiltered run in a third of the steps",
    "DAPO (arXiv:2503.14476), Fig. 6, which counts steps alone",
    TRIAL,
    _figures,
    _checks,
)
