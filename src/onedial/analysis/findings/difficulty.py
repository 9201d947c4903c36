"""How hard the prompts are: σ̂ of groups, the distribution of solve rates, and the silence it implies."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onedial.analysis.findings.evidence import Evidence
from onedial.analysis.findings.finding import Finding, Plot, Series, Table, percent, withheld
from onedial.analysis.findings.intervals import bootstrap_ratio
from onedial.analysis.findings.silence import SHOWN, blind
from onedial.core.maths import dispersion
from onedial.core.maths.mixing import Mixing, bootstrap, npmle

Array = NDArray[np.float64]

EDGES = (0.0, 0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98, 1.0)  # bins of the solve rate
LABELS = ("≤ 2 %", *(f"{100 * a:.0f}–{100 * b:.0f}" for a, b in zip(EDGES[1:-2], EDGES[2:-1], strict=True)), "≥ 98 %")
SIZES = (2, 4, 8, 16, 32, 64)

UNJUDGED = "the log does not tell which rollouts are right (graded rewards on an unknown scale, or no counts)"


def sigma(evidence: Evidence) -> Finding:
    """Mean σ̂ of the outcome rewards over groups, and its distribution."""
    name, title = "sigma", "Group standard deviation σ̂"
    definition = (
        "Population standard deviation of the outcome rewards of a group, divided by the range right − wrong so "
        "that it lies in [0, ½]; mean over groups of two or more judged rollouts."
    )
    why = "σ̂ is the size of the lesson: a group's gradient is σ̂^(2−α) times the difference of right and wrong scores."
    reason = blind(evidence) or ("" if evidence.judged else UNJUDGED)
    if reason:
        return withheld(name, title, "reward", reason, definition=definition, why=why)
    table = evidence.shared.select("prompt_id", "n", "c").with_columns(
        ((pl.col("c") * (pl.col("n") - pl.col("c"))).cast(pl.Float64).sqrt() / pl.col("n")).alias("sigma")
    )
    per = table.group_by("prompt_id").agg(pl.col("sigma").sum(), pl.len().alias("count"))
    values = table.get_column("sigma").to_numpy()
    edges = np.linspace(0.0, 0.5, 11)
    # a bin of its own for 0, then (0, .05], …, (.45, .5]
    number = np.ceil(np.round(values / 0.05, 9)).astype(int)
    counts = np.bincount(number, minlength=11)
    labels = ("0", *(f"{a:.2f}–{b:.2f}" for a, b in zip(edges[:-1], edges[1:], strict=True)))
    members = tuple(
        tuple(table.filter(pl.Series(number == i)).get_column("prompt_id").unique(maintain_order=True).head(SHOWN))
        for i in range(11)
    )
    shares = tuple(float(c) / len(values) for c in counts)
    mean = float(values.mean())
    return Finding(
        name=name,
        title=title,
        value=mean,
        unit="reward",
        interval=bootstrap_ratio(per.get_column("sigma"), per.get_column("count")),
        headline=f"Mean σ̂ is {mean:.3f} of at most 0.5; among mixed groups {_mean_of(values[values > 0]):.3f}.",
        definition=definition,
        why=why,
        what_to_do="Move tries to prompts whose groups split; σ̂ = ½ is an even split.",
        method="bootstrap over prompts",
        importance=0.4,
        plots=(
            Plot(
                "bars",
                "Distribution of σ̂ over groups",
                "σ̂ of the group (0 = silent)",
                "share of groups",
                labels,
                (Series("groups", shares, "plain"),),
                members=members,
            ),
        ),
    )


def solve_rates(evidence: Evidence, fitted: Mixing | None = None) -> Finding:
    """The distribution of solve rates over prompts, deconvolved; value: share of prompts with p in (.02, .98)."""
    name, title = "solve_rates", "Solve rates of the prompts"
    definition = (
        "Distribution of each prompt's probability p of being solved, by nonparametric maximum likelihood from k right "
        "of n. The figure is the share of prompts with p between 2 % and 98 %, those that can split."
    )
    why = (
        "The histogram of k/n mixes difficulty with luck: with few tries many teachable prompts show 0 or 1 by chance, "
        "and some hopeless ones look half-solved."
    )
    reason = _no_rates(evidence)
    if reason:
        return withheld(name, title, "share", reason, definition=definition, why=why)
    cells, number = evidence.cells()
    fitted = fitted or npmle(cells)
    masses = bootstrap(cells, fitted)
    binned = _binned(fitted.points, fitted.mass[None])[0]
    low, high = np.percentile(_binned(fitted.points, masses), [2.5, 97.5], axis=0)
    middle = masses[:, (fitted.points > 0.02) & (fitted.points < 0.98)].sum(axis=1)
    value = float(fitted.mass[(fitted.points > 0.02) & (fitted.points < 0.98)].sum())
    rates = evidence.counts.get_column("k").to_numpy() / evidence.counts.get_column("n").to_numpy()
    raw_bin = _bin_of(rates)
    raw = np.bincount(raw_bin, minlength=len(LABELS)) / len(rates)
    ids = evidence.counts.get_column("prompt_id").to_numpy()
    members = tuple(tuple(map(str, ids[raw_bin == i][:SHOWN])) for i in range(len(LABELS)))
    tries = float(np.median(cells.n[number]))
    return Finding(
        name=name,
        title=title,
        value=value,
        unit="share",
        interval=(float(np.percentile(middle, 2.5)), float(np.percentile(middle, 97.5))),
        headline=f"About {percent(value)} of {len(rates):,} prompts have a solve rate between 2 % and 98 %; "
        f"the mean is {percent(fitted.mean)} ({tries:g} tries per prompt).",
        definition=definition,
        why=why,
        what_to_do="Read the filled bars, not the outlined ones. Near 0 and 1 a few tries cannot tell 'rarely' from "
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


def expected_silence(evidence: Evidence, fitted: Mixing | None = None) -> Finding:
    """Silent share that independent rollouts at the fitted solve rates would give, against the observed one."""
    name, title = "expected_silence", "Expected silent share by group size"
    definition = (
        "E[p^G + (1 − p)^G] over the distribution of solve rates, at the log's own group sizes where it has groups, "
        "else at G = 8. 'At the mean rate' plugs the mean p into the formula, which under-predicts (Jensen)."
    )
    why = "It tells before a run what a group size will waste, and whether rollouts of one prompt are independent."
    reason = _no_rates(evidence)
    if reason:
        return withheld(name, title, "share", reason, definition=definition, why=why)
    cells, _ = evidence.cells()
    fitted = fitted or npmle(cells)
    masses = bootstrap(cells, fitted)
    most = int(cells.n.max())
    sizes = np.array(sorted({*SIZES, *_common_sizes(evidence)}))
    expected = _expected(fitted.points, fitted.mass[None], sizes)[0]
    low, high = np.percentile(_expected(fitted.points, masses, sizes), [2.5, 97.5], axis=0)
    naive = dispersion.silent_probability(fitted.mean, sizes)
    own = _own_sizes(evidence)
    value, interval = _at_sizes(fitted, masses, own)
    observed = _observed(evidence)
    at = "at the log's group sizes" if not evidence.shared.is_empty() else "at G = 8"
    seen = "" if observed is None else f"; {percent(observed)} were observed"
    mean_only = float(sum(w * dispersion.silent_probability(fitted.mean, n) for n, w in own.items()))
    columns = ("G", "expected", "low", "high", "at the mean rate", "known from the log")
    rows = tuple(
        (int(g), float(e), float(a), float(b), float(m), "yes" if g <= most else "extrapolated")
        for g, e, a, b, m in zip(sizes, expected, low, high, naive, strict=True)
    )
    return Finding(
        name=name,
        title=title,
        value=value,
        unit="share",
        interval=interval,
        headline=f"{percent(value)} silent groups expected {at}{seen}; the mean solve rate alone would suggest "
        f"{percent(mean_only)}.",
        definition=definition,
        why=why,
        what_to_do=_gap_advice(observed, interval),
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
                    *_observed_series(evidence, sizes),
                ),
                log_x=True,
                note=f"beyond G = {most} (the most tries of a prompt) the curve is an extrapolation",
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


def _no_rates(evidence: Evidence) -> str:
    if evidence.log.coverage.survivors_only:
        return (
            "the log holds only groups that survived filtering: its prompts are a selection by their own luck "
            "(`onedial plan` corrects for it)"
        )
    if not evidence.judged or evidence.counts.is_empty():
        return UNJUDGED
    if evidence.log.coverage.group_identity == "none":
        return "the log does not tell which rollouts belong to one prompt"
    if np.median(evidence.counts.get_column("n").to_numpy()) < 2:
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


def _common_sizes(evidence: Evidence) -> list[int]:
    if evidence.shared.is_empty():
        return []
    common = evidence.shared.group_by("n").len().sort("len", descending=True).head(6)
    return [int(n) for n in common.get_column("n")]


def _own_sizes(evidence: Evidence) -> dict[int, float]:
    """Group size → share of the groups; {8: 1} for a rate table."""
    if evidence.shared.is_empty():
        return {8: 1.0}
    table = evidence.shared.group_by("n").len()
    total = len(evidence.shared)
    return {int(n): count / total for n, count in table.iter_rows()}


def _at_sizes(fitted: Mixing, masses: Array, own: dict[int, float]) -> tuple[float, tuple[float, float]]:
    sizes, weights = np.array(list(own)), np.array(list(own.values()))
    value = float(_expected(fitted.points, fitted.mass[None], sizes)[0] @ weights)
    low, high = np.percentile(_expected(fitted.points, masses, sizes) @ weights, [2.5, 97.5])
    return value, (float(low), float(high))


def _observed(evidence: Evidence) -> float | None:
    if evidence.shared.is_empty():
        return None
    return int((evidence.shared.get_column("kind") != "mixed").sum()) / len(evidence.shared)


def _observed_series(evidence: Evidence, sizes: NDArray[np.int64]) -> tuple[Series, ...]:
    if evidence.shared.is_empty():
        return ()
    table = evidence.shared.group_by("n").agg((pl.col("kind") != "mixed").mean().alias("silent"))
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
