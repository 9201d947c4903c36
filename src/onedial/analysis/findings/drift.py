"""How the log changes from iteration to iteration."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from onedial.analysis.findings.expected import no_visits
from onedial.analysis.findings.finding import Measurement, Plot, Series, Spec, measures, percent
from onedial.analysis.findings.intervals import difference_interval
from onedial.analysis.findings.log_tables import LogTables
from onedial.analysis.findings.rate_series import plot_series, rate_series
from onedial.analysis.findings.silence import why_no_group_shares
from onedial.analysis.logs.grouping import SHARED_KINDS
from onedial.core.maths import dispersion
from onedial.core.palette import GROUP_KINDS

MOST_POINTS = 120  # iterations are pooled into at most this many points

DRIFT = Spec(
    name="drift",
    title="Change over the run",
    unit="difference of shares",
    definition=(
        "Share of groups that are all correct, in the last third of the iterations minus the first third; for a table "
        "of solve rates by iteration, the share expected at the training group size. The plots show every iteration "
        "(neighbors are pooled in long logs)."
    ),
    why=(
        "As the policy learns, prompts run out: the share of all-correct groups grows, and with it the part of the "
        "batch without a gradient. Lower entropy and longer wrong answers are the usual next problems."
    ),
)


@measures(DRIFT)
def drift(tables: LogTables) -> Measurement | str:
    """Share of all-correct groups over iterations, with lengths, entropy, rewards and truncation beside it."""
    if reason := no_visits(tables) if tables.log.kind == "rates" else why_no_group_shares(tables):
        return reason
    groups = _with_kinds(tables).filter(pl.col("iteration").is_not_null())
    if groups.get_column("iteration").n_unique() < 3:
        return "the log has fewer than three iterations"
    value, interval = _change(groups)
    first, last = (_share(groups, third) for third in (0, 2))
    word = "Expected all-correct groups" if tables.log.kind == "rates" else "All-correct groups"
    return Measurement(
        value=value,
        interval=interval,
        headline=f"{word} went from {percent(first)} in the first third to {percent(last)} in the last.",
        advice="Bring harder prompts or rest solved ones (`onedial plan` on the latest iterations)."
        if value > 0.1 and interval is not None and interval[0] > 0
        else "",
        method="intervals of both shares over prompts, combined by Newcombe's method for paired shares",
        importance=0.25 + min(0.24, abs(value)),
        plots=plot_series(rate_series(tables), tables.group_size)
        if tables.log.kind == "rates"
        else _plots(tables, by_iteration(groups)),
    )


def _with_kinds(tables: LogTables) -> pl.DataFrame:
    """Groups with one column per kind: 1 and 0 for a log's own groups, the chance of the kind for groups drawn from a
    visit of a rate table."""
    if tables.log.kind != "rates":
        return tables.shared.with_columns(
            *((pl.col("kind") == kind).cast(pl.Float64).alias(kind) for kind in SHARED_KINDS)
        )
    visits = tables.visits.filter(pl.col("n") >= tables.group_size)
    right, wrong = dispersion.unbiased_powers(visits.get_column("k"), visits.get_column("n"), tables.group_size)
    empty = [pl.lit(None, dtype=pl.Float64).alias(name) for name in ("length_right", "length_wrong", "cut", "entropy")]
    return visits.with_columns(
        *empty,
        c=pl.col("k"),
        total=pl.col("k").cast(pl.Float64),
        mixed=pl.Series(1 - right - wrong),
        right=pl.Series(right),
        wrong=pl.Series(wrong),
        other=pl.lit(0.0),
    )


def by_iteration(groups: pl.DataFrame) -> pl.DataFrame:
    """Per iteration (or run of neighboring iterations): shares of kinds, lengths, entropy, rewards, truncation."""
    steps = groups.get_column("iteration").unique().sort()
    pooled = -(-len(steps) // MOST_POINTS)
    order = pl.DataFrame({"iteration": steps, "point": np.arange(len(steps)) // pooled})
    return (
        groups.join(order, on="iteration")
        .group_by("point")
        .agg(
            pl.col("iteration").min(),
            pl.len().alias("groups"),
            pl.col(*SHARED_KINDS).mean(),
            (pl.col("total").sum() / pl.col("n").sum()).alias("reward"),
            (pl.col("length_right").sum() / pl.col("c").sum()).alias("length_right"),
            (pl.col("length_wrong").sum() / (pl.col("n") - pl.col("c")).sum()).alias("length_wrong"),
            (pl.col("cut").sum() / pl.col("n").sum()).alias("cut"),
            pl.col("entropy").mean(),
        )
        .sort("iteration")
    )


def _third(groups: pl.DataFrame) -> pl.Series:
    """0, 1 or 2: the third of the iterations that a group belongs to."""
    steps = groups.get_column("iteration").unique().sort()
    order = pl.DataFrame({"iteration": steps, "third": np.arange(len(steps)) * 3 // len(steps)})
    return groups.select("iteration").join(order, on="iteration", how="left", maintain_order="left").get_column("third")


def _share(groups: pl.DataFrame, third: int) -> float:
    part = groups.filter(_third(groups) == third)
    return float(part.get_column("right").sum()) / max(1, len(part))


def _change(groups: pl.DataFrame) -> tuple[float, tuple[float, float] | None]:
    third = _third(groups)
    columns = [
        expr
        for number in (0, 2)
        for expr in (
            pl.col("right").filter(pl.col("third") == number).sum().alias(f"right{number}"),
            (pl.col("third") == number).sum().alias(f"all{number}"),
        )
    ]
    per = groups.with_columns(third.alias("third")).group_by("prompt_id").agg(*columns).drop("prompt_id")
    sums = per.to_numpy().astype(np.float64)

    early, late = (sums[:, 0], sums[:, 1]), (sums[:, 2], sums[:, 3])
    shares = [float(top.sum() / bottom.sum()) for top, bottom in (early, late)]
    return shares[1] - shares[0], difference_interval(early, late)


def _plots(tables: LogTables, table: pl.DataFrame) -> tuple[Plot, ...]:
    x = tuple(float(i) for i in table.get_column("iteration"))
    kinds = [kind for kind in SHARED_KINDS if table.get_column(kind).sum()]
    plots = [
        _lines(
            "Kinds of groups",
            "share of groups",
            x,
            table,
            {kind: (GROUP_KINDS[kind].label, kind) for kind in kinds},
            trials=True,
        ),
        _lines("Mean outcome reward", "reward", x, table, {"reward": ("mean reward", "plain")}, unit="number"),
        _lines(
            "Length of right and wrong answers",
            f"mean length, {tables.length_unit}",
            x,
            table,
            {"length_right": ("right", "right"), "length_wrong": ("wrong", "wrong")},
            unit="number",
        ),
        _lines("Entropy", "nats per token", x, table, {"entropy": ("entropy", "plain")}, unit="number"),
        _lines("Truncated completions", "share of rollouts", x, table, {"cut": ("truncated", "alt")}),
    ]
    return tuple(plot for plot in plots if plot is not None)


def _lines(
    title: str,
    y_label: str,
    x: tuple[float, ...],
    table: pl.DataFrame,
    columns: dict[str, tuple[str, str]],
    *,
    unit: str = "share",
    trials: bool = False,
) -> Plot | None:
    """A line plot of some columns; None if they are empty (or, for shares, only zeros).

    `extra["counts"]` holds the number of groups behind each point; `trials` says that the shares are shares of these
    groups.
    """
    series = []
    for column, (name, role) in columns.items():
        values = tuple(v if v is not None and np.isfinite(v) else None for v in table.get_column(column).to_list())
        if any(values):
            series.append(Series(name, values, role))
    extra: dict[str, Any] = {"counts": table.get_column("groups").to_list()}
    if trials:
        extra["trials"] = True
    return Plot("line", title, "iteration", y_label, x, tuple(series), unit=unit, extra=extra) if series else None
