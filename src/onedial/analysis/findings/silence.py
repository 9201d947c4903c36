"""Which groups taught nothing, why, and what they cost."""

from __future__ import annotations

import polars as pl

from onedial.analysis.findings.evidence import SHARED_KINDS, Evidence
from onedial.analysis.findings.finding import Finding, Plot, Series, Table, percent, withheld
from onedial.analysis.findings.intervals import Interval, bootstrap_ratio, clustered_wilson

NAMES = {"mixed": "mixed", "right": "all right", "wrong": "all wrong", "other": "all equal, neither"}
ROLES = {"mixed": "mixed", "right": "right", "wrong": "wrong", "other": "other"}
COST_COLUMNS = ("what", "all", "silent", "share")
SHOWN = 40  # prompts listed behind one bar
METHOD = "Wilson at the effective number of groups: groups of one prompt count as alike as they are (Rao-Scott)"

SILENT = (
    "Share of groups (two or more judged rollouts of one prompt in one iteration) whose outcome rewards are all equal: "
    "max = min. Timeouts, errors and groups of one rollout are left out."
)
SILENT_WHY = (
    "A unanimous group has advantage 0 for every rollout under any group baseline: its generation is paid, and its "
    "gradient is zero."
)


def blind(evidence: Evidence) -> str:
    """Why this log cannot give shares of groups; empty when it can."""
    if evidence.log.kind == "rates":
        return "a table of solve rates holds no groups; see the expected silent share instead"
    if evidence.log.coverage.survivors_only:
        return "the log holds only groups that survived filtering, so the silent ones cannot be counted"
    if evidence.log.coverage.group_identity == "none":
        return "the log does not tell which rollouts belong to one group"
    if evidence.shared.is_empty():
        return "no group has two or more judged rollouts"
    return ""


def silent_share(evidence: Evidence) -> Finding:
    """The silent share on the outcome reward, split by kind."""
    title = "Groups that taught nothing"
    if reason := blind(evidence):
        return withheld("silent_share", title, "share", reason, definition=SILENT, why=SILENT_WHY)
    prompts, total = _sharing(evidence), len(evidence.shared)
    sums = {kind: int(prompts.get_column(kind).sum()) for kind in SHARED_KINDS}
    silent = 1 - sums["mixed"] / total
    shown = [kind for kind in SHARED_KINDS if kind != "other" or sums["other"]]
    ranges = {kind: _interval(prompts, pl.col(kind)) for kind in shown}
    worst = "wrong" if sums["wrong"] >= sums["right"] else "right"
    advice = {
        "wrong": "Mostly all wrong: the prompts are too hard for this policy. Raise the group size for them, teach "
        "them first (SFT, hints), or drop those never solved after many tries.",
        "right": "Mostly all right: the prompts are used up. Drop or rest the solved ones and bring harder prompts.",
    }[worst]
    headline = (
        f"{percent(silent)} of {total:,} groups were silent: {percent(sums['right'] / total)} all right, "
        f"{percent(sums['wrong'] / total)} all wrong"
        + (f", {percent(sums['other'] / total)} all equal but neither." if sums["other"] else ".")
    )
    if evidence.log.coverage.survivors_only is None:
        headline += " This format may drop silent groups before logging, so the true share can be higher."
    return Finding(
        name="silent_share",
        title=title,
        value=silent,
        unit="share",
        interval=_interval(prompts, pl.col("shared") - pl.col("mixed")),
        headline=headline,
        definition=SILENT,
        why=SILENT_WHY,
        what_to_do=advice if silent > 0.2 else "Nothing urgent: most groups carry a gradient.",
        method=METHOD,
        importance=0.5 + 0.5 * silent,
        plots=(_kinds_plot(evidence, shown, sums, total, ranges), *_size_plot(evidence)),
    )


