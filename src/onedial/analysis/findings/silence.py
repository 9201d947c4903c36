"""Silent groups: how many there are, why, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from onedial.analysis.findings.finding import Measurement, Plot, Series, Spec, Table, measures, percent, percent_parts
from onedial.analysis.findings.intervals import clustered_wilson, ratio_interval
from onedial.analysis.findings.log_tables import LogTables
from onedial.analysis.logs.grouping import SHARED_KINDS
from onedial.core.palette import GROUP_KINDS

COST_COLUMNS = ("what", "all", "silent", "share")
SHOWN = 40  # prompts listed behind one bar
METHOD = "Wilson at the effective number of groups: groups of one prompt count as alike as they are (Rao-Scott)"

SILENT = Spec(
    name="silent_share",
    title="Silent groups",
    unit="share",
    definition=(
        "Share of groups (two or more judged rollouts of one prompt in one iteration) whose outcome rewards are all "
        "equal: max = min. Timeouts, errors and groups of one rollout are left out."
    ),
    why=(
        "Every rollout of a silent group has advantage 0 under any group baseline, so the group has no policy "
        "gradient (a KL, entropy or critic term, where there is one, remains). Generating it costs as much as "
        "any other group."
    ),
)
TOKENS = Spec(
    name="silent_tokens",
    title="Tokens in silent groups",
    unit="share",
    definition="Completion tokens of silent groups over those of all groups of two or more judged rollouts.",
    why="This is the part of the generation cost that yields no policy gradient.",
)
LEAK = Spec(
    name="shaping_leak",
    title="Gradient from reward shaping alone",
    unit="share",
    definition=(
        "Share of groups whose outcome rewards are all equal while their shaped rewards (length, format, penalties) "
        "differ. The silent share on the shaped reward is in the table."
    ),
    why=(
        "Such a group trains style only. Dividing by a tiny standard deviation makes its gradient as large as that of "
        "a real disagreement, and a filter on the shaped reward takes it for a mixed group."
    ),
)
UNUSABLE = Spec(
    name="unusable_share",
    title="Rollouts not judged",
    unit="share",
    definition="Share of rollouts without a reward that may train: timeouts, errors, missing or infinite rewards.",
    why="Counted as 0 they would train the policy as if the verifier's failures were wrong answers.",
)


def why_no_group_shares(tables: LogTables) -> str:
    """Why this log cannot give shares of groups; empty if it can."""
    if tables.log.kind == "rates":
        return "a table of solve rates holds no groups; see the expected silent share instead"
    if tables.log.coverage.survivors_only:
        return "the log holds only groups that survived filtering, so silent groups cannot be counted"
    if tables.log.coverage.group_identity == "none":
        return "the log does not show which rollouts belong to one group"
    if tables.shared.is_empty():
        return "no group has two or more usable rollouts" + _other_column(tables)
    return ""


def _other_column(tables: LogTables) -> str:
    inferred = tables.log.coverage.group_identity == "inferred from the prompt text"
    hint = " (if the prompt's column holds the answer too, name another with --map prompt=COLUMN)"
    return hint if inferred else ""


@measures(SILENT)
def silent_share(tables: LogTables) -> Measurement | str:
    """The share of groups whose outcome rewards are all equal, by kind."""
    if reason := why_no_group_shares(tables):
        return reason
    kinds, total = tables.kind_shares, len(tables.shared)
    silent = kinds["silent"]
    shown = [kind for kind in SHARED_KINDS if kind != "other" or kinds[kind].count]
    whole, parts = percent_parts([kinds[kind].share for kind in shown if kind != "mixed"], 1)
    words = [f"{part} {GROUP_KINDS[k].label}" for part, k in zip(parts, shown[1:], strict=True)]
    headline = f"{whole} of {total:,} groups were silent: {', '.join(words)}."
    if tables.log.coverage.survivors_only is None:
        headline += " This format may drop silent groups before logging, so the true share can be higher."
    return Measurement(
        value=silent.share,
        interval=silent.interval,
        headline=headline,
        advice=_silence_advice(tables) if silent.share > 0.2 else "",
        method=METHOD,
        importance=0.5 + 0.5 * silent.share,
        plots=(_kinds_plot(tables, shown), *_size_plot(tables)),
    )


def _silence_advice(tables: LogTables) -> str:
    """What to do about silent groups, depending on their most frequent kind and on the trainer that sampled them."""
    kinds = tables.kind_shares
    hard = kinds["wrong"].count >= kinds["right"].count
    most = "Most" if 2 * kinds["wrong" if hard else "right"].count > kinds["silent"].count else "Many"
    if tables.log.is_evaluation:
        if hard:
            return (
                f"{most} silent groups are all wrong. A policy trained on these prompts would need more tries for them."
            )
        return f"{most} silent groups are all correct: as training prompts they would be used up."
    if tables.log.format == "onedial":
        return (
            f"{most} silent groups are all wrong: let `onedial plan` give those prompts more tries or leave them out "
            "(`onedial train --plan`), or warm up on solutions first (the row sft)."
            if hard
            else f"{most} silent groups are all correct: let `onedial plan` rest the solved prompts (`onedial train "
            "--plan`), or choose a harder task."
        )
    return (
        f"{most} silent groups are all wrong: the prompts are too hard for this policy. Raise the group size for them, "
        "train on solutions first (SFT, hints), or drop those never solved after many tries."
        if hard
        else f"{most} silent groups are all correct: drop or rest the solved prompts and bring harder ones."
    )


@measures(TOKENS)
def silent_tokens(tables: LogTables, *, price: float | None = None, seconds: float | None = None) -> Measurement | str:
    """Completion tokens of silent groups; their cost at `price` per million tokens, and their part of the `seconds` of
    generation."""
    if reason := why_no_group_shares(tables) or tables.log.why_missing("completion_tokens"):
        return reason
    prompts = tables.shared_by_prompt
    total, silent = int(prompts.get_column("tokens").sum()), int(prompts.get_column("silent_tokens").sum())
    if total == 0:
        return "every completion is empty"
    share = silent / total
    rows: list[tuple[str | float | None, ...]] = [("completion tokens", total, silent, share)]
    if price is not None:
        rows.append(("money at the given price", total * price / 1e6, silent * price / 1e6, share))
    if seconds is not None:
        rows.append(("seconds generating", seconds, seconds * share, share))
    money = f", {_money(silent * price / 1e6)} in money" if price is not None else ""
    return Measurement(
        value=share,
        interval=ratio_interval(prompts.get_column("silent_tokens"), prompts.get_column("tokens")),
        headline=f"{percent(share)} of the completion tokens ({silent:,} of {total:,}{money}) were in silent groups.",
        advice=_token_advice(tables) if share > 0.2 else "",
        method="jackknife over prompts" + (", time split by tokens" if seconds is not None else ""),
        importance=0.45 + 0.5 * share,
        tables=(Table("What silent groups cost", COST_COLUMNS, tuple(rows), ("", "", "", "share")),),
    )


def _money(amount: float) -> str:
    """An amount with two decimals, or two digits where that would read 0.00."""
    return f"{amount:,.2f}" if amount >= 0.005 or not amount else f"{amount:.2g}"


def _token_advice(tables: LogTables) -> str:
    plan = "Plan the tries of each prompt (`onedial plan`) and stop sampling a prompt whose verdict is clear"
    if tables.log.format == "onedial":  # it skips their backward pass already
        return plan + "."
    if tables.log.is_evaluation:
        return ""
    return plan + ", and skip the backward pass of silent groups (exact where no KL or entropy term remains)."


@measures(LEAK)
def shaping_leaks(tables: LogTables) -> Measurement | str:
    """Groups with equal outcomes but different shaped rewards: they have a gradient from shaping alone."""
    if reason := why_no_group_shares(tables) or tables.log.why_missing("shaped_reward"):
        return reason
    groups = tables.shared.filter(pl.col("shaped_n") == pl.col("n"))
    if groups.is_empty():
        return "no group has a shaped reward for all its rollouts"
    if len(groups) < len(tables.shared) and (groups.get_column("kind") == "mixed").all():
        return "only mixed groups have shaped rewards in this log, so a leak in a silent one cannot show"
    varies, mixed = pl.col("shaped_high") > pl.col("shaped_low"), pl.col("kind") == "mixed"
    flags = groups.select(
        "prompt_id", leak=varies & ~mixed, lost=~varies & mixed, quiet=~varies, silent=~mixed, shared=pl.lit(1)
    )
    per = flags.group_by("prompt_id").agg(pl.col("leak", "lost", "quiet", "silent", "shared").sum())
    leak, lost, quiet, silent, total = (int(value) for value in per.drop("prompt_id").sum().row(0))
    rows = (
        ("outcome unanimous", silent, silent / total),
        ("shaped reward unanimous", quiet, quiet / total),
        ("outcome unanimous, shaped mixed (leak)", leak, leak / total),
        ("outcome mixed, shaped unanimous (signal lost)", lost, lost / total),
    )
    return Measurement(
        value=leak / total,
        interval=clustered_wilson(per.get_column("leak"), per.get_column("shared")),
        headline=f"{percent(leak / total)} of groups differ only by shaping; {percent(lost / total)} have a mixed "
        "outcome that shaping levels out.",
        advice="Filter and measure unanimity on the outcome reward, add shaping after, and keep its size below the "
        "outcome's."
        if leak and tables.log.format != "onedial"  # onedial filters on the outcome
        else "Keep the size of shaping below the outcome's."
        if leak
        else "",
        method=METHOD,
        importance=0.15 + 0.7 * max(leak, lost) / total,
        tables=(Table("Unanimity on each reward", ("groups where", "count", "share"), rows, ("", "", "share")),),
    )


@measures(UNUSABLE)
def unusable_share(tables: LogTables) -> Measurement | str:
    """Share of rollouts for which no verdict was reached."""
    if tables.log.kind == "rates":
        return "a table of solve rates holds no rollouts"
    total = tables.totals.rollouts
    lost = total - tables.totals.judged
    per = tables.groups.group_by("prompt_id").agg(pl.col("unusable").sum(), pl.col("size").sum())
    return Measurement(
        value=lost / total,
        interval=None
        if tables.totals.ungrouped
        else ratio_interval(per.get_column("unusable"), per.get_column("size")),
        headline=f"{lost:,} of {total:,} rollouts ({percent(lost / total, 1)}) have no usable verdict.",
        advice="Look at the verifier's time limit and errors." if lost else "",
        method="jackknife over prompts",
        importance=0.05 + 0.9 * lost / total,
    )


def _kinds_plot(tables: LogTables, kinds: Sequence[str]) -> Plot:
    """One bar per kind of group, prompts behind each."""
    found = tables.kind_shares

    def bar(kind: str) -> Series:
        low, high = found[kind].interval or (None, None)
        only = [kind == other for other in kinds]
        values = [tuple(value if own else None for own in only) for value in (found[kind].share, low, high)]
        return Series(GROUP_KINDS[kind].label, values[0], kind, values[1], values[2])

    return Plot(
        "stack",
        "Groups by what their rewards say",
        "rewards of the group",
        "share of groups",
        tuple(GROUP_KINDS[kind].label for kind in kinds),
        tuple(map(bar, kinds)),
        members=tuple(_most(tables.prompts, kind) for kind in kinds),
        note=f"{len(tables.shared):,} groups of two or more judged rollouts",
    )


def _most(prompts: pl.DataFrame, column: str) -> tuple[str, ...]:
    """The prompts with the most groups of a kind."""
    found = prompts.filter(pl.col(column) > 0).sort([column, "prompt_id"], descending=[True, False]).head(SHOWN)
    return tuple(found.get_column("prompt_id"))


def _size_plot(tables: LogTables) -> tuple[Plot, ...]:
    """Kinds by group size, when sizes differ."""
    table = tables.shared.group_by("n").agg(
        pl.len().alias("all"), *((pl.col("kind") == kind).sum().alias(kind) for kind in SHARED_KINDS)
    )
    if len(table) < 2:
        return ()
    table = table.sort("all", descending=True).head(24).sort("n")
    kinds = [kind for kind in SHARED_KINDS if table.get_column(kind).sum()]
    series = tuple(
        Series(GROUP_KINDS[kind].label, tuple((table.get_column(kind) / table.get_column("all")).to_list()), kind)
        for kind in kinds
    )
    x = tuple(str(n) for n in table.get_column("n"))
    note = "sizes with the most groups" if len(table) == 24 else ""
    return (Plot("stack", "By group size", "judged rollouts in the group", "share of groups", x, series, note=note),)
