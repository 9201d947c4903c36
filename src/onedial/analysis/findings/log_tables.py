"""A log reduced to two tables, one row per group and one per prompt, and the statistics that several figures share.

One streaming pass over the log makes the groups; everything else follows from them. Ten million rollouts become a
million groups. The terminal, JSON, the page and the planner read these tables, so a quantity has the same value
everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import polars as pl
from numpy import int64
from numpy.typing import NDArray

from onedial.analysis.findings.intervals import Interval, clustered_wilson
from onedial.analysis.findings.visits import Visits, count_visits
from onedial.analysis.logs.grouping import (
    KINDS,
    SHARED_KINDS,
    SILENT_KINDS,
    Scale,
    group_with_scale,
    is_right,
    usable_reward,
)
from onedial.analysis.logs.schema import Log
from onedial.analysis.planning.counts import check_tries
from onedial.core.errors import DataError
from onedial.core.maths.likelihood_region import LikelihoodRegion, likelihood_region
from onedial.core.maths.mixing import Mixing, Tally, fit_prior, npmle, tally_counts

# What a group is described by beyond the columns of `group_rollouts`; null where the log does not say.
DETAILS: Mapping[str, pl.DataType] = {
    "iteration": pl.Int64(),
    "source": pl.String(),
    "level": pl.String(),
    "shaped_low": pl.Float64(),  # of the shaped rewards of usable rollouts; shaped_total is their sum
    "shaped_high": pl.Float64(),
    "shaped_total": pl.Float64(),
    "shaped_n": pl.Int64(),
    "length": pl.Int64(),  # sums of `length_unit` over judged rollouts
    "length_right": pl.Int64(),
    "length_wrong": pl.Int64(),
    "cut": pl.Int64(),  # judged rollouts that the length limit ended
    "cut_right": pl.Int64(),
    "entropy": pl.Float64(),
    "without_tokens": pl.Int64(),  # rollouts without a token count
}


@dataclass(frozen=True)
class Totals:
    """Counts and sums over all rollouts of a log, those without a group included; zeros for a rate table.

    reward, shaped  sums over the `judged` and the `shaped_n` rollouts
    """

    rollouts: int = 0
    judged: int = 0
    reward: float = 0.0
    shaped: float = 0.0
    shaped_n: int = 0
    tokens: int = 0
    without_tokens: int = 0
    ungrouped: int = 0


@dataclass(frozen=True)
class KindShare:
    """The number of groups of one kind among those that count in shares, their share, and its 95 % interval over
    prompts."""

    count: int
    share: float
    interval: Interval | None


@dataclass(frozen=True)
class LogTables:
    """The tables behind all figures and findings.

    marks    which reward is right
    groups   one row per group, of every kind: the columns of `group_rollouts` and `DETAILS`, unusable (rollouts); ids
             are text; empty for rate tables
    prompts  one row per prompt with a judged rollout: prompt_id, k, n (over all its groups; k null where rightness is
             unknown), groups, mixed, right, wrong, other, reward (sum over judged rollouts; not for rate tables),
             tokens, shared_tokens (of groups in shares), silent_tokens, source, level, last (iteration)
    visits   one row per prompt and time of sampling: prompt_id, iteration, k, n. A group with usable rollouts of known
             rightness, or a row of a rate table whose number of tries is known
    rates    the rows of a rate table: prompt_id, iteration, rate, k, n; empty for rollouts
    totals   counts over all rollouts
    length_unit  "tokens", "characters" or "" (no length logged)
    group_size   the training group size at which a rate table is read
    """

    log: Log
    marks: Scale
    groups: pl.DataFrame
    prompts: pl.DataFrame
    visits: pl.DataFrame
    rates: pl.DataFrame
    totals: Totals
    length_unit: str
    group_size: int = 8

    @cached_property
    def shared(self) -> pl.DataFrame:
        """The groups that count in shares: those with two or more usable rollouts."""
        return self.groups.filter(pl.col("kind").is_in(SHARED_KINDS))

    @property
    def judged(self) -> bool:
        """Whether the right answers and the tries are known, so that solve rates make sense."""
        counts = self.prompts.get_column("k")
        return len(counts) > 0 and counts.null_count() < len(counts) and self.marks.exact

    @cached_property
    def graded(self) -> bool:
        """Whether some group is mixed by its rewards and unanimous by its verdicts (partial credit)."""
        both = pl.col("c").is_between(1, pl.col("n") - 1)
        return bool(self.shared.select(((pl.col("kind") == "mixed") & ~both).any()).item())

    @cached_property
    def counts(self) -> pl.DataFrame:
        """Prompts with a known k and n ≥ 1."""
        return self.prompts.filter(pl.col("k").is_not_null() & (pl.col("n") > 0))

    @cached_property
    def shared_by_prompt(self) -> pl.DataFrame:
        """Per prompt, over its groups in shares: shared (their number), silent, one count per kind, tokens and
        silent_tokens."""
        names = [*SHARED_KINDS, "silent_tokens"]
        found = self.prompts.select(
            "prompt_id",
            *names,
            pl.sum_horizontal(SHARED_KINDS).alias("shared"),
            pl.sum_horizontal(SILENT_KINDS).alias("silent"),
            pl.col("shared_tokens").alias("tokens"),
        )
        return found.filter(pl.col("shared") > 0)

    @cached_property
    def kind_shares(self) -> dict[str, KindShare]:
        """Share of the groups by kind, and of all silent ones ("silent"); {} where no group enters shares."""
        per, total = self.shared_by_prompt, len(self.shared)
        if not total:
            return {}
        sums = {kind: int(per.get_column(kind).sum()) for kind in (*SHARED_KINDS, "silent")}
        return {
            kind: KindShare(number, number / total, clustered_wilson(per.get_column(kind), per.get_column("shared")))
            for kind, number in sums.items()
        }

    @cached_property
    def visit_counts(self) -> Visits:
        """The visits as distinct counts."""
        return count_visits(self.visits)

    @cached_property
    def tally(self) -> tuple[Tally, NDArray[int64]]:
        """The tally of (k, n, groups) over `counts`, and the number of each prompt's entry in it."""
        return tally_counts(*(self.counts.get_column(name).to_numpy() for name in ("k", "n", "groups")))

    @cached_property
    def solve_rates(self) -> Mixing:
        """The distribution of solve rates over prompts, by nonparametric maximum likelihood."""
        return npmle(self.tally[0])

    @cached_property
    def prior(self) -> Mixing:
        """The smooth distribution of solve rates that sorts prompts by difficulty (`mixing.fit_prior`)."""
        return fit_prior(self.tally[0])

    @cached_property
    def solve_rate_region(self) -> LikelihoodRegion:
        """The distributions of solve rates that the counts do not rule out."""
        return likelihood_region(self.tally[0])