def silent_tokens(evidence: Evidence, *, price: float | None = None, seconds: float | None = None) -> Finding:
    """Completion tokens of silent groups; money at `price` per million tokens, time out of `seconds` generating."""
    name, title = "silent_tokens", "Tokens that taught nothing"
    definition = "Completion tokens of silent groups over those of all groups of two or more judged rollouts."
    why = "This is the part of the generation bill that no gradient came from."
    reason = blind(evidence) or evidence.log.why_missing("completion_tokens")
    if reason:
        return withheld(name, title, "share", reason, definition=definition, why=why)
    prompts = _sharing(evidence)
    total, silent = int(prompts.get_column("shared_tokens").sum()), int(prompts.get_column("silent_tokens").sum())
    if total == 0:
        return withheld(name, title, "share", "every completion is empty", definition=definition, why=why)
    share = silent / total
    rows: list[tuple[str | float | None, ...]] = [("completion tokens", total, silent, share)]
    if price is not None:
        rows.append(("money at the given price", total * price / 1e6, silent * price / 1e6, share))
    if seconds is not None:
        rows.append(("seconds generating", seconds, seconds * share, share))
    money = f", {silent * price / 1e6:,.2f} in money" if price is not None else ""
    return Finding(
        name=name,
        title=title,
        value=share,
        unit="share",
        interval=bootstrap_ratio(prompts.get_column("silent_tokens"), prompts.get_column("shared_tokens")),
        headline=f"{percent(share)} of the completion tokens ({silent:,} of {total:,}{money}) were in silent groups.",
        definition=definition,
        why=why,
        what_to_do="Plan tries per prompt (`onedial plan`), stop sampling a prompt whose verdict is clear, and skip "
        "the backward pass of silent groups (exact where no KL or entropy term remains).",
        method="bootstrap over prompts" + (", time split by tokens" if seconds is not None else ""),
        importance=0.45 + 0.5 * share,
        tables=(Table("What silent groups cost", COST_COLUMNS, tuple(rows), ("", "", "", "share")),),
    )


def shaping_leaks(evidence: Evidence) -> Finding:
    """Groups with a unanimous outcome but different shaped rewards: gradient from shaping alone."""
    name, title = "shaping_leak", "Gradient from reward shaping alone"
    definition = (
        "Share of groups whose outcome rewards are all equal while their shaped rewards (length, format, penalties) "
        "differ. The silent share on the shaped reward stands in the table."
    )
    why = (
        "Such a group pushes the policy by style only. Dividing by a tiny standard deviation makes the push as large "
        "as that of a real disagreement, and a filter on the shaped reward lets it pass as mixed."
    )
    reason = blind(evidence) or evidence.log.why_missing("shaped_reward")
    groups = evidence.shared
    if not reason:
        groups = groups.filter(pl.col("shaped_n") == pl.col("n"))
        if groups.is_empty():
            reason = "no group has a shaped reward for all its rollouts"
        elif len(groups) < len(evidence.shared) and (groups.get_column("kind") == "mixed").all():
            reason = "only mixed groups have shaped rewards in this log, so a leak in a silent one cannot show"
    if reason:
        return withheld(name, title, "share", reason, definition=definition, why=why)
    varies, mixed = pl.col("shaped_high") > pl.col("shaped_low"), pl.col("kind") == "mixed"
    flags = groups.select(
        "prompt_id", (varies & ~mixed).alias("leak"), (~varies & mixed).alias("lost"), (~varies).alias("quiet")
    )
    per = flags.group_by("prompt_id").agg(pl.col("leak", "lost", "quiet").sum(), pl.len().alias("shared"))
    total = len(groups)
    leak, lost, quiet = (int(per.get_column(column).sum()) for column in ("leak", "lost", "quiet"))
    outcome_silent = int((groups.get_column("kind") != "mixed").sum())
    rows = (
        ("outcome unanimous", outcome_silent, outcome_silent / total),
        ("shaped reward unanimous", quiet, quiet / total),
        ("outcome unanimous, shaped mixed (leak)", leak, leak / total),
        ("outcome mixed, shaped unanimous (signal lost)", lost, lost / total),
    )
    return Finding(
        name=name,
        title=title,
        value=leak / total,
        unit="share",
        interval=_interval(per, pl.col("leak")),
        headline=f"{percent(leak / total)} of groups differ only by shaping; {percent(lost / total)} have a mixed "
        "outcome that shaping levels out.",
        definition=definition,
        why=why,
        what_to_do="Filter and measure unanimity on the outcome reward, add shaping after, and keep its size below the "
        "outcome's."
        if leak
        else "Nothing: shaping never stands alone here.",
        method=METHOD,
        importance=0.15 + 0.7 * max(leak, lost) / total,
        tables=(Table("Unanimity on each reward", ("groups where", "count", "share"), rows, ("", "", "share")),),
    )


