"""How difficult the prompts are: the distribution of solve rates, and the silent groups it implies."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onedial.analysis.findings.expected import GRADED, deconvolved_silent_shares, expected_kinds
from onedial.analysis.findings.finding import Measurement, Plot, Series, Spec, Table, measures, percent
from onedial.analysis.findings.intervals import Interval, ratio_interval
from onedial.analysis.findings.log_tables import LogTables
from onedial.analysis.findings.pass_rates import pass_rate
from onedial.analysis.findings.silence import SHOWN
from onedial.core.maths import dispersion

Array = NDArray[np.float64]

EDGES = (0.0, 0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98, 1.0)  # bins of the solve rate
LABELS = ("≤ 2 %", *(f"{100 * a:.0f}–{100 * b:.0f}" for a, b in zip(EDGES[1:-2], EDGES[2:-1], strict=True)), "≥ 98 %")
SIZES = (2, 4, 8, 16, 32, 64)

UNJUDGED = "the log does not show which rollouts are right (graded rewards on an unknown scale, or no counts)"


SOLVE_RATES = Spec(
    name="solve_rates",
    title="Solve rates of the prompts",
    unit="share",
    definition=(
        "Mean over prompts of the probability p of being solved, each prompt counted once (pass@1), and the "
        "distribution of p, by nonparametric maximum likelihood from k right of n."
    ),
    why=(
        "Groups of prompts near 0 and 1 are hardly ever mixed, so they teach nothing. The histogram of k/n mixes "
        "difficulty with chance: with few tries many prompts show 0 or 1 by chance."
    ),
)
EXPECTED_SILENCE = Spec(
    name="expected_silence",
    title="Expected silent share by group size",
    unit="share",
    definition=(
        "E[p^G + (1 − p)^G] over the distribution of solve rates: the silent share of groups drawn from all tries of "
        "their prompt, at the log's own group sizes where it has groups, else at the training group size. 'At the mean "
        "rate' puts the mean p into the formula, which is too low (Jensen)."
    ),
    why="It shows before a run what a group size will waste, and whether rollouts of one prompt are independent.",
)


@measures(SOLVE_RATES)
def solve_rates(tables: LogTables) -> Measurement | str:
    """The mean solve rate over prompts and the distribution behind it, with intervals for what the tries do not
    determine."""
    if reason := _no_rates(tables):
        return reason
    (tally, number), fitted, region = tables.tally, tables.solve_rates, tables.solve_rate_region
    binned = np.bincount(_find_bin(fitted.points), weights=fitted.mass, minlength=len(LABELS))
    bins = _find_bin(region.points)
    ranges = [_hold(binned[i], region.interval((bins == i).astype(float))) for i in range(len(LABELS))]
    rates = tables.counts.get_column("k").to_numpy() / tables.counts.get_column("n").to_numpy()
    mean, spread = pass_rate(tables.visit_counts, 1), float(np.sqrt(fitted.points**2 @ fitted.mass - fitted.mean**2))
    raw_bin = _find_bin(rates)
    raw = np.bincount(raw_bin, minlength=len(LABELS)).astype(np.float64) / len(rates)
    ids = tables.counts.get_column("prompt_id").to_numpy()
    members = tuple(tuple(map(str, ids[raw_bin == i][:SHOWN])) for i in range(len(LABELS)))
    tries = float(np.median(tally.n[number]))
    return Measurement(
        value=mean.value,
        interval=mean.interval,
        headline=f"The mean solve rate of {mean.prompts:,} prompts is {percent(mean.value)}; the rates have a "
        f"standard deviation of {100 * spread:.0f} points ({100 * float(rates.std()):.0f} in k/n, which adds the "
        f"chance of {tries:g} tries).",
        advice="Near 0 and 1, few tries do not distinguish 'rarely' from 'never'; more tries on a sample of those "
        "prompts would."
        if tries < 32
        else "",
        method="mean: score interval over prompts; bars: NPMLE by EM on a grid with 0 and 1 as points, each with the "
        "range of values that the counts allow (profile likelihood, 95 %)",
        importance=0.42,
        plots=(
            Plot(
                "bars",
                "Solve rates: deconvolved, and the raw histogram of k/n",
                "solve rate p, per cent",
                "share of prompts",
                LABELS,
                (
                    Series("deconvolved", _floats(binned), "plain", *_ends(ranges)),
                    Series("raw k/n", _floats(raw), "ghost"),
                ),
                members=members,
                note=f"ranges are what {tries:g} tries allow; a click lists prompts by their raw k/n",
            ),
        ),
    )


@measures(EXPECTED_SILENCE)
def expected_silence(tables: LogTables) -> Measurement | str:
    """The silent share that independent rollouts at the fitted solve rates would give, beside the observed one."""
    if reason := _no_rates(tables) or (GRADED if tables.graded else ""):
        return reason
    sizes = np.array(sorted({*SIZES, tables.group_size, *_common_sizes(tables)}))
    rows = _rows(tables, sizes)
    expected, low, high, naive = (np.array(column, dtype=np.float64) for column in list(zip(*rows, strict=True))[1:5])
    value, interval = _at_own_sizes(tables)
    observed = _observed(tables)
    columns = ("G", "expected", "low", "high", "at the mean rate", "known from the log")
    plug_in = _plug_in(tables, sizes)
    most = _determined(tables)
    return Measurement(
        value=value,
        interval=interval,
        headline=_silence_headline(tables, value, interval, observed),
        advice=_gap_advice(observed, interval),
        method="groups drawn from the tries as far as these go, beyond that NPMLE of solve rates; intervals "
        "over prompts, beyond the tries the range of values that the counts allow (profile likelihood, 95 %)",
        importance=0.38,
        plots=(
            Plot(
                "line",
                "Silent share by group size",
                "group size G",
                "share of groups that are silent",
                tuple(float(g) for g in sizes),
                (
                    Series("expected", _floats(expected), "plain", _floats(low), _floats(high)),
                    Series("at the mean solve rate", _floats(naive), "ghost"),
                    *([Series("plug-in p̂^G + (1 − p̂)^G", plug_in, "alt")] if plug_in else []),
                    *_observed_series(tables, sizes),
                ),
                log_x=True,
                note=f"beyond G = {most} tries the band is what they leave open, the line one possibility"
                if most < sizes[-1]
                else "",
            ),
        ),
        tables=(_with_plug_in(Table("By group size", columns, rows, ("", *["share"] * 4, "")), plug_in),),
    )


def silent_row(rates: Array, sizes: tuple[int, ...] = (4, 8, 16, 32, 64)) -> dict[int, float]:
    """Mean of p̂^G + (1 − p̂)^G over a table of solve rates, as published for Big-Math (arXiv:2607.00152).

    For `llama8b_solve_rate` of `open-r1/Big-Math-RL-Verified-Processed` (215,608 prompts) the published values are 59,
    44, 32, 23 and 17 per cent. The formula uses rates from few tries as if they were exact, so it overstates silence
    where rates are noisy.
    """
    share = dispersion.expected_silent_share(rates, np.array(sizes))
    return dict(zip(sizes, map(float, share), strict=True))


def _no_rates(tables: LogTables) -> str:
    if tables.log.coverage.survivors_only:
        return (
            "the log holds only groups that survived filtering: its prompts are a selection by their own luck "
            "(`onedial plan` corrects for it)"
        )
    if not tables.judged or tables.counts.is_empty():
        return UNJUDGED
    if tables.log.coverage.group_identity == "none":
        return "the log does not show which rollouts belong to one prompt"
    if np.median(tables.counts.get_column("n").to_numpy()) < 2:
        return "most prompts have a single try: their difficulty cannot be distinguished from chance"
    return ""


def _find_bin(p: Array) -> NDArray[np.int64]:
    """Bin of each rate: ≤ .02, then half-open to the right up to .98, ≥ .98."""
    inner = np.searchsorted(np.array(EDGES[1:-1]), p, side="right")
    return np.asarray(np.where(p <= EDGES[1], 0, inner), dtype=np.int64)


def _plug_in(tables: LogTables, sizes: NDArray[np.int64]) -> tuple[float, ...]:
    """The plug-in share of a rate table at each size; () for a log, whose own groups show it."""
    if tables.log.kind != "rates":
        return ()
    rates = tables.rates.get_column("rate").drop_nulls().to_numpy()
    return tuple(silent_row(rates, tuple(map(int, sizes))).values())


def _with_plug_in(table: Table, plug_in: tuple[float, ...]) -> Table:
    if not plug_in:
        return table
    rows = tuple((*row, share) for row, share in zip(table.rows, plug_in, strict=True))
    return Table(table.title, (*table.columns, "plug-in"), rows, (*table.units, "share"))


Row = tuple[int, float, float, float, float, str]


def _rows(tables: LogTables, sizes: NDArray[np.int64]) -> tuple[Row, ...]:
    """`_row` of each size, for a rate table with the fitted distribution of its visits' rates beyond their tries."""
    found = tuple(_row(tables, int(size)) for size in sizes)
    beyond = [row[0] for row in found if row[5] != "yes"] if tables.log.kind == "rates" else []
    fitted = deconvolved_silent_shares(tables, beyond) if beyond else {}
    return tuple(
        (row[0], fitted[row[0]].share, *(fitted[row[0]].interval or (0.0, 1.0)), *row[4:]) if row[0] in fitted else row
        for row in found
    )


