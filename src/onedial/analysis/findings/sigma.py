"""The group standard deviation σ̂: of a log's groups, or of groups drawn from the tries of a rate table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onedial.analysis.findings.difficulty import UNJUDGED
from onedial.analysis.findings.expected import group_pmf, no_visits, select_visits
from onedial.analysis.findings.finding import Measurement, Plot, Series, Spec, Table, Value, measures
from onedial.analysis.findings.intervals import Interval, ratio_interval
from onedial.analysis.findings.log_tables import LogTables
from onedial.analysis.findings.sigma_laws import expected_coefficient, sigma_moments
from onedial.analysis.findings.silence import SHOWN, why_no_group_shares
from onedial.core.maths import dispersion

Array = NDArray[np.float64]

BINS = 10
MOST_BARS = 12  # as many values of σ̂ get a bar each; beyond that they are put into bins of 0.05

SIGMA = Spec(
    name="sigma",
    title="Group standard deviation σ̂",
    unit="reward",
    definition=(
        "Population standard deviation of the outcome rewards of a group, divided by the range right − wrong so that "
        "it lies in [0, ½]; mean over groups of two or more judged rollouts. For a rate table, its expectation over "
        "groups of the training size drawn from the tries of each prompt."
    ),
    why=(
        "σ̂^(2−α) is the coefficient of a group's gradient: it multiplies the difference of the mean scores of right "
        "and wrong answers."
    ),
)


@measures(SIGMA)
def sigma(tables: LogTables) -> Measurement | str:
    """Mean σ̂ over groups, and its distribution."""
    if tables.log.kind == "rates":
        return _of_rates(tables)
    if reason := why_no_group_shares(tables) or ("" if tables.judged else UNJUDGED):
        return reason
    if tables.graded:
        return "rewards are graded, and σ̂ of the verdicts is not σ̂ of the rewards"
    k, n = (pl.col(name).cast(pl.Float64) for name in ("c", "n"))
    table = tables.shared.select("prompt_id", sigma=(k * (n - k)).sqrt() / n)
    per = table.group_by("prompt_id").agg(pl.col("sigma").sum(), pl.len().alias("count"))
    values = table.get_column("sigma").to_numpy()
    labels, number = _make_bars(values)
    counts = np.bincount(number, minlength=len(labels))
    members = tuple(
        tuple(table.filter(pl.Series(number == i)).get_column("prompt_id").unique(maintain_order=True).head(SHOWN))
        for i in range(len(labels))
    )
    interval = ratio_interval(per.get_column("sigma"), per.get_column("count"))
    mixed = values[values > 0]
    shares = (counts / len(values)).astype(np.float64)
    of_mixed = float(mixed.mean()) if len(mixed) else 0.0
    return _measured(float(values.mean()), of_mixed, interval, labels, shares, members)


def _of_rates(tables: LogTables) -> Measurement | str:
    """E[σ̂] over groups drawn from each visit's tries, and the expected share of groups per bin of σ̂."""
    size = tables.group_size
    visits = select_visits(tables, size)
    if visits is None:
        return no_visits(tables)
    pmf = group_pmf(visits.k, visits.n, size)
    values = dispersion.group_sigma(np.arange(size + 1), size)
    share = visits.counts() @ pmf / len(visits.entry)
    sums, number = visits.per_prompt(pmf @ values)
    mean, mixed = float(share @ values), float(1 - share[0] - share[-1])
    laws = Table(f"E[σ̂^(2−α)] of groups of {size}", *_moment_rows(tables))
    labels, number_of_bar = _make_bars(values)
    bins = np.bincount(number_of_bar, weights=share, minlength=len(labels))
    of_mixed = mean / mixed if mixed > 0 else 0.0
    found = _measured(mean, of_mixed, ratio_interval(sums, number), labels, bins.astype(np.float64), (), f" of {size}")
    return replace(found, plots=(*found.plots, _law_plot(size)), tables=(laws,))


def _moment_rows(tables: LogTables) -> tuple[tuple[str, ...], tuple[tuple[Value, ...], ...]]:
    """Columns and rows of the moments of σ̂, one row per α."""
    rows: list[tuple[Value, ...]] = []
    for each in sigma_moments(tables):
        low, high = each.interval or (None, None)
        numbers = (each.value, low, high, each.limit)
        rows.append((f"{each.alpha:g}", *(None if value is None else round(value, 4) for value in numbers)))
    return ("α", "mean", "low", "high", "endless groups, rates as they stand"), tuple(rows)


def _law_plot(size: int) -> Plot:
    """E[σ̂^(2−α)] over the solve rate, and its limit in endless groups."""
    p = np.linspace(0, 1, 101)
    named = (("α = 0", 0.0, "right"), ("α = 1", 1.0, "plain"), ("α = 2", 2.0, "wrong"))
    series = [
        Series(f"{label}, groups of {size}", tuple(map(float, expected_coefficient(p, alpha, size))), role)
        for label, alpha, role in named
    ]
    endless = Series("α = 1, endless groups", tuple(map(float, expected_coefficient(p, 1.0, None))), "ghost")
    return Plot(
        "line",
        f"What a prompt weighs by its solve rate, groups of {size}",
        "solve rate p",
        "E[σ̂^(2−α)]",
        tuple(map(float, p)),
        (*series, endless),
        unit="number",
        note="closed form; at α = 2 it is the chance of a mixed group",
    )


def _make_bars(sigma: Array) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The labels of the bars, and the bar of each value: one bar per value if only few values are possible (groups of
    one size), else one for 0 and one for each of (0, .05], …, (.45, .5]."""
    distinct, number = np.unique(np.round(sigma, 9), return_inverse=True)
    if len(distinct) <= MOST_BARS:
        return tuple(f"{value:.3f}" if value else "0" for value in distinct), number.reshape(-1)
    bins = (f"{0.05 * i:.2f}–{0.05 * i + 0.05:.2f}" for i in range(BINS))
    return ("0", *bins), np.ceil(np.round(sigma / 0.05, 9)).astype(np.int64)


def _measured(
    mean: float,
    of_mixed: float,
    interval: Interval | None,
    labels: tuple[str, ...],
    shares: Array,
    members: tuple[tuple[str, ...], ...],
    of_size: str = "",
) -> Measurement:
    return Measurement(
        value=mean,
        interval=interval,
        headline=f"Mean σ̂ of groups{of_size} is {mean:.3f} of at most 0.5; among mixed groups it is {of_mixed:.3f}.",
        advice="Move tries to prompts whose groups are mixed; σ̂ = ½ is an even split."
        if mean < 0.2 and not of_size
        else "",
        method="jackknife over prompts",
        importance=0.4,
        plots=(
            Plot(
                "bars",
                "Distribution of σ̂ over groups",
                f"σ̂ of the group{of_size} (0 = silent)",
                "share of groups",
                labels,
                (Series("groups", tuple(map(float, shares)), "plain"),),
                members=members,
            ),
        ),
    )
