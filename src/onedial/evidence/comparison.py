"""The page of a comparison: overlaid curves, and which differences the data support."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onedial.analysis.findings.finding import Plot, Series
from onedial.analysis.page import write_curves
from onedial.core.maths.estimators import Estimate, mean_known
from onedial.evidence.arm_summary import summarize
from onedial.evidence.claim import Json
from onedial.evidence.paired_statistics import (
    finite_or_none,
    index_seeds,
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


def describe_difference(found: Json) -> str:
    """Returns a difference of accuracies in words, with its interval or the reason why there is none."""
    said = f"{found['arm']} − {found['against']}: {show_interval(found)}"
    return said if found["told_apart"] else f"{said}: not told apart"


def write_comparison(path: Path, records: Sequence[Json], *, title: str) -> Path:
    """Writes the page: accuracy over tokens with bands over seeds, and other metrics of the runs. Returns the path."""
    summary = summarize(records)
    seeds = len({record["seed"] for record in records})
    notes = [describe_difference(found) for found in summary["differences"]]
    notes.append("Held-out accuracy at the end, paired by seed; the intervals hold jointly at 95 %.")
    subtitle = f"{len(summary['arms'])} arms, {seeds} seed{'s' * (seeds > 1)}, equal generated tokens"
    headings = {"notes": "Which differences the data support", "curves": "Curves over generated tokens"}
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
        found: list[float | None] = []
        for record in index_seeds(records, arm).values():
            spent, first, last = 0.0, 0, 0
            for index, tokens in enumerate(record["series"]["tokens_generated"]):
                first = index + 1 if spent < right - step else first
                last = index + 1 if spent < right else last
                spent += tokens
            found.append(mean_series(record, key, slice(min(first, last - 1), last)))
        values.append(mean_known(found))
    return tuple(values)


def _line(arm: str, role: str, estimates: Sequence[Estimate | None]) -> Series:
    columns = [
        tuple(None if found is None else finite_or_none(getattr(found, name)) for found in estimates)
        for name in ("value", "low", "high")
    ]
    low = tuple(None if value is None else max(0.0, value) for value in columns[1])
    high = tuple(None if value is None else min(1.0, value) for value in columns[2])
    return Series(arm, columns[0], role, low, high)
