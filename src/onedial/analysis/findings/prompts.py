"""Prompts that were never solved, and prompts that were always solved."""

from __future__ import annotations

import numpy as np
import polars as pl

from onedial.analysis.findings.difficulty import UNJUDGED
from onedial.analysis.findings.finding import Measurement, Spec, Table, measures, percent
from onedial.analysis.findings.log_tables import LogTables, read_prompt_texts
from onedial.core.maths.estimators import wilson_interval
from onedial.core.maths.mixing import posterior

LISTED = 60  # prompts in a table

EXTREME = "Share of prompts all of whose judged rollouts are {}, over all iterations."
NEVER = Spec(
    name="never_solved",
    title="Prompts never solved",
    unit="share",
    definition=EXTREME.format("wrong"),
    why="None of their groups was ever mixed: too hard, wrongly labeled, or too long for the length limit.",
)
ALWAYS = Spec(
    name="always_solved",
    title="Prompts always solved",
    unit="share",
    definition=EXTREME.format("right"),
    why="Their groups have no policy gradient; each try on them is wasted until the policy changes.",
)


@measures(NEVER)
def never_solved(tables: LogTables) -> Measurement | str:
    """Share of prompts with no right answer in all their tries."""
    advice = "Try a sample of them with many more tries; drop or relabel those that stay at 0."
    return why_no_counts(tables) or _extreme(tables, word="never", right=False, advice=advice)


@measures(ALWAYS)
def always_solved(tables: LogTables) -> Measurement | str:
    """Share of prompts with no wrong answer in all their tries."""
    advice = "" if tables.log.is_evaluation else "Rest them and look again after some iterations."
    return why_no_counts(tables) or _extreme(tables, word="always", right=True, advice=advice)


def _extreme(tables: LogTables, *, word: str, right: bool, advice: str) -> Measurement:
    table = tables.counts
    extreme = table.filter(pl.col("k") == (pl.col("n") if right else 0))
    extreme = extreme.sort(["n", "prompt_id"], descending=[True, False])
    share = len(extreme) / len(table)
    top = extreme.head(LISTED)
    ids = top.get_column("prompt_id").to_list()
    text, mixes = read_prompt_texts(tables.log, ids, limit=160), _mixed_chances(tables, ids)
    rows = tuple(
        (key, int(n), source or "", mixes[key], text.get(key, ""))
        for key, n, source in top.select("prompt_id", "n", "source").iter_rows()
    )
    tries = f" ({np.median(extreme.get_column('n').to_numpy()):g} tries at the median)" if len(extreme) else ""
    title = f"Prompts {word} solved, most tries first"
    columns = ("prompt", "tries", "source", f"P(mixed at G = {tables.group_size})", "text")
    return Measurement(
        value=share,
        interval=wilson_interval(len(extreme), len(table)),
        headline=f"{len(extreme):,} of {len(table):,} prompts ({percent(share)}) were {word} solved{tries}.",
        advice="" if extreme.is_empty() else advice,
        method="Wilson; prompts are the units",
        importance=0.12 + 0.35 * share,
        tables=(Table(title, columns, rows),) if rows else (),
    )


def _mixed_chances(tables: LogTables, ids: list[str]) -> dict[str, float]:
    """P(a group of the training size is mixed) of some prompts, by the posterior of their solve rates."""
    (tally, number), prior = tables.tally, tables.solve_rates
    belief, size = posterior(tally, prior), tables.group_size
    chance = 1.0 - belief @ (prior.points**size + (1 - prior.points) ** size)
    rows = tables.counts.select("prompt_id").with_columns(pl.Series("chance", np.clip(chance[number], 0.0, 1.0)))
    return dict(rows.filter(pl.col("prompt_id").is_in(ids)).iter_rows())


def why_no_counts(tables: LogTables) -> str:
    """Why the right answers of each prompt are not known; empty when they are."""
    if tables.log.coverage.survivors_only:
        return "the log holds only groups that survived filtering: prompts never or always solved left no trace"
    return "" if tables.judged and not tables.counts.is_empty() else UNJUDGED
