"""Answers that repeat another answer of their group."""

from __future__ import annotations

import polars as pl

from onedial.analysis.findings.finding import Measurement, Spec, Table, measures, percent
from onedial.analysis.findings.intervals import ratio_interval
from onedial.analysis.findings.log_tables import LogTables
from onedial.analysis.logs.grouping import KINDS
from onedial.core.palette import GROUP_KINDS

SAMPLE_GROUPS = 20_000

DUPLICATES = Spec(
    name="duplicate_answers",
    title="Duplicate answers within a group",
    unit="share",
    definition="Share of rollouts whose text equals that of an earlier rollout of the same group.",
    why=(
        "A repeated answer adds nothing: the group is smaller than it looks. Where prompts are solved, repetition is "
        "expected; elsewhere it means low entropy."
    ),
)


@measures(DUPLICATES)
def duplicates(tables: LogTables) -> Measurement | str:
    """Share of rollouts whose text equals that of an earlier rollout of their group."""
    if tables.log.kind == "rates":
        return "a table of solve rates holds no answers"
    if reason := tables.log.why_missing("completion"):
        return reason
    table, step = _counts(tables)
    total, repeats = (int(table.get_column(name).sum()) for name in ("n", "repeats"))
    if total == 0:
        return "no completion text was logged"
    share, per = repeats / total, table.group_by("prompt_id").agg(pl.col("n", "repeats").sum())
    kinds = table.group_by("kind").agg(pl.len().alias("groups"), pl.col("n", "repeats").sum())
    rows = tuple(
        (GROUP_KINDS[kind].label if kind in GROUP_KINDS else "fewer than two judged", groups, repeats / n)
        for kind, groups, n, repeats in sorted(kinds.iter_rows(), key=lambda row: KINDS.index(row[0]))
    )
    unsolved = table.filter(pl.col("kind") != "right")
    much = int(unsolved.get_column("repeats").sum()) > 0.2 * max(1, int(unsolved.get_column("n").sum()))
    return Measurement(
        value=share,
        interval=ratio_interval(per.get_column("repeats"), per.get_column("n")),
        headline=f"{percent(share, 1)} of rollouts repeat another of their group word for word.",
        advice="Raise the temperature, or deduplicate before spending tries."
        if much and not tables.log.is_evaluation
        else "",
        method="jackknife over prompts" + (f"; one group in {step} was read" if step > 1 else ""),
        importance=0.05 + 0.5 * share,
        tables=(Table("Repeats by kind of group", ("groups", "number", "repeats"), rows, ("", "", "share")),),
    )


def _counts(tables: LogTables) -> tuple[pl.DataFrame, int]:
    """(prompt_id, kind, n texts, repeats per group; how many groups stand for one that was read)."""
    step = max(1, len(tables.groups) // SAMPLE_GROUPS)
    rows = tables.log.frame.filter(pl.col("completion").is_not_null() & pl.col("group_id").is_not_null())
    if step > 1:
        # whole groups are sampled, by hash, so that repeats are seen
        rows = rows.filter(pl.col("group_id").hash(7) % step == 0)
    counts = rows.group_by(pl.col("group_id").cast(pl.String)).agg(
        pl.len().cast(pl.Int64).alias("n"),
        (pl.len() - pl.col("completion").n_unique()).cast(pl.Int64).alias("repeats"),
    )
    groups = tables.groups.lazy().select("group_id", "prompt_id", "kind")
    return counts.join(groups, on="group_id").collect(engine="streaming"), step
