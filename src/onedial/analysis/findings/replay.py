"""How each algorithm weighs prompts by difficulty: the same groups under every row of the algorithm table.

Everything is a sum over (prompt, number right j, group size): the groups of a log count once each, those drawn from the
tries of a rate table count by their probability.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onedial.analysis.findings.difficulty import UNJUDGED
from onedial.analysis.findings.difficulty_bands import RateBands, rate_bands, why_no_coefficient
from onedial.analysis.findings.difficulty_groups import BINS, LABELS, Groups, draw_groups, take_own_groups
from onedial.analysis.findings.expected import no_visits
from onedial.analysis.findings.finding import Measurement, Plot, Series, Spec, Table, Value, measures, percent
from onedial.analysis.findings.intervals import bootstrap
from onedial.analysis.findings.log_tables import LogTables
from onedial.analysis.findings.silence import why_no_group_shares
from onedial.core.algorithm_table import ALGORITHMS
from onedial.core.maths import dispersion

Array = NDArray[np.float64]

WEIGHTS = Spec(
    name="algorithm_weights",
    title="Weight by difficulty under each algorithm",
    unit="share",
    definition=(
        "Counterfactual replay: each group's coefficient σ̂^(2−α) (times n/(n−1) with a leave-one-out baseline), "
        "summed by the prompt's estimated solve rate, as a share of the total. For a rate table, its expectation over "
        "groups of the training size drawn from the tries (of a row's own size where it has one). The figure is the "
        "share that α = 1 gives to prompts whose estimated solve rate is less than 20 %."
    ),
    why="The dial α, not only the data, decides which prompts drive the update.",
)


class CoefficientCells(NamedTuple):
    """The cells of an algorithm row that decide a group's coefficient."""

    dial: float
    leave_one_out: bool = False
    ddof: int = 0


def coefficient(k: Array, n: Array, row: CoefficientCells) -> Array:
    """The factor of (mean score of right − mean score of wrong) in a group's gradient: σ̂^(2−α), 0 if silent.

    `leave_one_out` multiplies by n/(n−1); `ddof` 1 divides by the sample σ̂ instead, a factor ((n−1)/n)^(α/2).
    """
    sigma = dispersion.group_sigma(k, n)
    value = np.where(sigma > 0, np.where(sigma > 0, sigma, 1.0) ** (2.0 - row.dial), 0.0)
    value = value * (n / (n - 1.0) if row.leave_one_out else 1.0)
    return np.asarray(value * ((n - 1.0) / n) ** (row.dial * row.ddof / 2))


@measures(WEIGHTS)
def algorithm_weights(tables: LogTables) -> Measurement | str:
    """Share of the total weight by difficulty under each algorithm row. The finding's value is the share of hard
    prompts under GRPO."""
    if reason := _why_not(tables):
        return reason
    rates = tables.log.kind == "rates"
    groups, members = draw_groups(tables, tables.group_size) if rates else take_own_groups(tables)
    each = coefficient(groups.k, groups.n, CoefficientCells(1.0))
    grpo, plain = groups.by_bin(each), groups.by_bin(coefficient(groups.k, groups.n, CoefficientCells(0.0)))
    if not grpo.any():  # rewards differ within groups, verdicts do not
        return "no group holds both right and wrong answers: its rewards differ in degree only"
    low, high, hard = _intervals(groups, each)
    value, flat = (float(weight[:2].sum() / weight.sum()) for weight in (grpo, plain))
    bands = rate_bands(tables) if rates else None
    rows = _drawn_rows(bands) if rates else _replayed_rows(groups)
    if low is not None and high is not None:
        rows += (("α = 1, low", *map(float, low)), ("α = 1, high", *map(float, high)))
    return Measurement(
        value=value,
        interval=hard if value else None,
        headline=f"Prompts with an estimated solve rate under 20 % get {percent(value)} of GRPO's weight (α = 1), "
        f"{percent(flat)} of Dr. GRPO's (α = 0).",
        advice="Choose α for the prompts you want to move: larger α gives hard and easy prompts more weight than those "
        "in the middle. Tune the learning rate again, since the total weight changes too."
        if not tables.log.is_evaluation
        else "",
        method="bootstrap over prompts, sorted as this log sorts them: by the posterior mean of their solve rates",
        importance=0.33,
        plots=(_dial_plot(groups, grpo / grpo.sum(), members),),
        tables=(
            Table("Share of weight by solve rate", ("row", *LABELS), rows, ("", *["share"] * BINS)),
            *([_band_table(bands, tables.group_size)] if rates else []),
        ),
    )


def _replayed_rows(groups: Groups) -> tuple[tuple[Value, ...], ...]:
    """The share of each bin in the weight of the log's groups, a line per coefficient."""
    weights = {label: groups.by_bin(coefficient(groups.k, groups.n, cells)) for label, cells in replay_rows().items()}
    return tuple((label, *map(float, weight / weight.sum())) for label, weight in weights.items())


def _drawn_rows(found: RateBands | None) -> tuple[tuple[Value, ...], ...]:
    """The same for groups of a rate table, each row of the algorithm table at its own group size where it has one."""
    return tuple((row.label, *row.shares) for row in found.weights) if found else ()


