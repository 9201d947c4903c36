"""The curves of an onedial run: `metrics.jsonl` and `eval.jsonl` as plots over the iterations.

Each plot is one entry of `CURVES`. Raw values stay in `Series.y`; a run of more than a few iterations also gets a
smoothed line in `Plot.extra["smooth"]`, one list per series. Shares of groups have a 95 % interval, because the number
of groups behind them is logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onedial.analysis.findings.finding import Plot, Series
from onedial.analysis.page.accuracy import plot_heldout
from onedial.analysis.page.belief_plot import plot_belief
from onedial.analysis.page.run_records import collect_numbers, read_run_records
from onedial.core.maths.estimators import wilson_interval

Array = NDArray[np.float64]

MOST_POINTS = 400  # longer runs are averaged over neighboring iterations
SMOOTHED_FROM = 12  # iterations from which a smoothed line is drawn over the raw points
GROUPS = "groups_generated"


@dataclass(frozen=True)
class Line:
    """One line of a plot: its key in `metrics.jsonl`, its name and its color role.

    `count` is the key of the number of independent trials behind a share; the line then has a 95 % interval. `sums` is
    the column of the log's groups from which a mean per rollout is computed (see group_intervals.py).
    """

    key: str
    name: str
    role: str
    count: str = ""
    sums: str = ""


@dataclass(frozen=True)
class Curve:
    """One plot over the iterations. `unit` is "share" (printed in per cent) or "number"."""

    title: str
    y_label: str
    unit: str
    lines: tuple[Line, ...]


CURVES = (
    Curve(
        "Kinds of groups",
        "share of the groups generated",
        "share",
        (
            Line("mixed_share", "mixed", "mixed", GROUPS),
            Line("all_correct_share", "all correct", "right", GROUPS),
            Line("all_wrong_share", "all wrong", "wrong", GROUPS),
            Line("silent_other_share", "other (all equal)", "other", GROUPS),
        ),
    ),
    Curve(
        "Correct completions",
        "share of judged rollouts",
        "share",
        (Line("correct_share", "correct", "right", sums="c"),),
    ),
    Curve("Mean outcome reward", "reward", "number", (Line("reward_mean", "outcome reward", "plain", sums="total"),)),
    Curve("Group standard deviation σ̂", "mean over groups, reward", "number", (Line("sigma_mean", "σ̂", "mixed"),)),
    Curve(
        "Tokens with a gradient",
        "share of the tokens generated",
        "share",
        (Line("trained_share", "tokens trained on", "mixed"),),
    ),
    Curve("Entropy of the policy", "nats per token", "number", (Line("entropy", "entropy", "plain"),)),
    Curve(
        "Completion length",
        "mean, tokens",
        "number",
        (
            Line("length_correct_mean", "correct", "right"),
            Line("length_wrong_mean", "wrong", "wrong"),
            Line("length_mean", "all", "ghost"),
        ),
    ),
    Curve(
        "Truncated and unusable rollouts",
        "share of rollouts",
        "share",
        (Line("truncated_share", "cut at the length limit", "alt"), Line("unusable_share", "no verdict", "other")),
    ),
    Curve(
        "Clipped tokens",
        "share of the tokens trained on",
        "share",
        (
            Line("clip_low_share", "ratio below the lower clip", "alt"),
            Line("clip_high_share", "ratio above the upper clip", "plain"),
        ),
    ),
    Curve(
        "Sampler against trainer", "KL, nats per token", "number", (Line("mismatch_kl", "KL(sampler‖trainer)", "alt"),)
    ),
    Curve(
        "Policy against reference", "KL, nats per token", "number", (Line("kl_ref", "KL(policy‖reference)", "plain"),)
    ),
    Curve("Negative log-likelihood", "nats per token", "number", (Line("nll", "of the tokens trained on", "plain"),)),
    Curve(
        "Preference accuracy",
        "share of trained pairs",
        "share",
        (Line("pair_accuracy", "chosen side preferred", "plain"),),
    ),
    Curve(
        "Log-probability of pairs",
        "nats per completion",
        "number",
        (Line("chosen_logp", "chosen", "plain"), Line("rejected_logp", "rejected", "alt")),
    ),
    Curve(
        "Critic: explained variance",
        "1 − Var(R − V) / Var(R)",
        "number",
        (Line("explained_variance", "explained variance", "plain"),),
    ),
    Curve(
        "Belief of the allocator on audited prompts",
        "mean solve rate",
        "share",
        (
            Line("audit_believed", "believed before sampling", "plain", "audit_prompts"),
            Line("audit_solved", "observed", "right", "audit_prompts"),
        ),
    ),
    Curve(
        "Calibration error of the belief",
        "mean gap, run so far",
        "number",
        (Line("calibration_error", "|believed − observed|", "alt"),),
    ),
    Curve("Gradient norm", "before clipping", "number", (Line("grad_norm", "gradient norm", "plain"),)),
    Curve(
        "Time of an iteration",
        "seconds",
        "number",
        (
            Line("generate_s", "generation", "plain"),
            Line("verify_s", "waiting for verdicts", "alt"),
            Line("update_s", "update", "third"),
        ),
    ),
    Curve("Throughput", "tokens per second of generation", "number", (Line("tokens_per_s", "throughput", "plain"),)),
)


def plot_run(folder: Path) -> tuple[list[Plot], list[str]]:
    """Plots of a run directory, and notes on records of its two files that could not be read.

    Both are empty for a folder without these files. Raises DataError if a file exists and cannot be opened.
    """
    records, notes = read_run_records(folder / "metrics.jsonl")
    keys = sorted({key for curve in CURVES for line in curve.lines for key in (line.key, line.count) if key})
    columns, more = collect_numbers(records, keys, "metrics.jsonl")
    steps = np.array([record["iteration"] for record in records], dtype=np.float64)
    plots = [plot for curve in CURVES if (plot := _plot(curve, steps, columns))]
    heldout, others = plot_heldout(folder)
    return [*heldout, *plots, *plot_belief(records)], [*notes, *more, *others]


def generation_seconds(folder: Path) -> float | None:
    """Seconds spent generating in the whole run; None where the metrics do not tell."""
    records, _ = read_run_records(folder / "metrics.jsonl")
    seconds = collect_numbers(records, ["generate_s"], "metrics.jsonl")[0]["generate_s"]
    return float(np.nansum(seconds)) if np.isfinite(seconds).any() else None


def smooth(values: Array, counts: Array, width: float) -> tuple[Array, Array]:
    """Mean of neighboring values under a Gaussian window, and the number of trials behind each mean.

    At point i: m = Σ w n v / Σ w n with w = exp(−½ ((j − i)/width)²) and n = `counts`; the number of trials is Kish's
    (Σ w n)² / Σ w² n. Values that are NaN weigh nothing. All arrays (T,); width 0 changes nothing.
    """
    place = np.arange(len(values), dtype=np.float64)
    distance = place[:, None] - place[None, :]
    window = np.exp(-0.5 * (distance / width) ** 2) if width > 0 else (distance == 0).astype(np.float64)
    known = np.where(np.isfinite(values) & np.isfinite(counts), counts, 0.0)
    filled = np.where(known > 0, values, 0.0)
    total = window @ known
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(np.isfinite(values), window @ (known * filled) / total, np.nan)
        trials = total**2 / (window**2 @ known)
    return mean, trials


def _plot(curve: Curve, steps: Array, columns: Mapping[str, Array]) -> Plot | None:
    """The plot of a curve; None when nothing was measured, or when every share is 0."""
    shown = [line for line in curve.lines if _says_something(columns[line.key], curve.unit)]
    if not shown:
        return None
    pooled = max(1, -(-len(steps) // MOST_POINTS))
    points = [slice(i, i + pooled) for i in range(0, len(steps), pooled)]
    width = _width(len(points))
    series, lines = [], []
    for line in shown:
        counts = columns[line.count] if line.count else np.ones(len(steps))
        values, weight = _pool(columns[line.key], counts, points)
        one, smoothed = _smoothed(Series(line.name, finite_or_null(values), line.role), weight, width, bool(line.count))
        series.append(one)
        lines.append(smoothed)
    x = tuple(float(steps[part][0]) for part in points)
    note = _note(pooled, width, bool(any(line.count for line in shown)))
    extra: dict[str, Any] = {"smooth": lines, "width": width} if width else {}
    if shown[0].sums:
        extra["sums"] = shown[0].sums
    return Plot(
        "line", curve.title, "iteration", curve.y_label, x, tuple(series), unit=curve.unit, note=note, extra=extra
    )


def add_smoothed_lines(plot: Plot) -> Plot:
    """A plot over iterations with its smoothed lines, weighted by the groups behind each point (`extra["counts"]`).

    Where these groups are the trials of its shares (`extra["trials"]`) the lines get 95 % intervals. Other plots are
    returned as they are.
    """
    counts = plot.extra.get("counts")
    if plot.kind != "line" or counts is None:
        return plot
    width, trials = _width(len(plot.x)), bool(plot.extra.get("trials"))
    parts = [_smoothed(series, np.array(counts, dtype=np.float64), width, trials) for series in plot.series]
    extra = {"smooth": [smoothed for _, smoothed in parts]} if width else {}
    note = "; ".join(filter(None, [plot.note, _note(1, width, trials)]))
    return replace(plot, series=tuple(series for series, _ in parts), extra=extra, note=note)


def _width(points: int) -> float:
    """Width of the Gaussian window: a fortieth of the run; 0 for runs of a few iterations."""
    return points / 40 if points >= SMOOTHED_FROM else 0.0


def _smoothed(series: Series, counts: Array, width: float, trials: bool) -> tuple[Series, tuple[float | None, ...]]:
    """The series, with intervals where `counts` are trials, and its smoothed values."""
    values = np.array([np.nan if value is None else value for value in series.y], dtype=np.float64)
    mean, effective = smooth(values, counts, width)
    low, high = _interval(mean, effective) if trials else ((), ())
    return replace(series, low=low, high=high), finite_or_null(mean)


def _note(pooled: int, width: float, interval: bool) -> str:
    words = []
    if pooled > 1:
        words.append(f"each point is the mean of {pooled} iterations")
    if interval:
        words.append("band: 95 % interval over groups" + (" of the smoothed share" if width else ""))
    return "; ".join(words)


def _says_something(values: Array, unit: str) -> bool:
    known = values[np.isfinite(values)]
    return bool(len(known)) and (unit != "share" or bool(known.any()))


def _pool(values: Array, counts: Array, points: Sequence[slice]) -> tuple[Array, Array]:
    """Means over each run of iterations, weighted by `counts`, and the sums of `counts`; NaN where nothing is known."""
    means, sums = [], []
    for part in points:
        known = np.isfinite(values[part]) & np.isfinite(counts[part]) & (counts[part] > 0)
        weight = counts[part][known]
        means.append(float(values[part][known] @ weight / weight.sum()) if len(weight) else np.nan)
        sums.append(float(weight.sum()))
    return np.array(means), np.array(sums)


def _interval(share: Array, trials: Array) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """Wilson's 95 % interval of each share at its number of trials."""
    bounds: list[tuple[float | None, float | None]] = []
    for value, count in zip(share, trials, strict=True):
        known = 0 <= value <= 1 and count > 0
        bounds.append(wilson_interval(float(min(value * count, count)), float(count)) if known else (None, None))
    return tuple(low for low, _ in bounds), tuple(high for _, high in bounds)


def finite_or_null(values: Any) -> tuple[float | None, ...]:
    """The values as a series: None for NaN and infinities."""
    return tuple(float(value) if np.isfinite(value) else None for value in values)
