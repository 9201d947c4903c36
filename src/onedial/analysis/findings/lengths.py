"""Completion length against outcome, the weight of lengths under each aggregation, and truncation."""

from __future__ import annotations

import numpy as np
import polars as pl

from onedial.analysis.findings.difficulty import UNJUDGED
from onedial.analysis.findings.finding import Measurement, Plot, Series, Spec, Table, measures, percent
from onedial.analysis.findings.intervals import log_ratio_interval, ratio_interval
from onedial.analysis.findings.log_tables import LogTables
from onedial.analysis.logs.grouping import finite_reward, is_right

BINS = 10


LENGTH_BIAS = Spec(
    name="length_bias",
    title="Length of wrong against right answers",
    unit="ratio",
    definition=(
        "Mean length of wrong answers over mean length of right ones, within mixed groups only, so that hard prompts "
        "with long answers do not look like a length effect (each group counts by its mean)."
    ),
    why=(
        "Where wrong answers are longer, an objective that divides by each answer's length punishes their tokens less "
        "than it rewards those of short right answers, and wrong answers grow."
    ),
)
TRUNCATION = Spec(
    name="truncation",
    title="Truncated completions",
    unit="share",
    definition="Share of judged rollouts that were ended by the length limit and not by the policy.",
    why="A cut answer is nearly always judged wrong: it is punished for the limit, not for its reasoning.",
)
OFTEN_CUT = 0.02  # share of cut answers from which something should be done


@measures(LENGTH_BIAS)
def length_bias(tables: LogTables) -> Measurement | str:
    """Mean length of wrong answers over that of right answers, within mixed groups."""
    if reason := _no_length(tables):
        return reason
    mixed = tables.shared.filter((pl.col("kind") == "mixed") & pl.col("c").is_between(1, pl.col("n") - 1))
    if mixed.is_empty():
        return "no group has both right and wrong answers"
    per = mixed.group_by("prompt_id").agg(
        (pl.col("length_right") / pl.col("c")).sum().alias("right"),
        (pl.col("length_wrong") / (pl.col("n") - pl.col("c"))).sum().alias("wrong"),
    )
    right, wrong = (float(per.get_column(name).sum()) for name in ("right", "wrong"))
    if not right:
        return "right answers have no length"
    ratio, unit = wrong / right, tables.length_unit
    quantiles, right_share = _by_length(tables)
    return Measurement(
        value=ratio,
        interval=log_ratio_interval(per.get_column("wrong"), per.get_column("right")),
        headline=f"Within mixed groups wrong answers are {ratio:.2f}× as long as right ones "
        f"({wrong / len(mixed):,.0f} against {right / len(mixed):,.0f} {unit}).",
        advice="" if ratio <= 1.1 or tables.log.is_evaluation else _length_advice(tables),
        method="jackknife of the logarithm over prompts",
        importance=0.2 + min(0.3, 0.5 * abs(float(np.log(max(ratio, 1e-9))))),
        plots=() if quantiles is None else (_accuracy_plot(tables, quantiles, right_share),),
        tables=() if quantiles is None else (_aggregation_table(quantiles, unit),),
    )


def _length_advice(tables: LogTables) -> str:
    change = "Sum or average token losses over the batch (Dr. GRPO's fixed divisor, or a token mean)"
    if tables.log.format == "onedial":
        change = "If the row has aggregate = sequence_mean, try fixed_length or token_mean"
    return change + ", and watch the length of wrong answers."


@measures(TRUNCATION)
def truncation(tables: LogTables) -> Measurement | str:
    """Share of completions cut off by the length limit, and how many of those are right."""
    if tables.log.kind == "rates":
        return "a table of solve rates holds no rollouts"
    if reason := tables.log.why_missing("truncated"):
        return reason
    per = tables.groups.group_by("prompt_id").agg(pl.col("cut", "cut_right", "n").sum())
    cut, right, total = (int(per.get_column(column).sum()) for column in ("cut", "cut_right", "n"))
    if total == 0:
        return "no rollout was judged"
    words = [f"{percent(cut / total, 1)} of completions were cut."]
    last = _last_share(tables)
    if cut and last is not None:
        words.append(f"In the last third of the iterations it was {percent(last, 1)}.")
    if cut and tables.judged:
        words.append(f"{percent(right / cut)} of the cut ones are right.")
    blamed = tables.shared.filter((pl.col("kind") == "wrong") & (pl.col("cut") == pl.col("n")))
    if len(blamed):
        words.append(f"{len(blamed):,} groups are all wrong with every answer cut.")
    return Measurement(
        value=cut / total,
        interval=ratio_interval(per.get_column("cut"), per.get_column("n")),
        headline=" ".join(words),
        advice=_cut_advice(tables) if (cut / total if last is None else last) > OFTEN_CUT else "",
        method="jackknife over prompts",
        importance=0.1 + 0.8 * cut / total,
    )


