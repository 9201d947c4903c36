"""Groups of very long logs, in one streaming pass: first runs of neighbouring rows, then runs of one group together.

The rows of a group lie together in nearly every log. Rows with the same keys as the row above are summed without a
hash table. Sorting the runs' ids then tells which groups were torn into several runs; as a rule these are the few at
the borders of batches, and only they are grouped by hash. Whatever the order of the rows, the result is that of a plain
group-by: every torn group is put together again, and a batch in which neighbours differ is grouped by hash at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onedial.analysis.logs.grouping import (
    SAMPLE_ROWS,
    Reward,
    Scale,
    extremes,
    kind_of,
    observed,
    right_of,
    scale,
    scale_of,
    usable_reward,
)
from onedial.analysis.logs.log_files import side_by_side
from onedial.analysis.logs.schema import Log

BATCH_ROWS = 100_000
MERGE_ROWS = 2_000_000
SUMS = ("size", "n", "c", "total", "judged", "tokens", "blank", "shaped", "shaped_n", "odd")
EXTREMES: Mapping[str, Callable[[pl.Expr], pl.Expr]] = {"low": pl.Expr.min, "high": pl.Expr.max}


def scale_and_groups(log: Log) -> tuple[Scale, pl.DataFrame]:
    """The scale of the outcome rewards and the groups by it, as a rule in one pass.

    Two values in the first rows are taken for the scale, and every row is held against them on the way; where a third
    turns up, the scale is found first and the groups are made again.
    """
    first = [] if log.right is not None else observed(log.frame.head(SAMPLE_ROWS), "outcome_reward")
    guess = scale_of(first)
    if len(first) == 2 and guess.binary:
        groups = lean_groups(log, marks=guess, check=True)
        if not int(groups.get_column("odd").sum()):
            return guess, groups.drop("odd")
    marks = scale(log)
    return marks, lean_groups(log, marks=marks)


def lean_groups(
    log: Log, *, on: Reward = "outcome_reward", marks: Scale | None = None, check: bool = False
) -> pl.DataFrame:
    """One row per group, with what counts and shares need.

    Columns: group_id (integer, null for rows without a group), p (integer, the prompt; only when the log has prompt
    ids), size, n, c, low, high, total and tokens as in `group_frame`, kind as its number in KINDS, and where the log
    has lengths `blank` (rollouts without one), where it has shaped rewards `shaped` (their sum) and `shaped_n`; with
    `check` `odd`, the rewards that are neither right nor wrong by `marks`.
    """
    marks = marks or scale(log, on)
    binary = marks.binary and not log.has("correct")
    keys = list(log.group_parts or ("group_id",))
    names = list(dict.fromkeys([*keys, *(["prompt_id"] if log.has("prompt_id") else [])]))
    values = _values(log, marks, on, binary)
    if check:
        reward = usable_reward(log, on)
        values["odd"] = ((reward != marks.right) & (reward != marks.wrong)).fill_null(False)
    rows = log.frame.select(*names, **values)
    parts: list[pl.DataFrame] = []
    limit = MERGE_ROWS
    for part in side_by_side(lambda batch: _numbered(_runs(batch, keys), keys), _batches(rows)):
        parts.append(part)
        if sum(map(len, parts)) > limit:
            parts = [_whole(parts)]
            limit = max(MERGE_ROWS, 2 * len(parts[0]))
    if not parts:
        none = rows.head(0).collect().with_columns(size=pl.lit(0, dtype=pl.Int64))
        parts = [_together([_numbered(none, keys)], ["group_id"])]
    groups = _whole(parts)
    if binary:
        groups = groups.with_columns(extremes(marks))
    low, high = pl.col("low"), pl.col("high")
    groups = groups.with_columns(
        pl.when(pl.col("n") > 0).then(low).alias("low"),
        pl.when(pl.col("n") > 0).then(high).alias("high"),
        *([] if "tokens" in groups.columns else [pl.lit(None, dtype=pl.Int64).alias("tokens")]),
    )
    return groups.with_columns(kind_of(log, marks, codes=True).alias("kind")).drop("judged", strict=False)


def _batches(rows: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The rows as they come, small batches put together; polars' own `chunk_size` would copy the large ones."""
    waiting: list[pl.DataFrame] = []
    for batch in rows.collect_batches(maintain_order=True, engine="streaming"):
        waiting.append(batch)
        if sum(map(len, waiting)) >= BATCH_ROWS:
            yield pl.concat(waiting)
            waiting = []
    if any(map(len, waiting)):
        yield pl.concat(waiting)


