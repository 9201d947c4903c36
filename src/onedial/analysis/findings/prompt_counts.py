"""Right answers and tries per prompt for the planner, from any log or rate table."""

from __future__ import annotations

import numpy as np
import polars as pl

from onedial.analysis.findings.log_tables import LogTables, collect
from onedial.analysis.logs.schema import Log
from onedial.analysis.planning.counts import PromptCounts
from onedial.core.errors import DataError


def collect_prompt_counts(log: Log | LogTables, *, survivors_only: bool | None = None) -> PromptCounts:
    """Right answers and tries of every judged prompt.

    `survivors_only` overrides what the log says about itself. Raises DataError, with the reason, if it is unknown which
    answers are right or how many tries there were.
    """
    tables = log if isinstance(log, LogTables) else collect(log)
    if not tables.judged or tables.counts.is_empty():
        raise DataError(_why(tables))
    dropped = bool(tables.log.coverage.survivors_only) if survivors_only is None else survivors_only
    table = tables.counts
    if dropped and tables.log.kind == "rates":
        raise DataError(
            "--survivors-only: a table of solve rates holds every prompt's rate and no groups that could have been "
            "dropped; leave it out"
        )
    if dropped:
        table = table.filter((pl.col("k") > 0) & (pl.col("k") < pl.col("n")) & (pl.col("mixed") > 0))
        if table.is_empty():
            raise DataError("the log is said to hold survivors only, but no group in it is mixed: nothing to plan from")
    tokens = table.get_column("tokens")
    known = tables.length_unit == "tokens" and tokens.null_count() < len(tokens)
    mean_tokens = (tokens / table.get_column("n")).cast(pl.Float64).to_numpy() if known else None
    return PromptCounts(
        ids=tuple(table.get_column("prompt_id")),
        k=table.get_column("k").cast(pl.Float64).to_numpy(),
        n=table.get_column("n").cast(pl.Float64).to_numpy(),
        groups=table.get_column("groups").cast(pl.Float64).to_numpy(),
        tokens=mean_tokens,
        survivors_only=dropped,
        history=None if dropped else _history(tables, table),
        notes=_notes(tables, dropped),
    )


def read_prompt_rows(log: Log, ids: tuple[str, ...]) -> pl.DataFrame:
    """prompt_id (as text), prompt, answer and source of some prompts, one row each; nulls where the log has none."""
    key = pl.col("prompt_id" if log.has("prompt_id") else "group_id").cast(pl.String).alias("prompt_id")
    rows = log.frame.select(key, "prompt", "answer", "source").join(pl.LazyFrame({"prompt_id": ids}), on="prompt_id")
    return rows.group_by("prompt_id").agg(pl.col("prompt", "answer", "source").first()).collect(engine="streaming")


def _why(tables: LogTables) -> str:
    if tables.log.kind == "rates":
        return (
            "the table gives solve rates without the number of tries behind them: 0.5 of 2 and 0.5 of 128 call for "
            "different plans. Give it with --tries N, or a column with the count"
        )
    return (
        f"the log does not show which rollouts are right ({tables.marks.rule}): the planner needs right answers out "
        "of tries per prompt"
    )


def _history(tables: LogTables, table: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Visits of prompts: (prompt number, iteration, k, n); None where iterations are unknown or there is only one."""
    order = table.select("prompt_id").with_row_index("prompt")
    source = tables.visits
    visits = source.drop_nulls().filter(pl.col("n") > 0)
    if visits.get_column("iteration").n_unique() < 2:
        return None
    visits = visits.group_by("prompt_id", "iteration").agg(pl.col("k", "n").sum()).join(order, on="prompt_id")
    visits = visits.sort("prompt", "iteration")
    return (
        visits.get_column("prompt").cast(pl.Int64).to_numpy(),
        visits.get_column("iteration").cast(pl.Int64).to_numpy(),
        visits.get_column("k").cast(pl.Float64).to_numpy(),
        visits.get_column("n").cast(pl.Float64).to_numpy(),
    )


def _notes(tables: LogTables, dropped: bool) -> tuple[str, ...]:
    notes = []
    coverage = tables.log.coverage
    lost = len(tables.prompts) - len(tables.counts)
    if lost:
        notes.append(f"{lost:,} prompts without a usable verdict are left out.")
    if coverage.survivors_only is None and not dropped:
        notes.append("The format may drop silent groups before logging; if it did, pass --survivors-only.")
    if coverage.evaluation_mixed_in:
        notes.append("Evaluation rows may stand among the training rows of this log.")
    if coverage.last_batch_only:
        notes.append("The log holds only the last batch of each logging interval.")
    return tuple(notes)