def collect(log: Log, *, group_size: int = 8) -> LogTables:
    """The tables of all rows of a log (`logs.splits.select_split` chooses rows).

    Raises DataError when it holds no rollout or rate at all.
    """
    tables = _of_rates(log) if log.kind == "rates" else _of_rollouts(log)
    return replace(tables, group_size=group_size)


def _of_rollouts(log: Log) -> LogTables:
    unit = "tokens" if log.has("completion_tokens") else "characters" if log.has("completion_chars") else ""
    marks, groups = group_with_scale(log, lambda marks: _details(log, marks, unit))
    if unit:  # each judged rollout that is not right is wrong; another sum per group would cost a tenth of the pass
        groups = groups.with_columns(length_wrong=pl.col("length") - pl.col("length_right"))
    absent = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in DETAILS.items() if name not in groups.columns]
    groups = groups.with_columns(*absent, unusable=pl.col("size") - pl.col("n"))
    totals = _totals(groups)
    if not totals.rollouts:
        raise DataError("the log holds no rollout; check the path, or whether the run wrote any")
    if log.has("group_id"):  # rows that name no prompt belong to no group
        groups = groups.filter(pl.col("group_id").is_not_null())
    if "prompt_id" not in groups.columns:
        groups = groups.with_columns(pl.col("group_id").alias("prompt_id"))
    groups = groups.with_columns(pl.col("prompt_id").cast(pl.String), pl.col("group_id").cast(pl.String))
    if not marks.exact and not log.has("correct"):
        groups = groups.with_columns(pl.lit(None, dtype=pl.Int64).alias("c"))
    visits = groups.filter((pl.col("n") > 0) & pl.col("c").is_not_null())
    visits = visits.select("prompt_id", "iteration", pl.col("c").alias("k"), "n")
    return LogTables(log, marks, groups, _prompts(groups), visits, pl.DataFrame(), totals, unit)


def _details(log: Log, marks: Scale, unit: str) -> dict[str, pl.Expr]:
    """The aggregates of `DETAILS` that the log supplies, without `length_wrong`."""
    right, judged = is_right(log, marks).fill_null(False), usable_reward(log).is_not_null()
    found = {name: pl.col(name).first() for name in ("iteration", "source", "level") if log.has(name)}
    if log.has("shaped_reward"):
        shaped = usable_reward(log, "shaped_reward")
        found |= {"shaped_low": shaped.min(), "shaped_high": shaped.max(), "shaped_total": shaped.sum()}
        found["shaped_n"] = shaped.count().cast(pl.Int64)
    if unit:
        length = pl.col("completion_tokens" if unit == "tokens" else "completion_chars")
        parts = {"length": judged, "length_right": judged & right}
        # a sum over a filter would gather every group; a sum over nulls streams
        found |= {name: pl.when(part).then(length).sum() for name, part in parts.items()}
    if log.has("truncated"):
        cut = pl.col("truncated").fill_null(False)
        found |= {"cut": (cut & judged).sum().cast(pl.Int64), "cut_right": (cut & judged & right).sum().cast(pl.Int64)}
    if log.has("entropy"):
        found["entropy"] = pl.col("entropy").mean()
    if log.has("completion_tokens"):
        found["without_tokens"] = pl.col("completion_tokens").null_count().cast(pl.Int64)
    return found


