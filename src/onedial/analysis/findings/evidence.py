"""A log reduced to what the findings need: one row per group and one per prompt. Statistics never see rollouts.

One streaming pass over the log makes `groups`; `prompts` comes from it. Ten million rollouts become a million rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from onedial.analysis.logs.grouping import Scale, group_frame, reward_of, right_of, scale
from onedial.analysis.logs.schema import Log
from onedial.core.errors import DataError
from onedial.core.maths.mixing import Cells, cells_of

SHARED_KINDS = ("mixed", "right", "wrong", "other")  # the kinds that stand in shares: groups of two or more


@dataclass(frozen=True)
class Evidence:
    """The tables behind all findings.

    log      the log with evaluation rows set aside (unless it holds nothing else)
    marks    which reward is right
    groups   one row per group, of every kind; empty for rate tables. Beside the columns of `group_frame`:
             iteration, source, level, shaped_low, shaped_high, shaped_n, length, length_right, length_wrong
             (sums of `length_unit`), cut, cut_right, prompt_tokens, entropy, unusable, prompt_id as text
    prompts  one row per prompt: prompt_id (text), k, n (over all its groups; k null where rightness is unknown),
             groups, mixed, right, wrong, other, tokens, silent_tokens, source, level, last (last iteration)
    length_unit  "tokens", "characters" or "" (no length logged)
    evaluation_rows  rows set aside because the log marks them as evaluation
    """

    log: Log
    marks: Scale
    groups: pl.DataFrame
    prompts: pl.DataFrame
    length_unit: str
    evaluation_rows: int = 0

    @property
    def shared(self) -> pl.DataFrame:
        """The groups that stand in shares: two or more usable rollouts."""
        return self.groups.filter(pl.col("kind").is_in(SHARED_KINDS))

    @property
    def judged(self) -> bool:
        """Whether k right of n is known, so that solve rates make sense."""
        counts = self.prompts.get_column("k")
        return len(counts) > 0 and counts.null_count() < len(counts) and self.marks.exact

    @property
    def counts(self) -> pl.DataFrame:
        """Prompts with a known k and n ≥ 1."""
        return self.prompts.filter(pl.col("k").is_not_null() & (pl.col("n") > 0))

    def cells(self) -> tuple[Cells, NDArray[np.int64]]:
        """Cells of (k, n, groups) over `counts`, and each prompt's cell."""
        table = self.counts
        return cells_of(*(table.get_column(name).to_numpy() for name in ("k", "n", "groups")))


def collect(log: Log) -> Evidence:
    """The evidence of a log. Raises DataError when it holds no rollout or rate at all."""
    return _from_rates(log) if log.kind == "rates" else _from_rollouts(log)


def _from_rollouts(log: Log) -> Evidence:
    evaluation = pl.col("split") == "eval"
    sizes = log.frame.select(evaluation.sum().alias("eval"), pl.len().alias("all")).collect(engine="streaming").row(0)
    if sizes[1] == 0:
        raise DataError("the log holds no rollout; check the path, or whether the run wrote any")
    mixed_in = 0 < sizes[0] < sizes[1]
    if mixed_in:
        log = replace(log, frame=log.frame.filter(~evaluation.fill_null(False)))
    marks = scale(log)
    unit = "tokens" if log.has("completion_tokens") else "characters" if log.has("completion_chars") else ""
    groups = group_frame(log, marks=marks, extra=_extra(log, marks, unit)).collect(engine="streaming")
    if log.has("group_id"):  # rows that name no prompt stand in no group
        groups = groups.filter(pl.col("group_id").is_not_null())
    if "prompt_id" not in groups.columns:
        groups = groups.with_columns(pl.col("group_id").alias("prompt_id"))
    groups = groups.with_columns(pl.col("prompt_id").cast(pl.String), pl.col("group_id").cast(pl.String))
    if not marks.exact and not log.has("correct"):
        groups = groups.with_columns(pl.lit(None, dtype=pl.Int64).alias("c"))
    return Evidence(log, marks, groups, _prompts(groups), unit, sizes[0] if mixed_in else 0)


