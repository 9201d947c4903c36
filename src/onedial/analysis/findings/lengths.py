"""Length against outcome, what each aggregation makes of it, and truncation."""

from __future__ import annotations

import numpy as np
import polars as pl

from onedial.analysis.findings.difficulty import UNJUDGED
from onedial.analysis.findings.evidence import Evidence
from onedial.analysis.findings.finding import Finding, Plot, Series, Table, percent, withheld
from onedial.analysis.findings.intervals import bootstrap_ratio
from onedial.analysis.logs.grouping import reward_of, right_of

BINS = 10


def length_bias(evidence: Evidence) -> Finding:
    """Mean length of wrong answers over that of right answers, within mixed groups."""
    name, title = "length_bias", "Length of wrong against right answers"
    definition = (
        "Mean length of wrong answers over mean length of right ones, within mixed groups only, so that hard prompts "
        "with long answers do not pose as a length effect (each group weighs as its mean)."
    )
    why = (
        "Where wrong answers are longer, an objective that divides by each answer's length punishes their tokens less "
        "than it rewards those of short right answers, and wrong answers grow."
    )
    reason = _no_length(evidence)
    split = (pl.col("kind") == "mixed") & pl.col("c").is_between(1, pl.col("n") - 1)
    mixed = evidence.groups if reason else evidence.shared.filter(split)
    if not reason and mixed.is_empty():
        reason = "no group has both right and wrong answers"
    if reason:
        return withheld(name, title, "ratio", reason, definition=definition, why=why)
    per = mixed.group_by("prompt_id").agg(
        (pl.col("length_right") / pl.col("c")).sum().alias("right"),
        (pl.col("length_wrong") / (pl.col("n") - pl.col("c"))).sum().alias("wrong"),
        pl.len().alias("groups"),
    )
    sums = per.select(pl.col("right", "wrong").sum(), pl.col("groups").sum()).row(0)
    if not sums[0]:
        return withheld(name, title, "ratio", "right answers have no length", definition=definition, why=why)
    ratio, unit = sums[1] / sums[0], evidence.length_unit
    quantiles, right_share = _by_length(evidence)
    plots = () if quantiles is None else (_accuracy_plot(evidence, quantiles, right_share),)
    return Finding(
        name=name,
        title=title,
        value=ratio,
        unit="ratio",
        interval=bootstrap_ratio(per.get_column("wrong"), per.get_column("right"), share=False),
        headline=f"Within mixed groups wrong answers are {ratio:.2f}× as long as right ones "
        f"({sums[1] / sums[2]:,.0f} against {sums[0] / sums[2]:,.0f} {unit}).",
        definition=definition,
        why=why,
        what_to_do="Use aggregate = fixed_length or token_mean, and watch the length of wrong answers."
        if ratio > 1.1
        else "Nothing urgent: lengths do not separate right from wrong here.",
        method="bootstrap over prompts",
        importance=0.2 + min(0.3, 0.5 * abs(float(np.log(max(ratio, 1e-9))))),
        plots=plots,
        tables=() if quantiles is None else (_aggregation_table(quantiles, unit),),
    )


def truncation(evidence: Evidence) -> Finding:
    """Share of completions cut by the length limit, and how many of those are wrong."""
    name, title = "truncation", "Truncated completions"
    definition = "Share of judged rollouts that the length limit, not the policy, ended."
    why = "A cut answer is nearly always judged wrong: the limit, not the reasoning, is what it is punished for."
    reason = "a table of solve rates holds no rollouts" if evidence.log.kind == "rates" else ""
    reason = reason or evidence.log.why_missing("truncated")
    if reason:
        return withheld(name, title, "share", reason, definition=definition, why=why)
    per = evidence.groups.group_by("prompt_id").agg(pl.col("cut", "cut_right", "n").sum())
    cut, right, total = (int(per.get_column(column).sum()) for column in ("cut", "cut_right", "n"))
    if total == 0:
        return withheld(name, title, "share", "no rollout was judged", definition=definition, why=why)
    of_cut = f" {percent(right / cut)} of the cut ones are right." if cut and evidence.judged else ""
    blamed = evidence.shared.filter((pl.col("kind") == "wrong") & (pl.col("cut") == pl.col("n")))
    note = f" {len(blamed):,} groups are all wrong with every answer cut." if len(blamed) else ""
    return Finding(
        name=name,
        title=title,
        value=cut / total,
        unit="share",
        interval=bootstrap_ratio(per.get_column("cut"), per.get_column("n")),
        headline=f"{percent(cut / total, 1)} of completions were cut.{of_cut}{note}",
        definition=definition,
        why=why,
        what_to_do="Raise the length limit, or mask cut rollouts from the loss (overlong = mask)."
        if cut / total > 0.02
        else "Nothing.",
        method="bootstrap over prompts",
        importance=0.1 + 0.8 * cut / total,
    )


def _no_length(evidence: Evidence) -> str:
    if evidence.log.kind == "rates":
        return "a table of solve rates holds no answers"
    if not evidence.judged:
        return UNJUDGED
    return "" if evidence.length_unit else evidence.log.why_missing("completion_tokens", "completion_chars")


def _by_length(evidence: Evidence) -> tuple[list[float] | None, list[tuple[float, float, float]]]:
    """Deciles of length over rollouts, and per decile the share right with its interval."""
    column = {"tokens": "completion_tokens", "characters": "completion_chars"}[evidence.length_unit]
    log = evidence.log
    rows = log.frame.filter(reward_of().is_not_null()).select(
        pl.col(column).alias("length"),
        right_of(log, evidence.marks).alias("right"),
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
        low, high = bootstrap_ratio(right, n) or (float("nan"), float("nan"))
        shares.append((share, low, high))
    return [float(cuts[0]), *inner, float(cuts[-1])], shares


def _accuracy_plot(evidence: Evidence, edges: list[float], shares: list[tuple[float, float, float]]) -> Plot:
    labels = tuple(f"{a:,.0f}–{b:,.0f}" for a, b in zip(edges[:-1], edges[1:], strict=True))[: len(shares)]
    values, low, high = (tuple(None if np.isnan(s[i]) else s[i] for s in shares) for i in range(3))
    return Plot(
        "bars",
        "Share right by length of the answer",
        f"length of the completion, {evidence.length_unit} (tenths of all rollouts)",
        "share right",
        labels,
        (Series("right", values, "right", low, high),),
    )


def _aggregation_table(edges: list[float], unit: str) -> Table:
    """How much a token of a long answer weighs against one of a short answer, under each way to add up token losses."""
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
