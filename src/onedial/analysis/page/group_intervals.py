"""95 % intervals of a run's mean reward and share correct, over the groups of each iteration.

`metrics.jsonl` holds the means only; their spread is in the rollouts. Rollouts of one group resemble each other, so the
groups are the independent units.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import stdtrit

from onedial.analysis.findings import LogTables, Plot
from onedial.analysis.page.curves import finite_or_null

Array = NDArray[np.float64]

NOTE = "band: 95 % interval over groups"


def add_group_intervals(plot: Plot, tables: LogTables) -> Plot:
    """The plot with bands around its first line, if `extra["sums"]` names the column of `tables.groups` whose mean per
    usable rollout the line shows: "c" (correct) or "total" (reward). Other plots are returned unchanged."""
    column = plot.extra.get("sums")
    if column is None or tables.groups.is_empty():
        return plot
    groups = tables.groups.select("iteration", "n", pl.col(column).alias("sum")).drop_nulls().filter(pl.col("n") > 0)
    if groups.is_empty():
        return plot
    smoothed = "smooth" in plot.extra
    mean = np.array(plot.extra["smooth"][0] if smoothed else plot.series[0].y, dtype=np.float64)  # None becomes NaN
    point = np.searchsorted(np.array(plot.x), groups.get_column("iteration").to_numpy(), side="right") - 1
    n, total = (groups.get_column(name).to_numpy().astype(np.float64) for name in ("n", "sum"))
    reach = mean_reach(point, n, total, window=plot.extra.get("width", 0.0), points=len(plot.x))
    low, high = mean - reach, mean + reach
    if plot.unit == "share":
        low, high = np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
    first = replace(plot.series[0], low=finite_or_null(low), high=finite_or_null(high))
    note = "; ".join(filter(None, [plot.note, NOTE + (" of the smoothed mean" if smoothed else "")]))
    return replace(plot, series=(first, *plot.series[1:]), note=note)


def mean_reach(point: NDArray[np.int64], n: Array, total: Array, *, window: float, points: int) -> Array:
    """Half the width of the 95 % interval of each point's mean Σ w total / Σ w n, NaN for fewer than two groups (T,).

    `point`, `n`, `total` are per group (M,): its point, its usable rollouts and the sum over them; w is the Gaussian
    window of `curves.smooth`, with `window` its width in points. The variance of the ratio is
    Σ w² (total − R n)² / (Σ w n)² · m/(m − 1), with R the ratio and m = (Σ w)² / Σ w² groups (delta method),
    and the quantile is Student's with m − 1 degrees of freedom.
    """
    distance = np.arange(points)[:, None] - np.arange(points)[None, :]
    weight = np.exp(-0.5 * (distance / window) ** 2) if window > 0 else (distance == 0).astype(np.float64)
    sums = {name: _sums(point, values, points) for name, values in _products(n, total).items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        base = weight @ sums["n"]
        ratio = weight @ sums["t"] / base
        square = weight**2
        spread = square @ sums["tt"] - 2 * ratio * (square @ sums["tn"]) + ratio**2 * (square @ sums["nn"])
        groups = (weight @ sums["one"]) ** 2 / (square @ sums["one"])
        quantile = stdtrit(np.maximum(groups - 1, 1.0), 0.975)
        return np.where(groups > 1, quantile * np.sqrt(np.maximum(spread, 0) * groups / (groups - 1)) / base, np.nan)


def _products(n: Array, total: Array) -> dict[str, Array]:
    return {"one": np.ones(len(n)), "n": n, "t": total, "nn": n * n, "tn": total * n, "tt": total * total}


def _sums(point: NDArray[np.int64], values: Array, points: int) -> Array:
    kept = (point >= 0) & (point < points)
    return np.bincount(point[kept], weights=values[kept], minlength=points).astype(np.float64)
