"""The group standard deviation σ̂: of a log's groups, or of groups drawn from the tries of a rate table."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onedial.analysis.findings.difficulty import UNJUDGED
from onedial.analysis.findings.expected import group_pmf, no_visits, visits_of
from onedial.analysis.findings.finding import Measurement, Plot, Series, Spec, measures
from onedial.analysis.findings.intervals import Interval, ratio_interval
from onedial.analysis.findings.log_tables import LogTables
from onedial.analysis.findings.silence import SHOWN, why_no_group_shares
from onedial.core.maths import dispersion

Array = NDArray[np.float64]

BINS = 10
LABELS = ("0", *(f"{0.05 * i:.2f}–{0.05 * i + 0.05:.2f}" for i in range(BINS)))

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
    number = _bin_of(values)
    counts = np.bincount(number, minlength=BINS + 1)
    members = tuple(
        tuple(table.filter(pl.Series(number == i)).get_column("prompt_id").unique(maintain_order=True).head(SHOWN))
        for i in range(BINS + 1)
    )
    interval = ratio_interval(per.get_column("sigma"), per.get_column("count"))
    mixed = values[values > 0]
    shares = (counts / len(values)).astype(np.float64)
    of_mixed = float(mixed.mean()) if len(mixed) else 0.0
    return _measured(float(values.mean()), of_mixed, interval, shares, members)


def _of_rates(tables: LogTables) -> Measurement | str:
    """E[σ̂] over groups drawn from each visit's tries, and the expected share of groups per bin of σ̂."""
    size = tables.group_size
    visits = visits_of(tables, size)
    if visits is None:
        return no_visits(tables)
    pmf = group_pmf(visits.k, visits.n, size)
    values = dispersion.group_sigma(np.arange(size + 1), size)
    share = visits.counts() @ pmf / len(visits.cell)
    sums, number = visits.per_prompt(pmf @ values)
    mean, mixed = float(share @ values), float(1 - share[0] - share[-1])
    bins = np.bincount(_bin_of(values), weights=share, minlength=BINS + 1)
    of_mixed = mean / mixed if mixed > 0 else 0.0
    return _measured(mean, of_mixed, ratio_interval(sums, number), bins.astype(np.float64), (), f" of {size}")


def _bin_of(sigma: Array) -> NDArray[np.int64]:
    """A bin of its own for 0, then (0, .05], …, (.45, .5]."""
    return np.ceil(np.round(sigma / 0.05, 9)).astype(np.int64)


def _measured(
    mean: float,
    of_mixed: float,
    interval: Interval | None,
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
        method="bootstrap over prompts",
        importance=0.4,
        plots=(
            Plot(
                "bars",
                "Distribution of σ̂ over groups",
                f"σ̂ of the group{of_size} (0 = silent)",
                "share of groups",
                LABELS,
                (Series("groups", tuple(map(float, shares)), "plain"),),
                members=members,
            ),
        ),
    )
