"""How hard the prompts are: the distribution of solve rates, and the silence it implies."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onedial.analysis.findings.expected import expected_silent_shares
from onedial.analysis.findings.finding import Measurement, Plot, Series, Spec, Table, measures, percent
from onedial.analysis.findings.log_tables import LogTables
from onedial.analysis.findings.silence import SHOWN
from onedial.core.maths import dispersion
from onedial.core.maths.mixing import Mixing, bootstrap

Array = NDArray[np.float64]

EDGES = (0.0, 0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98, 1.0)  # bins of the solve rate
LABELS = ("≤ 2 %", *(f"{100 * a:.0f}–{100 * b:.0f}" for a, b in zip(EDGES[1:-2], EDGES[2:-1], strict=True)), "≥ 98 %")
SIZES = (2, 4, 8, 16, 32, 64)

UNJUDGED = "the log does not tell which rollouts are right (graded rewards on an unknown scale, or no counts)"


SOLVE_RATES = Spec(
    name="solve_rates",
    title="Solve rates of the prompts",
    unit="share",
    definition=(
        "Distribution of each prompt's probability p of being solved, by nonparametric maximum likelihood from k right "
        "of n. The figure is the share of prompts with p between 2 % and 98 %, those that can split."
    ),
    why=(
        "The histogram of k/n mixes difficulty with luck: with few tries many teachable prompts show 0 or 1 by chance, "
        "and some hopeless ones look half-solved."
    ),
)
EXPECTED_SILENCE = Spec(
    name="expected_silence",
    title="Expected silent share by group size",
    unit="share",
    definition=(
        "E[p^G + (1 − p)^G] over the distribution of solve rates, at the log's own group sizes where it has groups, "
        "else at the training group size. 'At the mean rate' plugs the mean p into the formula, which under-predicts "
        "(Jensen)."
    ),
    why="It tells before a run what a group size will waste, and whether rollouts of one prompt are independent.",
)


@measures(SOLVE_RATES)
def solve_rates(tables: LogTables) -> Measurement | str:
    """The distribution of solve rates over prompts, deconvolved; value: share of prompts with p in (.02, .98)."""
    if reason := _no_rates(tables):
        return reason
    (cells, number), fitted = tables.cells, tables.solve_rates
    masses = bootstrap(cells, fitted)
    binned = _binned(fitted.points, fitted.mass[None])[0]
    low, high = np.percentile(_binned(fitted.points, masses), [2.5, 97.5], axis=0)
    middle = masses[:, (fitted.points > 0.02) & (fitted.points < 0.98)].sum(axis=1)
    value = float(fitted.mass[(fitted.points > 0.02) & (fitted.points < 0.98)].sum())
    rates = tables.counts.get_column("k").to_numpy() / tables.counts.get_column("n").to_numpy()
    raw_bin = _bin_of(rates)
    raw = np.bincount(raw_bin, minlength=len(LABELS)) / len(rates)
    ids = tables.counts.get_column("prompt_id").to_numpy()
    members = tuple(tuple(map(str, ids[raw_bin == i][:SHOWN])) for i in range(len(LABELS)))
    tries = float(np.median(cells.n[number]))
    return Measurement(
        value=value,
        interval=(float(np.percentile(middle, 2.5)), float(np.percentile(middle, 97.5))),
        headline=f"About {percent(value)} of {len(rates):,} prompts have a solve rate between 2 % and 98 %; "
        f"the mean is {percent(fitted.mean)} ({tries:g} tries per prompt).",
        advice="Read the filled bars, not the outlined ones. Near 0 and 1 a few tries cannot tell 'rarely' from "
        "'never': more tries on a sample of those prompts would.",
        method="NPMLE by EM on a grid with 0 and 1 as points; interval by bootstrap over prompts",
        importance=0.42,
        plots=(
            Plot(
                "bars",
                "Solve rates: deconvolved, and the raw histogram of k/n",
                "solve rate p, per cent",
                "share of prompts",
                LABELS,
                (
                    Series("deconvolved", _floats(binned), "plain", _floats(low), _floats(high)),
                    Series("raw k/n", _floats(raw), "ghost"),
                ),
                members=members,
                note="a click lists prompts by their raw k/n",
            ),
        ),
    )


@measures(EXPECTED_SILENCE)
def expected_silence(tables: LogTables) -> Measurement | str:
    """Silent share that independent rollouts at the fitted solve rates would give, against the observed one."""
    if reason := _no_rates(tables):
        return reason
    cells, fitted = tables.cells[0], tables.solve_rates
    masses = bootstrap(cells, fitted)
    most = int(cells.n.max())
    sizes = np.array(sorted({*SIZES, tables.group_size, *_common_sizes(tables)}))
    expected = _expected(fitted.points, fitted.mass[None], sizes)[0]
    low, high = np.percentile(_expected(fitted.points, masses, sizes), [2.5, 97.5], axis=0)
    direct = expected_silent_shares(tables)  # from the tries themselves, as far as they go
    for i, size in enumerate(sizes):
        found = direct.get(int(size))
        if found is not None and found.interval is not None:
            expected[i], (low[i], high[i]) = found.share, found.interval
    naive = dispersion.silent_probability(fitted.mean, sizes)
    own = _own_sizes(tables)
    value, interval = _at_sizes(fitted, masses, own)
    if tables.log.kind == "rates":
        at_size = int(np.flatnonzero(sizes == tables.group_size)[0])
        value, interval = float(expected[at_size]), (float(low[at_size]), float(high[at_size]))
    observed = _observed(tables)
    at = "at the log's group sizes" if not tables.shared.is_empty() else f"at G = {tables.group_size}"
    seen = "" if observed is None else f"; {percent(observed)} were observed"
    mean_only = float(sum(w * dispersion.silent_probability(fitted.mean, n) for n, w in own.items()))
    columns = ("G", "expected", "low", "high", "at the mean rate", "known from the log")
    rows = tuple(
        (int(g), float(e), float(a), float(b), float(m), "yes" if g <= most else "extrapolated")
        for g, e, a, b, m in zip(sizes, expected, low, high, naive, strict=True)
    )
    return Measurement(
        value=value,
        interval=interval,
        headline=f"{percent(value)} silent groups expected {at}{seen}; the mean solve rate alone would suggest "
        f"{percent(mean_only)}.",
        advice=_gap_advice(observed, interval),
        method="NPMLE of solve rates; interval by bootstrap over prompts",
        importance=0.38,
        plots=(
            Plot(
                "line",
                "Silent share by group size",
                "group size G",
                "share of groups that are silent",
                tuple(float(g) for g in sizes),
                (
                    Series("expected", _floats(expected), "wrong", _floats(low), _floats(high)),
                    Series("at the mean solve rate", _floats(naive), "ghost"),
                    *_observed_series(tables, sizes),
                ),
                log_x=True,
                note=f"beyond G = {most} (the most tries of a prompt) the curve is an extrapolation"
                if most < sizes[-1]
                else "",
            ),
        ),
        tables=(Table("By group size", columns, rows, ("", *["share"] * 4, "")),),
    )


def silent_row(rates: Array, sizes: tuple[int, ...] = (4, 8, 16, 32, 64)) -> dict[int, float]:
    """Mean of p̂^G + (1 − p̂)^G over a table of solve rates, as published for Big-Math (arXiv:2607.00152).

    With `llama8b_solve_rate` of `open-r1/Big-Math-RL-Verified-Processed` (215,608 prompts) it should print 59, 44, 32,
    23 and 17 per cent. It plugs in rates of few tries, so it overstates silence where the rates are noisy.
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
        return "the log does not tell which rollouts belong to one prompt"
    if np.median(tables.counts.get_column("n").to_numpy()) < 2:
        return "most prompts have a single try: their difficulty cannot be told from luck"
    return ""


