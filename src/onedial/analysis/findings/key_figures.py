"""The figures of a log as plain JSON values: counts, shares and pass@k. A figure that the log cannot support is null,
with a reason.

Definitions
    rollouts        rows of the log (of the chosen split), including unusable ones
    unusable        timeouts, errors and rollouts without a finite reward; they count in no share and no mean
    groups          groups with at least one row; `group_sizes` counts rows per group, including unusable ones
    shares          of the groups with two or more usable rollouts. silent = all outcome rewards equal (max == min):
                    all right, all wrong, or equal but neither ("other")
    groups_of_one   groups with fewer than two usable rollouts, which count in no share
    tokens_silent   completion tokens of the silent groups
    pass_at_k       see `pass_rates`
    expected_silent_share  silent share of groups of size G drawn from the tries of each visit, see `expected`

In the shares of a rate table, each row is one group, made of its n tries. `expected_groups` holds the shares of groups
of the training size, the mean reward is the mean over prompts, and `rate_figures` adds figures that only a rate table
has. Intervals are 95 %, with prompts as units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from onedial.analysis.findings.expected import GRADED, expected_kinds, expected_silent_shares, no_visits
from onedial.analysis.findings.intervals import Interval, clustered_wilson, ratio_interval
from onedial.analysis.findings.log_tables import LogTables
from onedial.analysis.findings.pass_rates import pass_rates
from onedial.analysis.findings.rate_figures import rate_figures
from onedial.analysis.findings.silence import why_no_group_shares
from onedial.analysis.logs.schema import Log

SHARE_OF = {
    "mixed_share": "mixed",
    "silent_share": "silent",
    "all_correct_share": "right",
    "all_wrong_share": "wrong",
    "silent_other_share": "other",
}
BROKEN_SHOWN = 20
NO_LENGTHS = "a table of solve rates holds no lengths"
NO_TRIES = "the number of rollouts per rate is not known"

Figures = dict[str, Any]
Reasons = dict[str, str]


def key_figures(tables: LogTables, *, ks: Sequence[int] = ()) -> Figures:
    """All figures of a log; `withheld` maps each null figure to its reason. `ks` are further values of k for pass@k."""
    withheld: Reasons = {}
    figures = _of_rates(tables, withheld) if tables.log.kind == "rates" else _of_rollouts(tables, withheld)
    figures |= _expected(tables, withheld) | _passes(tables, ks, withheld)
    if tables.log.kind == "rates":
        figures |= rate_figures(tables, withheld)
    return _framed(tables.log, figures, withheld)


def empty_figures(log: Log) -> Figures:
    """The figures of a log without a single row."""
    reason = "the log holds no rollouts" if log.kind == "rollouts" else "the table holds no rates"
    names = ("mean_reward", *SHARE_OF, "tokens_generated", "tokens_silent", "pass_at_k")
    counts = dict.fromkeys(("rollouts", "unusable", "prompts", "groups", "groups_of_one", "groups_in_shares"), 0)
    return _framed(log, {**counts, "group_sizes": {}, **dict.fromkeys(names)}, dict.fromkeys(names, reason))


def _framed(log: Log, figures: Figures, withheld: Reasons) -> Figures:
    return {
        "format": log.format,
        "kind": log.kind,
        "coverage": log.coverage.to_json(),
        **figures,
        "withheld": withheld,
        "broken_lines": log.broken_lines,
        "broken": [{"file": b.file, "line": b.line, "reason": b.reason} for b in log.broken[:BROKEN_SHOWN]],
        "files": len(log.files),
    }


def _of_rollouts(tables: LogTables, withheld: Reasons) -> Figures:
    totals = tables.totals
    mean = totals.reward / totals.judged if totals.judged else None
    if mean is None:
        withheld["mean_reward"] = "no rollout has a usable reward"
    return {
        "rollouts": totals.rollouts,
        "unusable": totals.rollouts - totals.judged,
        "prompts": tables.groups.get_column("prompt_id").hash().n_unique() if _has_groups(tables) else None,
        **_group_figures(tables, withheld),
        "mean_reward": mean,
        "mean_reward_interval": _listed(_mean_interval(tables)),
        "right_means": tables.marks.rule,
        **_shaped(tables, withheld),
        **_tokens(tables, withheld),
    }


def _has_groups(tables: LogTables) -> bool:
    return tables.log.has("group_id") and tables.log.coverage.group_identity != "none"


def _group_figures(tables: LogTables, withheld: Reasons) -> Figures:
    names = ("groups", "group_sizes", "groups_of_one", "groups_in_shares")
    if not _has_groups(tables):
        reason = "the log does not show which rollouts belong to one group"
        withheld |= dict.fromkeys((*names[:3], *SHARE_OF), reason)
        return dict.fromkeys((*names, *SHARE_OF))
    sizes = tables.groups.group_by("size").len().sort("size")
    figures: Figures = {
        **({"rollouts_without_group": tables.totals.ungrouped} if tables.totals.ungrouped else {}),
        "groups": len(tables.groups),
        "group_sizes": {str(size): number for size, number in sizes.iter_rows()},
        "groups_of_one": len(tables.groups) - len(tables.shared),
        "groups_in_shares": len(tables.shared),
    }
    if reason := why_no_group_shares(tables):
        withheld |= dict.fromkeys(SHARE_OF, reason)
        return {**figures, **dict.fromkeys(SHARE_OF)}
    found = tables.kind_shares
    figures |= {name: found[kind].share for name, kind in SHARE_OF.items()}
    figures["share_intervals"] = {name: _listed(found[kind].interval) for name, kind in SHARE_OF.items()}
    return figures


def _mean_interval(tables: LogTables) -> Interval | None:
    """95 % interval of the mean reward with prompts as units: rollouts of one prompt resemble each other, within a
    group and across iterations."""
    if not _has_groups(tables) or tables.totals.ungrouped:
        return None
    per = tables.prompts.with_columns(pl.col("k").fill_null(0))
    total, n, right = (per.get_column(name).to_numpy().astype(float) for name in ("reward", "n", "k"))
    high, low = tables.marks.right, tables.marks.wrong
    if high is None or low is None or high <= low or abs(total - low * n - (high - low) * right).max(initial=0) > 1e-9:
        found = ratio_interval(total, n, share=False)
        return found if found is not None and found[0] < found[1] else None
    share = clustered_wilson(right, n)  # two rewards: a share, whose interval stays between them
    return None if share is None else (low + (high - low) * share[0], low + (high - low) * share[1])


def _shaped(tables: LogTables, withheld: Reasons) -> Figures:
    """Mean, mixed share and silent share of the reward that was trained on; they differ from the outcome's where
    rewards were shaped.

    Trainers may log shaped rewards only for the groups they train on. Then silent groups have none, and the others do
    not represent all groups.
    """
    if not tables.log.has("shaped_reward"):
        return {}
    names, totals = ("mean_shaped_reward", "on_shaped_reward"), tables.totals
    if totals.judged > totals.shaped_n:
        missing = f"{totals.judged - totals.shaped_n:,} usable rollouts have no shaped reward"
        withheld |= dict.fromkeys(names, missing)
        return dict.fromkeys(names)
    mean = totals.shaped / totals.shaped_n if totals.shaped_n else None
    if mean is None or why_no_group_shares(tables):
        return {"mean_shaped_reward": mean}
    varies = tables.groups.filter(pl.col("shaped_n") > 1).select(pl.col("shaped_high") > pl.col("shaped_low"))
    mixed = float(varies.to_series().mean() or 0.0) if len(varies) else None  # type: ignore[arg-type]
    silent = None if mixed is None else 1 - mixed
    return {"mean_shaped_reward": mean, "on_shaped_reward": {"mixed_share": mixed, "silent_share": silent}}


def _tokens(tables: LogTables, withheld: Reasons) -> Figures:
    names, totals = ("tokens_generated", "tokens_silent"), tables.totals
    if not tables.log.has("completion_tokens") or totals.without_tokens == totals.rollouts:
        reason = tables.log.why_missing("completion_tokens") or "no rollout has a token count"
        withheld |= dict.fromkeys(names, reason)
        return dict.fromkeys(names)
    figures: Figures = {"tokens_generated": totals.tokens, "tokens_silent": None}
    if totals.without_tokens:
        figures["rollouts_without_tokens"] = totals.without_tokens
    reason = why_no_group_shares(tables)
    if reason and _has_groups(tables) and not tables.log.coverage.survivors_only:
        figures["tokens_silent"] = 0  # groups of one only: none is silent
    elif reason:
        withheld["tokens_silent"] = reason
    else:
        figures["tokens_silent"] = int(tables.shared_by_prompt.get_column("silent_tokens").sum())
    return figures


def _of_rates(tables: LogTables, withheld: Reasons) -> Figures:
    withheld |= dict.fromkeys(("tokens_generated", "tokens_silent"), NO_LENGTHS)
    withheld["silent_other_share"] = "a table of solve rates knows right and wrong only"
    known = tables.rates.filter(pl.col("rate").is_not_null())
    if known.is_empty():
        figures = empty_figures(tables.log)
        withheld |= figures["withheld"]
        return figures
    has_n = known.get_column("n").null_count() == 0
    if not has_n:
        withheld |= dict.fromkeys(("rollouts", "group_sizes", "pass_at_k", "expected_silent_share"), NO_TRIES)
    sizes = known.group_by("n").len().sort("n")
    rate = pl.col("rate")
    kinds = {"right": rate >= 1, "wrong": rate <= 0, "silent": (rate >= 1) | (rate <= 0)}
    kinds["mixed"] = ~kinds["silent"]
    sums = (expr.sum().alias(kind) for kind, expr in kinds.items())
    per = known.group_by("prompt_id").agg(*sums, rate.sum(), pl.len().alias("rows"))
    names = {name: kind for name, kind in SHARE_OF.items() if kind != "other"}
    rows, mean = per.get_column("rows"), per.get_column("rate") / per.get_column("rows")
    return {
        "rollouts": int(known.get_column("n").sum()) if has_n else None,
        "unusable": len(tables.rates) - len(known),
        "prompts": tables.rates.get_column("prompt_id").n_unique(),
        "groups": len(known),
        "group_sizes": {str(n): number for n, number in sizes.iter_rows()} if has_n else None,
        "groups_of_one": 0,
        "groups_in_shares": len(known),
        **{name: int(per.get_column(kind).sum()) / len(known) for name, kind in names.items()},
        "silent_other_share": None,
        "share_intervals": {n: _listed(clustered_wilson(per.get_column(kind), rows)) for n, kind in names.items()},
        "mean_reward": float(mean.sum()) / len(mean),
        "mean_reward_interval": _listed(ratio_interval(mean, [1] * len(mean))),
        "right_means": "the table says how often each prompt was solved",
        "tokens_generated": None,
        "tokens_silent": None,
    }


def _expected(tables: LogTables, withheld: Reasons) -> Figures:
    """Silent share expected by group size; for a rate table the kinds of groups at the training size too."""
    reason = _no_rates(tables)
    if reason:
        return {"expected_silent_share": None} if tables.log.kind == "rates" else {}
    if tables.graded:
        withheld["expected_silent_share"] = GRADED
        return {"expected_silent_share": None}
    found = expected_silent_shares(tables)
    figures: Figures = {
        "expected_silent_share": {str(size): share.share for size, share in found.items()},
        "expected_silent_intervals": {str(size): _listed(share.interval) for size, share in found.items()},
    }
    if tables.log.kind == "rates":
        kinds = expected_kinds(tables, tables.group_size)
        figures["expected_groups"] = {
            "size": tables.group_size,
            **{name: kinds[kind].share for name, kind in SHARE_OF.items() if kind in kinds},
            "intervals": {name: _listed(kinds[kind].interval) for name, kind in SHARE_OF.items() if kind in kinds},
        }
        if not kinds:
            withheld["expected_groups"] = no_visits(tables)
            figures["expected_groups"] = None
    return figures


def _no_rates(tables: LogTables) -> str:
    """Why the right answers and tries of each visit are not known; empty if they are."""
    if tables.log.kind == "rates":
        return "" if tables.rates.get_column("n").null_count() < len(tables.rates) else NO_TRIES
    if not _has_groups(tables):
        return "the log does not show which rollouts belong to one group"
    if tables.log.coverage.survivors_only:
        return "the log holds only groups that survived filtering, whose solve rates are not the run's"
    if not tables.marks.exact and not tables.log.has("correct"):
        return tables.marks.rule + "; which rollouts are right is not known"
    return "" if tables.totals.judged else "no rollout has a usable reward"


def _passes(tables: LogTables, ks: Sequence[int], withheld: Reasons) -> Figures:
    if reason := _no_rates(tables):
        withheld["pass_at_k"] = reason
        return {"pass_at_k": None}
    found = pass_rates(tables, ks)
    return {
        "pass_at_k": {str(k): rate.value for k, rate in found.items()},
        "pass_at_k_intervals": {str(k): _listed(rate.interval) for k, rate in found.items()},
    }


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
