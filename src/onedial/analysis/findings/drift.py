"""How the log changes from iteration to iteration."""

from __future__ import annotations

import numpy as np
import polars as pl

from onedial.analysis.findings.evidence import SHARED_KINDS, Evidence
from onedial.analysis.findings.finding import Finding, Plot, Series, percent, withheld
from onedial.analysis.findings.intervals import bootstrap
from onedial.analysis.findings.silence import NAMES, ROLES, blind

MOST_POINTS = 120  # iterations are pooled into at most this many points

DEFINITION = (
    "Share of groups that are all right, in the last third of the iterations minus the first third. The plots show "
    "every iteration (neighbours are pooled in long logs)."
)
WHY = (
    "As the policy learns, prompts run out: the all-right share climbs and takes the gradient with it. Falling entropy "
    "and growing wrong answers are the usual next troubles."
)


def drift(evidence: Evidence) -> Finding:
    """All-right share over iterations, with lengths, entropy, rewards and truncation beside it."""
    name, title = "drift", "Change over the run"
    reason = blind(evidence)
    groups = evidence.groups
    if not reason:
        groups = evidence.shared.filter(pl.col("iteration").is_not_null())
        reason = "the log has fewer than three iterations" if groups.get_column("iteration").n_unique() < 3 else ""
    if reason:
        return withheld(name, title, "share", reason, definition=DEFINITION, why=WHY)
    table = by_iteration(groups)
    value, interval = _change(groups)
    first, last = (_share(groups, third) for third in (0, 2))
    return Finding(
        name=name,
        title=title,
        value=value,
        unit="difference of shares",
        interval=interval,
        headline=f"All-right groups went from {percent(first)} in the first third to {percent(last)} in the last.",
        definition=DEFINITION,
        why=WHY,
        what_to_do="Bring harder prompts or rest solved ones (`onedial plan` on the latest iterations)."
        if value > 0.1
        else "Nothing urgent.",
        method="bootstrap over prompts",
        importance=0.25 + min(0.24, abs(value)),
        plots=_plots(evidence, table),
    )


def by_iteration(groups: pl.DataFrame) -> pl.DataFrame:
    """Per iteration (or run of neighbouring iterations): shares of kinds, lengths, entropy, rewards, truncation."""
    steps = groups.get_column("iteration").unique().sort()
    pooled = -(-len(steps) // MOST_POINTS)
    order = pl.DataFrame({"iteration": steps, "point": np.arange(len(steps)) // pooled})
    return (
        groups.join(order, on="iteration")
        .group_by("point")
        .agg(
            pl.col("iteration").min(),
            pl.len().alias("groups"),
            *((pl.col("kind") == kind).mean().alias(kind) for kind in SHARED_KINDS),
            (pl.col("total").sum() / pl.col("n").sum()).alias("reward"),
            (pl.col("length_right").sum() / pl.col("c").sum()).alias("length_right"),
            (pl.col("length_wrong").sum() / (pl.col("n") - pl.col("c")).sum()).alias("length_wrong"),
            (pl.col("cut").sum() / pl.col("n").sum()).alias("cut"),
            pl.col("entropy").mean(),
        )
        .sort("iteration")
    )


def _third(groups: pl.DataFrame) -> pl.Series:
    """0, 1, 2: the third of the iterations a group belongs to."""
    steps = groups.get_column("iteration").unique().sort()
    order = pl.DataFrame({"iteration": steps, "third": np.arange(len(steps)) * 3 // len(steps)})
    return groups.select("iteration").join(order, on="iteration", how="left", maintain_order="left").get_column("third")


def _share(groups: pl.DataFrame, third: int) -> float:
    part = groups.filter(_third(groups) == third)
    return int((part.get_column("kind") == "right").sum()) / max(1, len(part))


def _change(groups: pl.DataFrame) -> tuple[float, tuple[float, float] | None]:
    third = _third(groups)
    columns = [
        expr
        for number in (0, 2)
        for expr in (
            ((pl.col("third") == number) & (pl.col("kind") == "right")).sum().alias(f"right{number}"),
            (pl.col("third") == number).sum().alias(f"all{number}"),
        )
    ]
    per = groups.with_columns(third.alias("third")).group_by("prompt_id").agg(*columns).drop("prompt_id")
    sums = per.to_numpy().astype(np.float64)

    def difference(total: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(total[:, 2] / total[:, 3] - total[:, 0] / total[:, 1])

    low, high = bootstrap(sums, difference)
    value = float(difference(sums.sum(axis=0, keepdims=True))[0])
    return value, None if np.isnan(low).any() else (float(low[()]), float(high[()]))


def _plots(evidence: Evidence, table: pl.DataFrame) -> tuple[Plot, ...]:
    x = tuple(float(i) for i in table.get_column("iteration"))
    kinds = [kind for kind in SHARED_KINDS if table.get_column(kind).sum()]
    plots = [
        _lines("Kinds of groups", "share of groups", x, table, {k: (NAMES[k], ROLES[k]) for k in kinds}),
        _lines("Mean outcome reward", "reward", x, table, {"reward": ("mean reward", "plain")}, unit="number"),
        _lines(
            "Length of right and wrong answers",
            f"mean length, {evidence.length_unit}",
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
) -> Plot | None:
    """A line plot of some columns; None when they hold nothing (or, for shares, only zeros)."""
    series = []
    for column, (name, role) in columns.items():
        values = tuple(v if v is not None and np.isfinite(v) else None for v in table.get_column(column).to_list())
        if any(values):
            series.append(Series(name, values, role))
    return Plot("line", title, "iteration", y_label, x, tuple(series), unit=unit) if series else None