def _values(log: Log, marks: Scale, on: Reward, binary: bool) -> dict[str, pl.Expr]:
    """What is summed, or whose extremes are kept, per row; nulls are replaced by what changes neither."""
    reward = usable_reward(log, on)
    values = {"n": reward.is_not_null(), "c": right_of(log, marks, on).fill_null(False)}
    if not binary:
        values |= {"low": reward.fill_null(float("inf")), "high": reward.fill_null(float("-inf"))}
        values["total"] = reward.fill_null(0.0)
    if log.has("correct"):
        values["judged"] = pl.col("correct").is_not_null()
    if log.has("completion_tokens"):
        values["tokens"] = pl.col("completion_tokens").fill_null(0)
        values["blank"] = pl.col("completion_tokens").is_null()
    if log.has("shaped_reward"):
        shaped = usable_reward(log, "shaped_reward")
        values |= {"shaped": shaped.fill_null(0.0), "shaped_n": shaped.is_not_null()}
    return values


def _runs(batch: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Neighbouring rows with equal keys as one row; rows with equal keys anywhere, where neighbours mostly differ."""
    change = pl.any_horizontal(pl.col(key).ne_missing(pl.col(key).shift()) for key in keys)
    starts = batch.select(change).to_series().arg_true().to_numpy()
    heads = starts if len(starts) and starts[0] == 0 else np.concatenate([[0], starts])  # a first row of nulls
    if 2 * len(heads) > len(batch):
        return _together([batch.with_columns(size=pl.lit(1, dtype=pl.Int64))], keys)
    sizes = np.diff(heads, append=len(batch)).astype(np.int64)
    columns: dict[str, pl.Series] = {"size": pl.Series(sizes)}
    for name in batch.columns:
        column = batch.get_column(name)
        if name in SUMS:
            columns[name] = pl.Series(_sum(column, heads, sizes))
        elif name in EXTREMES:
            least = np.minimum if name == "low" else np.maximum
            columns[name] = pl.Series(least.reduceat(column.to_numpy(), heads))
        else:
            columns[name] = column.gather(heads)
    return pl.DataFrame(columns)


def _sum(column: pl.Series, heads: NDArray[np.integer], sizes: NDArray[np.int64]) -> NDArray[Any]:
    """The sum of each run; marks that are the same in the whole batch, as most are, need no look at the rows."""
    if column.dtype == pl.Boolean:
        if column.all():
            return sizes
        if not column.any():
            return np.zeros_like(sizes)
    values = column.to_numpy()
    return np.add.reduceat(values, heads, dtype=np.float64 if values.dtype.kind == "f" else np.int64)


def _numbered(runs: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Keys and prompts as 64-bit numbers: group_id from the keys, p from prompt_id."""
    types = runs.schema
    if len(keys) > 1:
        group: pl.Expr = pl.when(pl.col(keys[0]).is_not_null()).then(pl.struct(keys).hash())
    else:
        group = _number(keys[0], types[keys[0]])
    extra = [_number("prompt_id", types["prompt_id"]).alias("p")] if "prompt_id" in types else []
    out = runs.with_columns(group.alias("group_id"), *extra)
    return out.drop([name for name in {*keys, "prompt_id"} if name != "group_id"], strict=False)


def _number(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    plain = dtype.is_integer() and dtype not in (pl.Int128, pl.UInt128)
    return column if plain else pl.when(column.is_not_null()).then(column.hash())


def _whole(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Groups from runs: only those torn into several runs, and rows without a group, pass a group-by."""
    frame = pl.concat([part.select(parts[0].columns) for part in parts])
    ids = frame.get_column("group_id")
    torn = repeated(ids)
    if 4 * len(torn) > len(frame):
        return _together([frame], ["group_id"])
    again = ids.is_in(pl.Series(torn, dtype=ids.dtype).implode()).fill_null(True)
    if not again.any():
        return frame
    return pl.concat([frame.filter(~again), _together([frame.filter(again)], ["group_id"]).select(frame.columns)])


def repeated(ids: pl.Series) -> NDArray[Any]:
    """Every further occurrence of an integer, nulls aside; by sorting, which is several times faster than hashing."""
    order = np.sort(ids.drop_nulls().to_numpy())
    further: NDArray[Any] = order[1:][order[1:] == order[:-1]]
    return further


def _together(parts: Sequence[pl.DataFrame], keys: Sequence[str]) -> pl.DataFrame:
    """Rows with equal keys as one: sums, extremes, and any value of what is the same in all of them."""
    frame = pl.concat([part.select(parts[0].columns) for part in parts])
    exprs = []
    for name, dtype in frame.schema.items():
        if name in SUMS:
            whole = dtype.is_integer() or dtype == pl.Boolean
            exprs.append((pl.col(name).cast(pl.Int64) if whole else pl.col(name)).sum())
        elif name in EXTREMES:
            exprs.append(EXTREMES[name](pl.col(name)))
        elif name not in keys:
            exprs.append(pl.col(name).first())
    return frame.group_by(keys).agg(exprs)