def _band_table(found: RateBands | None, size: int) -> Table:
    """The bands of a rate table: what groups of the training size show, and closed forms at the middle of each band."""
    columns = (
        "solve rate, %",
        "prompts",
        "silent",
        "mean σ̂",
        "E[σ̂]/√(pq) *",
        "W, α = 1 *",
        "W, endless *",
        "G for 95 % *",
    )
    rows = tuple(
        (label, b.prompts, b.silent, b.sigma, b.fidelity, b.amplification, b.amplification_limit, b.size_for_fidelity)
        for label, b in zip(LABELS, found.bands if found else (), strict=True)
    )
    title = f"Groups of {size} by solve rate; * at the middle of the band, W the factor of ∇p in the expected gradient"
    return Table(title, columns, rows, ("", "share", "share", "", "share", "", "", ""))


def _why_not(tables: LogTables) -> str:
    if tables.log.kind == "rates":
        return no_visits(tables)
    if reason := why_no_group_shares(tables) or ("" if tables.judged else UNJUDGED):
        return reason
    return "" if tables.kind_shares["mixed"].count else "no group is mixed: every algorithm weighs every group 0"


def _intervals(groups: Groups, weight: Array) -> tuple[Array | None, Array | None, tuple[float, float] | None]:
    """95 % intervals over prompts of the share of each bin (low, high), and of the two hardest bins together."""
    columns = [np.bincount(groups.prompt, weights=weight * groups.times * (groups.bin == i)) for i in range(BINS)]
    per_prompt = np.stack(columns, axis=1).astype(np.float64)
    low, high = bootstrap(per_prompt, lambda total: total / total.sum(axis=1, keepdims=True), replicates=400)
    hard = bootstrap(per_prompt, lambda total: np.asarray(total[:, :2].sum(axis=1) / total.sum(axis=1)), replicates=400)
    if np.isnan(low).any() or np.isnan(hard[0]).any():
        return None, None, None
    return low, high, (float(hard[0][()]), float(hard[1][()]))


def _dial_plot(groups: Groups, grpo: Array, members: tuple[tuple[str, ...], ...]) -> Plot:
    share = groups.by_bin(np.ones(len(groups.k))) / groups.times.sum()
    return Plot(
        "dial",
        "Weight by difficulty: turn the dial",
        "estimated solve rate of the prompt, per cent",
        "share of the total weight",
        LABELS,
        (
            Series("weight", tuple(map(float, grpo)), "plain"),
            Series("groups", tuple(map(float, share)), "ghost"),
        ),
        members=members,
        note="groups: share of all groups in the bin, silent ones included",
        extra={**_levels(groups), **_spread(groups), "size": _commonest_size(groups)},
    )


def replay_rows() -> dict[str, CoefficientCells]:
    """Distinct group coefficients in the algorithm table: label (names of the rows) → cells.

    Left out are rows without such a coefficient (their baseline is not the group's, or their loss is another one), and
    rows with a group size of their own, which would have produced other groups.
    """
    names: dict[CoefficientCells, list[str]] = {}
    for row in ALGORITHMS.values():
        own = row.baseline in ("group_mean", "leave_one_out") and row.scale_over == "group"
        if own and row.group_size is None and not why_no_coefficient(row):
            key = CoefficientCells(row.dial, row.baseline == "leave_one_out", row.ddof if row.dial else 0)
            names.setdefault(key, []).append(row.name)
    names.setdefault(CoefficientCells(2.0), []).append("α = 2 (classes weigh the same)")
    return {", ".join(labels): cells for cells, labels in sorted(names.items())}


def _commonest_size(groups: Groups) -> int:
    sizes, where = np.unique(groups.n, return_inverse=True)
    return int(sizes[np.bincount(where.reshape(-1), weights=groups.times).argmax()])


def _spread(groups: Groups) -> dict[str, list[object]]:
    """What the interval of each share needs at any α: per α of a grid, Σ over the prompts of a bin of their squared
    weights, where a prompt's weight is the sum over its groups."""
    alphas = [round(0.1 * i, 1) for i in range(21)]
    bin_of_prompt = np.zeros(int(groups.prompt.max()) + 1, dtype=np.int64)
    bin_of_prompt[groups.prompt] = groups.bin
    squares: list[object] = []
    for alpha in alphas:
        weight = coefficient(groups.k, groups.n, CoefficientCells(alpha)) * groups.times
        each = np.bincount(groups.prompt, weights=weight)
        squares.append([float(f"{s:.6g}") for s in np.bincount(bin_of_prompt, weights=each**2, minlength=BINS)])
    return {"alphas": [*alphas], "spread": squares}


def _levels(groups: Groups) -> dict[str, list[object]]:
    """σ̂ to three digits and the number of groups in each bin that have it: enough to compute the weights at any α."""
    sigma = np.round(dispersion.group_sigma(groups.k, groups.n), 3)
    mixed = sigma > 0
    values, where = np.unique(sigma[mixed], return_inverse=True)
    counts = np.zeros((BINS, len(values)))
    np.add.at(counts, (groups.bin[mixed], where.reshape(-1)), groups.times[mixed])
    return {"sigma": [float(v) for v in values], "counts": [[round(float(c), 3) for c in row] for row in counts]}