def _row(tables: LogTables, size: int) -> Row:
    """Group size, expected silent share with its interval, the share at the mean rate, and whether it is known."""
    at_mean = float(dispersion.silent_probability(tables.solve_rates.mean, size))
    drawn = expected_kinds(tables, size, ("silent",)).get("silent")
    if drawn is not None and drawn.interval is not None:
        return (size, drawn.share, *drawn.interval, at_mean, "yes")
    value, interval = _expected(tables, {size: 1.0})
    if drawn is not None:  # one prompt: no spread over prompts, so the range that its tries allow
        return (size, drawn.share, *_hold(drawn.share, interval), at_mean, "yes")
    return (size, value, *interval, at_mean, "yes" if size <= _determined(tables) else "only this range")


def _expected(tables: LogTables, sizes: dict[int, float]) -> tuple[float, Interval]:
    """Expected silent share at group sizes with weights, from the distribution of solve rates."""
    fitted, region = tables.solve_rates, tables.solve_rate_region

    def silent(points: Array) -> Array:
        return np.asarray(sum(w * dispersion.silent_probability(points, size) for size, w in sizes.items()))

    value = float(fitted.mass @ silent(fitted.points))
    return value, _hold(value, region.interval(silent(region.points)))


def _hold(value: float, interval: Interval) -> Interval:
    """The interval, extended if necessary to contain the value of another fit."""
    return min(interval[0], float(value)), max(interval[1], float(value))


