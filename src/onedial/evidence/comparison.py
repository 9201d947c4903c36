"""The outcome of a comparison: as JSON, and as a page of overlaid curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onedial.analysis.findings.finding import Plot, Series
from onedial.analysis.page import write_curves
from onedial.core.maths.estimators import Estimate
from onedial.evidence.claim import Json
from onedial.evidence.paired_statistics import (
    Difference,
    by_seed,
    compare_with_first,
    final_accuracy,
    generated_tokens,
    list_arms,
    mean_curve,
    mean_series,
    show_interval,
    token_grid,
)

ROLES = ("plain", "alt", "third", "fourth", "fifth", "sixth")
OVERLAID = (
    ("entropy", "Entropy of the policy", "nats per token", "number"),
    ("mixed_share", "Mixed groups", "share of the groups generated", "share"),
    ("length_mean", "Completion length", "mean, tokens", "number"),
    ("clip_high_share", "Tokens beyond the upper clip", "share of the tokens trained on", "share"),
)


def summarize(records: Sequence[Json]) -> dict[str, Any]:
    """Returns the arms with their means over seeds, and the differences of each from the first, as JSON values.

    A bound that is infinite (one seed) is null.
    """
    arms = {}
    for arm in list_arms(records):
        own = list(by_seed(records, arm).values())
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
        "value": estimate.value,
        "low": _finite(estimate.low),
        "high": _finite(estimate.high),
        "level": found.level,
        "seeds": estimate.num_prompts,
        "told_apart": found.told_apart,
    }


def describe_difference(found: Json) -> str:
    """Returns a difference of accuracies in words, with its interval or the reason why there is none."""
    said = f"{found['arm']} − {found['against']}: {show_interval(found)}"
    return said if found["told_apart"] else f"{said}: not told apart"


def write_comparison(path: Path, records: Sequence[Json], *, title: str) -> Path:
    """Writes the page: accuracy over tokens with bands over seeds, and what else the runs logged. Returns the path."""
    summary = summarize(records)
    seeds = len({record["seed"] for record in records})
    notes = [describe_difference(found) for found in summary["differences"]]
    notes.append("Held-out accuracy at the end, paired by seed; the intervals hold jointly at 95 %.")
    subtitle = f"{len(summary['arms'])} arms, {seeds} seed{'s' * (seeds > 1)}, equal generated tokens"
    headings = {"notes": "What the data tell apart", "curves": "Curves over generated tokens"}
    return write_curves(
        path, title=title, subtitle=subtitle, curves=make_plots(records), notes=notes, headings=headings
    )


def make_plots(records: Sequence[Json]) -> list[Plot]:
    """Returns accuracy over tokens, and the means over seeds of some metrics at the same tokens."""
    arms, grid = list_arms(records), token_grid(records)
    roles = dict(zip(arms, (ROLES * len(arms))[: len(arms)], strict=True))
    accuracy = tuple(_line(arm, roles[arm], mean_curve(records, arm, grid)) for arm in arms)
    note = "mean over seeds; band: 95 % interval over seeds"
    label = "generated tokens"
    plots = [Plot("line", "Held-out accuracy", label, "avg@k", tuple(grid), accuracy, note=note)]
    for key, title, axis, unit in OVERLAID:
        lines = tuple(Series(arm, _metric_curve(records, arm, key, grid[1:]), roles[arm]) for arm in arms)
        if any(value for line in lines for value in line.y):
            plots.append(Plot("line", title, label, axis, tuple(grid[1:]), lines, unit=unit, note="mean over seeds"))
    return plots


def _metric_curve(records: Sequence[Json], arm: str, key: str, grid: Sequence[float]) -> tuple[float | None, ...]:
    """The mean over seeds of a metric between one point of the grid and the next lower one."""
    step = grid[0]
    values: list[float | None] = []
    for right in grid:
        found = []
        for record in by_seed(records, arm).values():
            spent, first, last = 0.0, 0, 0
            for index, tokens in enumerate(record["series"]["tokens_generated"]):
                first = index + 1 if spent < right - step else first
                last = index + 1 if spent < right else last
                spent += tokens
            mean = mean_series(record, key, slice(min(first, last - 1), last))
            found += [] if mean is None else [mean]
        values.append(sum(found) / len(found) if found else None)
    return tuple(values)


def _line(arm: str, role: str, estimates: Sequence[Estimate | None]) -> Series:
    columns = [
        tuple(None if found is None else _finite(getattr(found, name)) for found in estimates)
        for name in ("value", "low", "high")
    ]
    low = tuple(None if value is None else max(0.0, value) for value in columns[1])
    high = tuple(None if value is None else min(1.0, value) for value in columns[2])
    return Series(arm, columns[0], role, low, high)


def _silent_share(record: Json) -> float | None:
    series = record["series"]
    tokens = sum(series["tokens_generated"])
    silent = sum(value or 0 for key in ("tokens_all_correct", "tokens_all_wrong") for value in series[key])
    return silent / tokens if tokens else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
