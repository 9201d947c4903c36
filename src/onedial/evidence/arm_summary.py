"""The outcome of paired runs as JSON values: each arm's means over seeds, and the differences from the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onedial.evidence.claim import Json
from onedial.evidence.paired_statistics import (
    Difference,
    compare_with_first,
    final_accuracy,
    generated_tokens,
    index_seeds,
    list_arms,
    plain_estimate,
)


def summarize(records: Sequence[Json]) -> dict[str, Any]:
    """Returns the arms with their means over seeds, and the differences of each from the first, as JSON values.

    A bound that is infinite (one seed) is null.
    """
    arms = {}
    for arm in list_arms(records):
        own = list(index_seeds(records, arm).values())
        arms[arm] = {
            "seeds": [record["seed"] for record in own],
            "accuracy": [final_accuracy(record) for record in own],
            "start": [record["curve"][0]["avg"] for record in own],
            "tokens": [generated_tokens(record) for record in own],
            "rollouts": [sum(record["series"]["rollouts_generated"]) for record in own],
            "iterations": [len(record["series"]["time_s"]) for record in own],
            "seconds": [sum(record["series"]["time_s"]) for record in own],
            "silent_token_share": [_silent_share(record) for record in own],
        }
    differences = [plain_difference(found) for found in compare_with_first(records, final_accuracy)]
    return {"arms": arms, "differences": differences}


def plain_difference(found: Difference) -> dict[str, Any]:
    """Returns a difference as JSON values."""
    estimate = found.estimate
    return {
        "arm": found.arm,
        "against": found.against,
        **plain_estimate(estimate),
        "level": found.level,
        "seeds": estimate.num_prompts,
        "told_apart": found.told_apart,
    }


def _silent_share(record: Json) -> float | None:
    series = record["series"]
    tokens = sum(series["tokens_generated"])
    silent = sum(value or 0 for key in ("tokens_all_correct", "tokens_all_wrong") for value in series[key])
    return silent / tokens if tokens else None