def unusable_share(evidence: Evidence) -> Finding:
    """Rollouts that no verdict could be reached on."""
    definition = "Share of rollouts without a reward that may train: timeouts, errors, missing or infinite rewards."
    why = "Counted as 0 they would teach the policy that the verifier's failures are wrong answers."
    if evidence.log.kind == "rates":
        reason = "a table of solve rates holds no rollouts"
        return withheld("unusable_share", "Rollouts not judged", "share", reason, definition=definition, why=why)
    per = evidence.groups.group_by("prompt_id").agg(pl.col("unusable").sum(), pl.col("size").sum())
    lost, total = int(per.get_column("unusable").sum()), int(per.get_column("size").sum())
    return Finding(
        name="unusable_share",
        title="Rollouts not judged",
        value=lost / total,
        unit="share",
        interval=bootstrap_ratio(per.get_column("unusable"), per.get_column("size")),
        headline=f"{lost:,} of {total:,} rollouts ({percent(lost / total, 1)}) have no usable verdict.",
        definition=definition,
        why=why,
        what_to_do="Look at the verifier's time limit and errors." if lost else "Nothing.",
        method="bootstrap over prompts",
        importance=0.05 + 0.9 * lost / total,
    )


def _sharing(evidence: Evidence) -> pl.DataFrame:
    """Per prompt: groups in shares by kind, and their tokens."""
    silent = pl.col("kind") != "mixed"
    return evidence.shared.group_by("prompt_id").agg(
        pl.len().alias("shared"),
        *((pl.col("kind") == kind).sum().alias(kind) for kind in SHARED_KINDS),
        pl.col("tokens").sum().alias("shared_tokens"),
        pl.col("tokens").filter(silent).sum().alias("silent_tokens"),
    )


def _interval(prompts: pl.DataFrame, hits: pl.Expr) -> Interval | None:
    table = prompts.select(hits.cast(pl.Float64).alias("hits"), pl.col("shared").cast(pl.Float64))
    return clustered_wilson(table.get_column("hits").to_numpy(), table.get_column("shared").to_numpy())


def _kinds_plot(
    evidence: Evidence, kinds: list[str], sums: dict[str, int], total: int, ranges: dict[str, Interval | None]
) -> Plot:
    """One bar per kind of group, prompts behind each."""
    series = tuple(
        Series(
            NAMES[kind],
            tuple(sums[kind] / total if kind == other else None for other in kinds),
            ROLES[kind],
            tuple((ranges[kind] or (None, None))[0] if kind == other else None for other in kinds),
            tuple((ranges[kind] or (None, None))[1] if kind == other else None for other in kinds),
        )
        for kind in kinds
    )
    members = tuple(_most(evidence.prompts, kind) for kind in kinds)
    return Plot(
        "stack",
        "Groups by what their rewards say",
        "rewards of the group",
        "share of groups",
        tuple(NAMES[kind] for kind in kinds),
        series,
        members=members,
        note=f"{total:,} groups of two or more judged rollouts",
    )


def _most(prompts: pl.DataFrame, column: str) -> tuple[str, ...]:
    """The prompts with the most groups of a kind."""
    found = prompts.filter(pl.col(column) > 0).sort([column, "prompt_id"], descending=[True, False]).head(SHOWN)
    return tuple(found.get_column("prompt_id"))


def _size_plot(evidence: Evidence) -> tuple[Plot, ...]:
    """Kinds by group size, when sizes differ."""
    table = evidence.shared.group_by("n").agg(
        pl.len().alias("all"), *((pl.col("kind") == kind).sum().alias(kind) for kind in SHARED_KINDS)
    )
    if len(table) < 2:
        return ()
    table = table.sort("all", descending=True).head(24).sort("n")
    kinds = [kind for kind in SHARED_KINDS if table.get_column(kind).sum()]
    series = tuple(
        Series(NAMES[kind], tuple((table.get_column(kind) / table.get_column("all")).to_list()), ROLES[kind])
        for kind in kinds
    )
    x = tuple(str(n) for n in table.get_column("n"))
    note = "sizes with the most groups" if len(table) == 24 else ""
    return (Plot("stack", "By group size", "judged rollouts in the group", "share of groups", x, series, note=note),)
