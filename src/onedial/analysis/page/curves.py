"""Curves of onedial's own runs: `metrics.jsonl` and `eval.jsonl` as plots for the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onedial.analysis.findings.finding import Plot, Series

MOST_POINTS = 400  # longer runs are averaged over neighbours
NOTE_LATE = "averaged over neighbouring iterations"

# title, y label, unit, and per line: key of metrics.jsonl → (name, colour role)
CURVES: tuple[tuple[str, str, str, Mapping[str, tuple[str, str]]], ...] = (
    ("Right answers", "share of judged rollouts", "share", {"correct_share": ("right", "right")}),
    (
        "Kinds of groups",
        "share of groups generated",
        "share",
        {
            "mixed_share": ("mixed", "mixed"),
            "silent_right_share": ("all right", "right"),
            "silent_wrong_share": ("all wrong", "wrong"),
            "silent_other_share": ("all equal, neither", "other"),
        },
    ),
    ("Mean outcome reward", "reward", "number", {"reward_mean": ("reward", "plain")}),
    ("Mean σ̂ of the groups", "σ̂", "number", {"sigma_mean": ("σ̂", "mixed")}),
    ("Tokens that taught", "share of generated tokens", "share", {"taught_share": ("taught", "mixed")}),
    ("Entropy", "nats per token", "number", {"entropy": ("entropy", "plain")}),
    (
        "Length of answers",
        "mean tokens",
        "number",
        {
            "length_correct_mean": ("right", "right"),
            "length_wrong_mean": ("wrong", "wrong"),
            "length_mean": ("all", "ghost"),
        },
    ),
    (
        "Clipped tokens",
        "share of trained tokens",
        "share",
        {"clip_low_share": ("below", "wrong"), "clip_high_share": ("above", "mixed")},
    ),
    (
        "Distance from sampler and reference",
        "nats per token",
        "number",
        {"mismatch_kl": ("trainer to sampler", "wrong"), "kl_ref": ("policy to reference", "alt")},
    ),
    ("Surprise at what is trained on", "nats per token", "number", {"nll": ("−log π", "plain")}),
    ("Pairs told apart", "share of trained pairs", "share", {"pair_right_share": ("positive margin", "right")}),
    (
        "Log-probability of pairs",
        "nats per completion",
        "number",
        {"chosen_logp": ("chosen", "right"), "rejected_logp": ("rejected", "wrong")},
    ),
    ("Gradient norm", "norm before clipping", "number", {"grad_norm": ("norm", "plain")}),
    (
        "Time of an iteration",
        "seconds",
        "number",
        {"generate_s": ("generate", "mixed"), "verify_s": ("verify", "alt"), "update_s": ("update", "wrong")},
    ),
    (
        "Truncated and unusable rollouts",
        "share of rollouts",
        "share",
        {"truncated_share": ("truncated", "alt"), "unusable_share": ("no verdict", "other")},
    ),
    ("Throughput", "tokens per second", "number", {"tokens_per_s": ("tokens/s", "plain")}),
)


def run_curves(folder: Path) -> tuple[list[Plot], list[str]]:
    """Plots of a run directory and notes on what could not be read. Both empty for a folder without metrics."""
    rows, notes = read_jsonl(folder / "metrics.jsonl")
    plots = [plot for title, label, unit, keys in CURVES if (plot := _curve(rows, title, label, unit, keys))]
    scores, more = read_jsonl(folder / "eval.jsonl")
    evaluation = _evaluation(scores)
    return ([evaluation, *plots] if evaluation else plots), [*notes, *more]


def generation_seconds(folder: Path) -> float | None:
    """Seconds spent generating in the whole run, or None where the metrics do not tell."""
    rows, _ = read_jsonl(folder / "metrics.jsonl")
    seconds = [row["generate_s"] for row in rows if _is_number(row.get("generate_s"))]
    return float(sum(seconds)) if seconds else None


def read_jsonl(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects of a JSON-lines file by rising iteration, the last of each; broken lines are counted in a note."""
    if not path.is_file():
        return [], []
    rows: dict[Any, dict[str, Any]] = {}
    broken = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                broken += 1
                continue
            if isinstance(row, dict) and _is_number(row.get("iteration")):
                # a run resumed after a crash may have written an iteration twice: the later one counts
                rows[row["iteration"], row.get("name", ""), row.get("task", "")] = row | {"_line": number}
            else:
                broken += 1
    ordered = sorted(rows.values(), key=lambda row: float(row["iteration"]))
    return ordered, [f"{path.name}: {broken} broken line{'s' * (broken > 1)} left out."] if broken else []


def _curve(
    rows: Sequence[dict[str, Any]], title: str, label: str, unit: str, keys: Mapping[str, tuple[str, str]]
) -> Plot | None:
    """The plot of some keys; None when no row has a value (or shares are all 0)."""
    step = max(1, -(-len(rows) // MOST_POINTS))
    chunks = [rows[i : i + step] for i in range(0, len(rows), step)]
    series = []
    for key, (name, role) in keys.items():
        values = tuple(_mean([row.get(key) for row in chunk]) for chunk in chunks)
        if any(value is not None for value in values) and (unit != "share" or any(values)):
            series.append(Series(name, values, role))
    if not series:
        return None
    x = tuple(float(chunk[0]["iteration"]) for chunk in chunks)
    return Plot("line", title, "iteration", label, x, tuple(series), unit=unit, note=NOTE_LATE if step > 1 else "")


def _evaluation(rows: Sequence[dict[str, Any]]) -> Plot | None:
    """Scores of the evaluations: every figure in [0, 1] that is no bound of an interval, at most six."""
    names = [
        key
        for key in dict.fromkeys(key for row in rows for key in row)
        if all(_is_number(row.get(key, 0.0)) and 0 <= row.get(key, 0.0) <= 1 for row in rows)
        and key not in ("iteration", "step", "seed", "_line")
        and not key.endswith(("_low", "_high", "_s", "temperature", "top_p"))
    ][:6]
    roles = ("right", "mixed", "alt", "wrong", "other", "ghost")
    series = tuple(
        Series(
            name,
            tuple(row.get(name) for row in rows),
            role,
            tuple(row.get(f"{name}_low") for row in rows) if any(f"{name}_low" in row for row in rows) else (),
            tuple(row.get(f"{name}_high") for row in rows) if any(f"{name}_low" in row for row in rows) else (),
        )
        for name, role in zip(names, roles, strict=False)
    )
    x = tuple(float(row["iteration"]) for row in rows)
    return Plot("line", "Evaluation", "iteration", "score", x, series) if series else None


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if _is_number(value)]
    return sum(known) / len(known) if known else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