def _extra(log: Log, marks: Scale, unit: str) -> list[pl.Expr]:
    """What `group_frame` aggregates beyond its own columns."""
    right = right_of(log, marks).fill_null(False)
    judged = reward_of().is_not_null()
    length = {"tokens": pl.col("completion_tokens"), "characters": pl.col("completion_chars")}.get(
        unit, pl.lit(None, dtype=pl.Int64)
    )
    shaped = reward_of("shaped_reward")
    cut = pl.col("truncated").fill_null(False)
    return [
        pl.col("iteration").first(),
        pl.col("source").first(),
        pl.col("level").first(),
        shaped.min().alias("shaped_low"),
        shaped.max().alias("shaped_high"),
        shaped.count().cast(pl.Int64).alias("shaped_n"),
        length.filter(judged).sum().alias("length"),
        length.filter(judged & right).sum().alias("length_right"),
        length.filter(judged & ~right).sum().alias("length_wrong"),
        (cut & judged).sum().cast(pl.Int64).alias("cut"),
        (cut & judged & right).sum().cast(pl.Int64).alias("cut_right"),
        pl.col("prompt_tokens").first(),
        pl.col("entropy").mean(),
        (~judged).sum().cast(pl.Int64).alias("unusable"),
    ]


def _prompts(groups: pl.DataFrame) -> pl.DataFrame:
    """Per prompt sums of the groups with at least one usable rollout."""
    silent = pl.col("kind").is_in(["right", "wrong", "other"])
    return (
        groups.filter(pl.col("n") > 0)
        .group_by("prompt_id")
        .agg(
            pl.when(pl.col("c").null_count() == 0).then(pl.col("c").sum()).cast(pl.Int64).alias("k"),
            pl.col("n").sum(),
            pl.len().cast(pl.Int64).alias("groups"),
            *((pl.col("kind") == kind).sum().cast(pl.Int64).alias(kind) for kind in SHARED_KINDS),
            pl.col("tokens").sum(),
            pl.col("tokens").filter(silent).sum().alias("silent_tokens"),
            pl.col("source").first(),
            pl.col("level").first(),
            pl.col("iteration").max().alias("last"),
        )
        .sort("prompt_id")
    )


def _from_rates(log: Log) -> Evidence:
    """A rate table has prompts and no groups; several rows of a prompt (iterations) add up."""
    table = log.frame.collect(engine="streaming").with_columns(pl.col("prompt_id").cast(pl.String))
    if table.is_empty():
        raise DataError("the table holds no prompt; check the path")
    prompts = (
        table.group_by("prompt_id")
        .agg(
            pl.when(pl.col("k").null_count() == 0).then(pl.col("k").sum()).alias("k"),
            pl.when(pl.col("n").null_count() == 0).then(pl.col("n").sum()).alias("n"),
            pl.len().cast(pl.Int64).alias("groups"),
            *(pl.lit(0, dtype=pl.Int64).alias(kind) for kind in SHARED_KINDS),
            pl.lit(None, dtype=pl.Int64).alias("tokens"),
            pl.lit(None, dtype=pl.Int64).alias("silent_tokens"),
            pl.col("source").first(),
            pl.col("level").first(),
            pl.col("iteration").max().alias("last"),
        )
        .sort("prompt_id")
    )
    groups = pl.DataFrame(schema={"group_id": pl.String, "prompt_id": pl.String, "kind": pl.String, "n": pl.Int64})
    return Evidence(log, Scale(1.0, 0.0, True, "the table gives solve rates"), groups, prompts, "")


def texts_of(log: Log, prompt_ids: list[str], *, limit: int = 400) -> dict[str, str]:
    """The prompt text of some prompts, cut to `limit` characters; ids without a text are left out."""
    if not prompt_ids or not log.has("prompt"):
        return {}
    key = pl.col("prompt_id" if log.has("prompt_id") else "group_id").cast(pl.String).alias("key")
    found = (
        log.frame.select(key, pl.col("prompt").str.slice(0, limit))
        .filter(pl.col("key").is_in(prompt_ids) & pl.col("prompt").is_not_null())
        .unique("key")
        .collect(engine="streaming")
    )
    return dict(found.iter_rows())