def _binned(points: Array, masses: Array) -> Array:
    """Masses (R, J) summed into the bins of `EDGES`, (R, bins)."""
    number = _bin_of(points)
    return np.stack([masses[:, number == i].sum(axis=1) for i in range(len(LABELS))], axis=1)


def _bin_of(p: Array) -> NDArray[np.int64]:
    """Bin of each rate: ≤ .02, then half-open to the right up to .98, ≥ .98."""
    inner = np.searchsorted(np.array(EDGES[1:-1]), p, side="right")
    return np.asarray(np.where(p <= EDGES[1], 0, inner), dtype=np.int64)


def _expected(points: Array, masses: Array, sizes: NDArray[np.int64]) -> Array:
    """Expected silent shares (R, S)."""
    return np.asarray(masses @ dispersion.silent_probability(points[:, None], sizes[None, :]))


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


def _at_sizes(fitted: Mixing, masses: Array, own: dict[int, float]) -> tuple[float, tuple[float, float]]:
    sizes, weights = np.array(list(own)), np.array(list(own.values()))
    value = float(_expected(fitted.points, fitted.mass[None], sizes)[0] @ weights)
    low, high = np.percentile(_expected(fitted.points, masses, sizes) @ weights, [2.5, 97.5])
    return value, (float(low), float(high))


def _observed(tables: LogTables) -> float | None:
    if tables.shared.is_empty():
        return None
    return int((tables.shared.get_column("kind") != "mixed").sum()) / len(tables.shared)


def _observed_series(tables: LogTables, sizes: NDArray[np.int64]) -> tuple[Series, ...]:
    if tables.shared.is_empty():
        return ()
    table = tables.shared.group_by("n").agg((pl.col("kind") != "mixed").mean().alias("silent"))
    seen = dict(table.iter_rows())
    return (Series("observed", tuple(seen.get(int(g)) for g in sizes), "mixed"),)


def _gap_advice(observed: float | None, interval: tuple[float, float]) -> str:
    base = "Read the group size at which the share is bearable; then let `onedial plan` choose it under your budget."
    if observed is None or interval[0] <= observed <= interval[1]:
        return base
    if observed > interval[1]:
        return "More silent than independent tries at these rates: prompts changed in difficulty over the log. " + base
    return "Less silent than expected: look for filtering before the log was written, or repeated prompts. " + base


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _mean_of(values: Array) -> float:
    return float(values.mean()) if len(values) else 0.0
