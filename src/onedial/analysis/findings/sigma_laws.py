"""The group standard deviation of a rate table in closed form: its moments, and the weight of extreme prompts.

With advantages (r − mean)/σ̂^α a group's gradient has the coefficient σ̂^(2−α) (arXiv:2607.00152 for α = 1). Its
expectation over groups of G is what a prompt weighs; in endless groups it is (pq)^(1−α/2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onedial.analysis.findings.expected import group_pmf, select_visits
from onedial.analysis.findings.finding import Measurement, Plot, Series, Spec, Table, measures, percent
from onedial.analysis.findings.intervals import Interval, ratio_interval
from onedial.analysis.findings.log_tables import LogTables
from onedial.core.maths import dispersion

Array = NDArray[np.float64]

ALPHAS = (0.0, 0.5, 1.0, 1.5, 2.0)
EXTREME = 0.1  # a prompt is extreme where p ≤ EXTREME or p ≥ 1 − EXTREME, as in the published figure

EXTREMES = Spec(
    name="extreme_weight",
    title="Weight of extreme prompts",
    unit="share",
    definition=(
        "Share of Σ E[σ̂^(2−α)] over prompts that falls on those solved at most 10 % or at least 90 % of the time, for "
        "groups of the training size and for endless groups, where the weight is (pq)^(1−α/2). Plug-in: at k/n of each "
        "prompt. Deconvolved: over the distribution of solve rates behind the counts. The figure is the plug-in share "
        "at α = 1 in endless groups."
    ),
    why=(
        "Dividing by σ̂ moves weight from the middle to the extremes. How much depends on the group size: in "
        "small groups extreme prompts are hardly ever mixed, so much less weight moves."
    ),
)


@dataclass(frozen=True)
class Moment:
    """E[σ̂^(2−α); 0 < k < G] over groups of the training size drawn from the tries, with its interval over prompts.

    `limit` is the mean of (p̂q̂)^(1−α/2) over rates, what endless groups would give if each rate were exact.
    """

    alpha: float
    value: float
    interval: Interval | None
    limit: float


@dataclass(frozen=True)
class ExtremeShare:
    """Share of the weight at `alpha` that extreme prompts hold in groups of `group_size` (None: endless groups).

    `plug_in` takes each prompt's k/n for its rate, with an interval over prompts; `deconvolved` is over the fitted
    distribution of rates, with the range that the counts allow; None where the number of tries is not known.
    """

    alpha: float
    group_size: int | None
    plug_in: float
    interval: Interval | None
    deconvolved: float | None
    range: Interval | None


@measures(EXTREMES)
def extreme_weight(tables: LogTables) -> Measurement | str:
    """How much of the weight extreme prompts hold under each α, in groups of the training size and in endless ones."""
    shares = {(share.alpha, share.group_size): share for share in extreme_shares(tables)}
    if not shares:
        return "no prompt is solved sometimes: no group has a weight"
    size = tables.group_size
    plain, endless, here = shares[0.0, None], shares[1.0, None], shares[1.0, size]
    rows = tuple(
        (
            f"{share.alpha:g}",
            _name_size(share),
            *(share.plug_in, *_ends(share.interval)),
            *(share.deconvolved, *_ends(share.range)),
        )
        for share in shares.values()
    )
    columns = ("α", "groups of", "plug-in", "low", "high", "deconvolved", "least possible", "most possible")
    return Measurement(
        value=endless.plug_in,
        interval=endless.interval,
        headline=f"Prompts solved at most 10 % or at least 90 % of the time hold {percent(plain.plug_in, 1)} of the "
        f"weight at α = 0 and {percent(endless.plug_in, 1)} at α = 1 in endless groups, "
        f"{percent(here.plug_in, 1)} in groups of {size}.",
        method="plug-in: linearized ratio over prompts; deconvolved: range of values that the counts allow (profile "
        "likelihood, 95 %)",
        importance=0.34,
        plots=(_plot(tuple(shares.values())),),
        tables=(Table("Share of the weight of extreme prompts", columns, rows, ("", "", *["share"] * 6)),),
    )


def _plot(shares: tuple[ExtremeShare, ...]) -> Plot:
    low, high = (tuple(_ends(share.interval)[i] for share in shares) for i in (0, 1))
    fitted_low, fitted_high = (tuple(_ends(share.range)[i] for share in shares) for i in (0, 1))
    fitted = Series("deconvolved", tuple(share.deconvolved for share in shares), "alt", fitted_low, fitted_high)
    return Plot(
        "bars",
        "Weight of prompts solved ≤ 10 % or ≥ 90 %",
        "exponent α and group size G",
        "share of the total weight",
        tuple(f"α {share.alpha:g}, G {_name_size(share)}" for share in shares),
        (
            Series("plug-in k/n", tuple(share.plug_in for share in shares), "plain", low, high),
            *([fitted] if shares[0].deconvolved is not None else []),
        ),
        note="whiskers of the deconvolved shares are what the tries allow",
    )


def _name_size(share: ExtremeShare) -> str:
    if share.group_size is None:
        return "any size" if share.alpha == 0 else "∞"
    return str(share.group_size)


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else interval


def sigma_moments(tables: LogTables) -> tuple[Moment, ...]:
    """The moments at `ALPHAS`; () where most visits have fewer tries than the training size."""
    visits, size = select_visits(tables, tables.group_size), tables.group_size
    if visits is None:
        return ()
    pmf, sigma = group_pmf(visits.k, visits.n, size)[:, 1:size], dispersion.group_sigma(np.arange(1, size), size)
    rates = tables.rates.get_column("rate").drop_nulls().to_numpy()
    moments = []
    for alpha in ALPHAS:
        sums, number = visits.per_prompt(pmf @ sigma ** (2 - alpha))
        interval = ratio_interval(sums, number)
        moments.append(
            Moment(alpha, float(sums.sum() / number.sum()), interval, float(endless_weight(rates, alpha).mean()))
        )
    return tuple(moments)


def extreme_shares(tables: LogTables) -> tuple[ExtremeShare, ...]:
    """The shares at α = 0, 1 and 2; () where no prompt has a rate between 0 and 1.

    At α = 0 the weight is pq(G−1)/G, so that the share is the same at every group size.
    """
    rates, size = prompt_rates(tables), tables.group_size
    if not ((rates > 0) & (rates < 1)).any():
        return ()
    return tuple(_extreme_share(tables, rates, alpha, group) for alpha, group in
                 ((0.0, None), (1.0, size), (1.0, None), (2.0, size)))  # fmt: skip


def _extreme_share(tables: LogTables, rates: Array, alpha: float, size: int | None) -> ExtremeShare:
    weight, extreme = expected_coefficient(rates, alpha, size), is_extreme(rates)
    share, interval = float(weight @ extreme / weight.sum()), ratio_interval(weight * extreme, weight)
    if not tables.judged or tables.counts.is_empty():
        return ExtremeShare(alpha, size, share, interval, None, None)
    fitted, region = tables.solve_rates, tables.solve_rate_region
    mass = fitted.mass * expected_coefficient(fitted.points, alpha, size)
    if not mass.any():
        return ExtremeShare(alpha, size, share, interval, None, None)
    value = float(mass @ is_extreme(fitted.points) / mass.sum())
    low, high = region.interval(is_extreme(region.points), expected_coefficient(region.points, alpha, size))
    return ExtremeShare(alpha, size, share, interval, value, (min(low, value), max(high, value)))


def is_extreme(p: Array) -> Array:
    """1 where p ≤ `EXTREME` or p ≥ 1 − `EXTREME`, else 0. Shape of p."""
    return ((p <= EXTREME) | (p >= 1 - EXTREME)).astype(np.float64)


def expected_coefficient(p: Array, alpha: float, size: int | None) -> Array:
    """E[σ̂^(2−α); 0 < k < G] at the rates p for groups of `size`, or for endless ones. Shape of p."""
    return endless_weight(p, alpha) if size is None else dispersion.expected_sigma(p, size, power=2 - alpha)


def endless_weight(p: Array, alpha: float) -> Array:
    """(pq)^(1−α/2), and 0 at p = 0 and 1, where every group is silent. Shape of p."""
    split = (p > 0) & (p < 1)
    inside = np.where(split, p, 0.5)
    return np.where(split, dispersion.limit_weight(inside, alpha=alpha) * inside * (1 - inside), 0.0)


def prompt_rates(tables: LogTables) -> Array:
    """k/n of each prompt over all its rows, or the mean of its rates where the number of tries is not known."""
    if tables.judged and not tables.counts.is_empty():
        return (tables.counts.get_column("k") / tables.counts.get_column("n")).to_numpy()
    known = tables.rates.filter(pl.col("rate").is_not_null())
    return known.group_by("prompt_id").agg(pl.col("rate").mean()).get_column("rate").to_numpy()