def _determined(tables: LogTables) -> int:
    """The largest group size that the tries of at least half of the prompts (of the rows of a table) determine."""
    tries = tables.visits if tables.log.kind == "rates" else tables.counts
    return int(np.median(tries.get_column("n").to_numpy()))


def _silence_headline(tables: LogTables, value: float, interval: Interval, observed: float | None) -> str:
    own = _own_sizes(tables)
    mean = tables.solve_rates.mean
    mean_only = float(sum(w * dispersion.silent_probability(mean, n) for n, w in own.items()))
    alone = f"the mean solve rate alone would suggest {percent(mean_only)}."
    if observed is not None:
        return (
            f"{percent(value)} of the groups would be silent if all tries of a prompt were alike; "
            f"{percent(observed)} were observed; {alone}"
        )
    tries, size = _determined(tables), tables.group_size
    if size > tries:
        return (
            f"{tries} tries per prompt do not determine the silent share at G = {size}: it may be "
            f"{percent(interval[0])} to {percent(interval[1])}."
        )
    return f"{percent(value)} silent groups expected at G = {size}; {alone}"


def _common_sizes(tables: LogTables) -> list[int]:
    if tables.shared.is_empty():
        return []
    common = tables.shared.group_by("n").len().sort("len", descending=True).head(6)
    return [int(n) for n in common.get_column("n")]


def _own_sizes(tables: LogTables) -> dict[int, float]:
    """Group size → share of the groups; the training size for a rate table."""
    if tables.shared.is_empty():
        return {tables.group_size: 1.0}
    table = tables.shared.group_by("n").len()
    total = len(tables.shared)
    return {int(n): count / total for n, count in table.iter_rows()}


def _at_own_sizes(tables: LogTables) -> tuple[float, Interval]:
    """Value and interval of the finding: at the log's own group sizes, or at the training size of a rate table."""
    if tables.log.kind == "rates":
        _, value, low, high, *_ = _rows(tables, np.array([tables.group_size]))[0]
        return value, (low, high)
    if tables.shared.is_empty():
        return _expected(tables, _own_sizes(tables))
    per = tables.shared.group_by("prompt_id", "n").len("groups").rename({"n": "size"})
    per = per.join(tables.counts.select("prompt_id", "k", "n"), on="prompt_id").sort("prompt_id", "size")
    size, groups, k, n = (per.get_column(name).to_numpy().astype(np.float64) for name in ("size", "groups", "k", "n"))
    chance = np.clip(sum(dispersion.unbiased_powers(k, n, size)), 0.0, 1.0)
    sums = per.select("prompt_id", silent=pl.Series(chance * groups), groups=pl.col("groups"))
    sums = sums.group_by("prompt_id", maintain_order=True).sum()
    value = float(sums.get_column("silent").sum() / groups.sum())
    interval = ratio_interval(sums.get_column("silent"), sums.get_column("groups"))
    return value, interval or _hold(value, _expected(tables, _own_sizes(tables))[1])


def _observed(tables: LogTables) -> float | None:
    if tables.shared.is_empty():
        return None
    return int((tables.shared.get_column("kind") != "mixed").sum()) / len(tables.shared)


def _observed_series(tables: LogTables, sizes: NDArray[np.int64]) -> tuple[Series, ...]:
    if tables.shared.is_empty():
        return ()
    table = tables.shared.group_by("n").agg((pl.col("kind") != "mixed").mean().alias("silent"))
    seen = dict(table.iter_rows())
    return (Series("observed", tuple(seen.get(int(g)) for g in sizes), "alt"),)


def _gap_advice(observed: float | None, interval: tuple[float, float]) -> str:
    base = "Read the group size at which the share is bearable; then let `onedial plan` choose it under your budget."
    if observed is None or interval[0] <= observed <= interval[1]:
        return base
    if observed > interval[1]:
        return "More silent than independent tries at these rates: prompts changed in difficulty over the log. " + base
    return "Less silent than expected: look for filtering before the log was written, or repeated prompts. " + base


def _floats(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _ends(intervals: list[Interval]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The low ends and the high ends."""
    return tuple(low for low, _ in intervals), tuple(high for _, high in intervals)