def _totals(groups: pl.DataFrame) -> Totals:
    names = {"size": "rollouts", "n": "judged", "total": "reward", "shaped_total": "shaped", "shaped_n": "shaped_n"}
    names |= {"tokens": "tokens", "without_tokens": "without_tokens"}
    sums = groups.select(pl.col(theirs).sum().alias(ours) for theirs, ours in names.items()).row(0, named=True)
    alone = int(groups.filter(pl.col("group_id").is_null()).get_column("size").sum())
    return Totals(**{name: value or 0 for name, value in sums.items()}, ungrouped=alone)


def _prompts(groups: pl.DataFrame) -> pl.DataFrame:
    """Per prompt sums of the groups with at least one usable rollout."""
    kind, tokens = pl.col("kind"), pl.col("tokens")
    logged = {name for name in ("source", "level") if groups.get_column(name).null_count() < len(groups)}
    return (
        groups.lazy()
        .filter(pl.col("n") > 0)
        .group_by("prompt_id")
        .agg(
            pl.when(pl.col("c").null_count() == 0).then(pl.col("c").sum()).cast(pl.Int64).alias("k"),
            pl.col("n").sum(),
            pl.len().cast(pl.Int64).alias("groups"),
            *((kind == name).sum().cast(pl.Int64).alias(name) for name in SHARED_KINDS),
            pl.col("total").sum().alias("reward"),
            tokens.sum(),
            pl.when(kind.is_in(SHARED_KINDS)).then(tokens).sum().alias("shared_tokens"),
            pl.when(kind.is_in(SILENT_KINDS)).then(tokens).sum().alias("silent_tokens"),
            *(pl.col(name).first() for name in ("source", "level") if name in logged),
            pl.col("iteration").max().alias("last"),
        )
        .with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in ("source", "level") if name not in logged)
        .sort("prompt_id")
        .collect(engine="streaming")
    )


def _of_rates(log: Log) -> LogTables:
    """A rate table has prompts and visits and no groups; several rows of a prompt (iterations) are added up."""
    table = log.frame.collect(engine="streaming").with_columns(pl.col("prompt_id").cast(pl.String))
    if table.is_empty():
        raise DataError("the table holds no prompt; check the path")
    check_tries(table.get_column("prompt_id").to_list(), table.get_column("n").cast(pl.Float64).to_numpy())
    prompts = (
        table.group_by("prompt_id")
        .agg(
            pl.when(pl.col("k").null_count() == 0).then(pl.col("k").sum()).alias("k"),
            pl.when(pl.col("n").null_count() == 0).then(pl.col("n").sum()).alias("n"),
            pl.len().cast(pl.Int64).alias("groups"),
            *(pl.lit(0, dtype=pl.Int64).alias(kind) for kind in SHARED_KINDS),
            pl.lit(None, dtype=pl.Int64).alias("tokens"),
            pl.lit(None, dtype=pl.Int64).alias("shared_tokens"),
            pl.lit(None, dtype=pl.Int64).alias("silent_tokens"),
            pl.col("source").first(),
            pl.col("level").first(),
            pl.col("iteration").max().alias("last"),
        )
        .sort("prompt_id")
    )
    rates = table.select("prompt_id", "iteration", "rate", pl.col("k", "n").cast(pl.Int64))
    visits = rates.filter(pl.col("k").is_not_null() & (pl.col("n") > 0)).drop("rate")
    schema = {"group_id": pl.String(), "prompt_id": pl.String(), "kind": pl.Enum(KINDS), "size": pl.Int64()}
    counts = {name: pl.Int64() for name in ("n", "c", "tokens", "unusable")}
    sums = {name: pl.Float64() for name in ("low", "high", "total")}
    groups = pl.DataFrame(schema={**schema, **counts, **sums, **DETAILS})
    marks = Scale(1.0, 0.0, True, "the table gives solve rates")
    return LogTables(log, marks, groups, prompts, visits, rates, Totals(), "")


def read_prompt_texts(log: Log, prompt_ids: list[str], *, limit: int = 400) -> dict[str, str]:
    """The text of some prompts, cut to `limit` characters; ids without a text are left out."""
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