def _last_share(tables: LogTables) -> float | None:
    """Share of truncated answers in the last third of the iterations; None for fewer than three iterations."""
    steps = tables.groups.get_column("iteration").drop_nulls().unique().sort()
    if len(steps) < 3:
        return None
    late = tables.groups.filter(pl.col("iteration") >= steps[-(len(steps) // 3)])
    judged = int(late.get_column("n").sum())
    return int(late.get_column("cut").sum()) / judged if judged else None


def _cut_advice(tables: LogTables) -> str:
    if tables.log.is_evaluation:
        return "Raise the length limit: the score is that of the limit, not of the policy."
    mask = "set overlong = mask" if tables.log.format == "onedial" else "mask cut rollouts from the loss"
    return f"Raise the length limit, or {mask}."


def _no_length(tables: LogTables) -> str:
    if tables.log.kind == "rates":
        return "a table of solve rates holds no answers"
    if not tables.judged:
        return UNJUDGED
    return "" if tables.length_unit else tables.log.why_missing("completion_tokens", "completion_chars")


def _by_length(tables: LogTables) -> tuple[list[float] | None, list[tuple[float, float, float]]]:
    """Deciles of length over rollouts, and per decile the share right with its interval."""
    column = {"tokens": "completion_tokens", "characters": "completion_chars"}[tables.length_unit]
    log = tables.log
    rows = log.frame.filter(finite_reward().is_not_null()).select(
        pl.col(column).alias("length"),
        is_right(log, tables.marks).alias("right"),
        pl.col("prompt_id" if log.has("prompt_id") else "group_id").hash().alias("prompt"),
    )
    levels = [pl.col("length").quantile(i / BINS).alias(str(i)) for i in range(BINS + 1)]
    cuts = rows.select(levels).collect(engine="streaming").row(0)
    if cuts[0] is None:
        return None, []
    inner = sorted(set(map(float, cuts[1:-1])))
    bins = rows.with_columns(sum(((pl.col("length") > c).cast(pl.Int64) for c in inner), pl.lit(0)).alias("bin"))
    per = (
        bins.group_by("bin", (pl.col("prompt") % 2000).alias("block"))
        .agg(pl.col("right").sum().cast(pl.Float64), pl.len().cast(pl.Float64).alias("n"))
        .collect(engine="streaming")
    )
    shares = []
    for i in range(len(inner) + 1):
        part = per.filter(pl.col("bin") == i)
        right, n = part.get_column("right").to_numpy(), part.get_column("n").to_numpy()
        share = float(right.sum() / n.sum()) if len(n) else float("nan")
        low, high = ratio_interval(right, n) or (float("nan"), float("nan"))
        shares.append((share, low, high))
    return [float(cuts[0]), *inner, float(cuts[-1])], shares


def _accuracy_plot(tables: LogTables, edges: list[float], shares: list[tuple[float, float, float]]) -> Plot:
    # a bin holds the lengths above its lower edge, up to its upper one; the last is empty where many are the longest
    bins = [(label, share) for label, share in zip(_bin_labels(edges), shares, strict=True) if not np.isnan(share[0])]
    labels = tuple(label for label, _ in bins)
    values, low, high = (tuple(None if np.isnan(s[i]) else s[i] for _, s in bins) for i in range(3))
    return Plot(
        "bars",
        "Share right by length of the answer",
        f"length of the completion, {tables.length_unit} (tenths of all rollouts)",
        "share right",
        labels,
        (Series("right", values, "right", low, high),),
    )


def _bin_labels(edges: list[float]) -> list[str]:
    """The whole lengths in each bin: "5–9", "10", "11–30"."""
    lower = [int(edges[0]), *(int(edge) + 1 for edge in edges[1:-1])]
    upper = [int(edge) for edge in edges[1:]]
    return [f"{a:,}" if a >= b else f"{a:,}–{b:,}" for a, b in zip(lower, upper, strict=True)]


def _aggregation_table(edges: list[float], unit: str) -> Table:
    """The weight of a token in a long answer compared with one in a short answer, for each way of adding up token
    losses."""
    short, long = edges[1], edges[-2]
    ratio = short / long if long else 1.0
    rows = (
        ("sequence_mean (GRPO)", ratio, 1.0, "a token of a long answer counts less: long wrong answers are spared"),
        ("group_token_mean (DAPO's paper)", 1.0, ratio, "equal within a group; prompts with long answers count less"),
        ("token_mean (DAPO's code)", 1.0, 1.0, "tokens equal; long answers carry more weight in all"),
        ("fixed_length (Dr. GRPO)", 1.0, 1.0, "as token_mean, with a constant divisor"),
    )
    title = f"Token weight in an answer of {long:,.0f} {unit} over one of {short:,.0f} (9th against 1st decile)"
    return Table(title, ("aggregate", "same group", "prompts of such lengths", "effect"), rows)
