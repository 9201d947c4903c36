"""A table with a series of solve rates per prompt: what groups of the training size would show in each iteration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from onedial.analysis.findings.expected import group_pmf
from onedial.analysis.findings.finding import Plot, Series
from onedial.analysis.findings.intervals import Interval, ratio_interval
from onedial.analysis.findings.log_tables import LogTables
from onedial.core.maths import dispersion
from onedial.core.palette import GROUP_KINDS

FEWEST_ITERATIONS = 3
BAND = "band: 95 % interval over prompts"


@dataclass(frozen=True)
class SeriesPoint:
    """One iteration: its prompts with enough tries, and means over these with their 95 % intervals over prompts.

    rate                 share of right answers
    right, wrong, mixed  expected shares of the kinds of groups of the training size, drawn from the tries
    sigma                mean σ̂ of these groups, silent ones included
    """

    iteration: int
    prompts: int
    rate: tuple[float, Interval | None]
    right: tuple[float, Interval | None]
    wrong: tuple[float, Interval | None]
    mixed: tuple[float, Interval | None]
    sigma: tuple[float, Interval | None]


def rate_series(tables: LogTables) -> tuple[SeriesPoint, ...]:
    """The iterations of a rate table in order; () if it has fewer than three, or too few tries."""
    size = tables.group_size
    visits = tables.visits.filter((pl.col("n") >= size) & pl.col("iteration").is_not_null())
    if visits.get_column("iteration").n_unique() < FEWEST_ITERATIONS:
        return ()
    k, n = (visits.get_column(name).to_numpy().astype(np.float64) for name in ("k", "n"))
    right, wrong = dispersion.unbiased_powers(k, n, size)
    pairs, entry = np.unique(np.stack([k, n], axis=1), axis=0, return_inverse=True)
    sigma = group_pmf(pairs[:, 0], pairs[:, 1], size) @ dispersion.group_sigma(np.arange(size + 1), size)
    values = {
        "rate": k / n,
        "right": right,
        "wrong": wrong,
        "mixed": 1 - right - wrong,
        "sigma": sigma[entry.reshape(-1)],
    }
    table = visits.select("prompt_id", "iteration").with_columns(pl.Series(name, v) for name, v in values.items())
    per = table.group_by("iteration", "prompt_id").agg(pl.col(*values).sum(), pl.len().alias("rows")).sort("iteration")
    return tuple(_point(part, tuple(values)) for part in per.partition_by("iteration", maintain_order=True))


def _point(per: pl.DataFrame, names: tuple[str, ...]) -> SeriesPoint:
    rows = per.get_column("rows").to_numpy().astype(np.float64)
    means = {}
    for name in names:
        sums = np.sort(per.get_column(name).to_numpy()) if (rows == 1).all() else per.get_column(name).to_numpy()
        means[name] = (float(sums.sum() / rows.sum()), ratio_interval(sums, rows))
    return SeriesPoint(int(per.get_column("iteration")[0]), len(per), **means)


def plot_series(points: tuple[SeriesPoint, ...], size: int) -> tuple[Plot, ...]:
    """The kinds of groups, the mean rate and the mean σ̂ over the iterations, each with its band.

    Iterations with fewer than a tenth of the prompts of the fullest one are not drawn.
    """
    most = max((point.prompts for point in points), default=0)
    points = tuple(point for point in points if 10 * point.prompts >= most)
    kinds = tuple(_series(points, kind, GROUP_KINDS[kind].label, kind) for kind in ("mixed", "right", "wrong"))
    plots = (
        (f"Expected kinds of groups of {size}", "share of groups", kinds, "share"),
        ("Mean solve rate", "share of right answers", (_series(points, "rate", "mean solve rate", "plain"),), "share"),
        (f"Mean σ̂ of groups of {size}", "σ̂ (at most 0.5)", (_series(points, "sigma", "mean σ̂", "plain"),), "number"),
    )
    x = tuple(float(point.iteration) for point in points)
    return tuple(
        Plot("line", title, "iteration", y_label, x, series, unit=unit, note=BAND)
        for title, y_label, series, unit in plots
    )


def _series(points: tuple[SeriesPoint, ...], name: str, label: str, role: str) -> Series:
    found = [getattr(point, name) for point in points]
    low, high = (tuple(span[i] if span else None for _, span in found) for i in (0, 1))
    return Series(label, tuple(value for value, _ in found), role, low, high)
