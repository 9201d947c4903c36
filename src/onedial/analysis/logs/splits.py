"""Training and evaluation rows of one log: how many there are, and a log of one kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import polars as pl

from onedial.analysis.logs.schema import Log
from onedial.core.errors import DataError

Split = Literal["train", "eval", "all"]


def count_splits(log: Log) -> dict[str, int]:
    """Rows marked train, eval, and unmarked (key "unmarked"); {} for a rate table or an empty log."""
    if log.kind == "rates":
        return {}
    if not log.has("split"):
        rows = int(log.frame.select(pl.len()).collect(engine="streaming").item())
        return {"unmarked": rows} if rows else {}
    found = log.frame.group_by("split").agg(pl.len()).collect(engine="streaming")
    return {name or "unmarked": number for name, number in sorted(found.iter_rows(), key=lambda row: str(row[0]))}


def select_split(log: Log, want: Split | None = None, *, counts: dict[str, int] | None = None) -> Log:
    """Only the rows of one split. None: training rows if there are any (unmarked rows count as such), else all rows.

    `counts` are the `count_splits` of the log, if the caller has them. The coverage notes say how many rows were set
    aside. Raises DataError if the split has no rows.
    """
    counts = count_splits(log) if counts is None else counts
    if log.kind == "rates" and want in ("train", "eval"):
        raise DataError(f"--split {want}: a table of solve rates has one row per prompt and no splits; leave it out")
    if log.kind == "rates" or want == "all" or not counts:
        return log
    evaluation = counts.get("eval", 0)
    training = sum(counts.values()) - evaluation
    want = want or ("train" if training else "eval")
    kept, aside = (training, evaluation) if want == "train" else (evaluation, training)
    if not kept:
        raise DataError(
            f"--split {want}: the log has no such rows; it has {training:,} train and {evaluation:,} eval rows"
        )
    if not aside:
        return replace(log, evaluation=want == "eval")
    is_eval = (pl.col("split") == "eval").fill_null(False)
    other = "evaluation" if want == "train" else "training"
    note = f"{aside:,} {other} rows are set aside; --split {'eval' if want == 'train' else 'train'} shows them."
    return replace(
        log,
        evaluation=want == "eval",
        frame=log.frame.filter(is_eval if want == "eval" else ~is_eval),
        coverage=replace(log.coverage, notes=(*log.coverage.notes, note)),
    )
